"""The record that every reader returns, and the one error that it raises."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from typing import Any

# A parser raises these for a malformed file, besides its own errors.
MALFORMED_FILE_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    EOFError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
    MemoryError,
    zlib.error,
    struct.error,
)


@dataclass(frozen=True)
class Content:
    """The content of one file: `title` is empty where the file has none, `text` is not tidy yet."""

    title: str
    text: str
    metadata: dict[str, Any] = field(default_factory=dict)


class UnreadableError(Exception):
    """A file or line gives no document: `reason` is one of a few words to group by, `detail` is
    the rest of the message."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail
