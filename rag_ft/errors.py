"""Errors that the user can fix. The library raises them; only the command line prints them."""


class RagFtError(Exception):
    """One line: what is wrong, where, and the remedy. It ends a command with exit code 1 and
    without a traceback."""


class ConfigError(RagFtError):
    """The configuration is wrong, or does not fit what a run folder already holds."""


class DataError(RagFtError):
    """A file that the stage needs is missing, cannot be read, or has other content than
    expected."""


class NotGoodEnoughError(RagFtError):
    """Something was measured and is worse than what was asked for. It ends a command with exit code
    3."""


def first_line(error: BaseException) -> str:
    """The first line of another library's error message; the error's type where it has none."""
    return next(iter(str(error).splitlines()), type(error).__name__)
