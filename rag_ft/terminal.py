"""Everything that is shown on a terminal goes through here.

No text of a document, a server or a file name acts on the terminal, and no secret is shown.
"""

from __future__ import annotations

import logging
import sys

from rag_ft.text import for_terminal


def say(text: str) -> None:
    """Prints to stdout."""
    print(for_terminal(text))


def note(text: str) -> None:
    """Prints to stderr, beside the results."""
    print(for_terminal(text), file=sys.stderr)


class SafeFormatter(logging.Formatter):
    """A formatter of log lines whose texts are safe to show."""

    def format(self, record: logging.LogRecord) -> str:
        """Called by logging for each record."""
        return for_terminal(super().format(record))
