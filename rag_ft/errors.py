"""What the user can fix. The library raises; only the command line prints."""


class RagFtError(Exception):
    """One line: what is wrong, where, and the remedy. Ends a command with exit code 1 and no traceback."""


class ConfigError(RagFtError):
    """The configuration is wrong, or does not fit what a run folder already holds."""


class DataError(RagFtError):
    """A file the stage needs is missing, unreadable, or not what its name promises."""


def first_line(error: BaseException) -> str:
    """The first line of another library's message, for one of ours; its type where it says nothing."""
    return next(iter(str(error).splitlines()), type(error).__name__)
