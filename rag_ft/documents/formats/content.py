"""What every reader returns, and the one error it raises."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from typing import Any

# What Python raises when a parser meets a malformed file, besides the parser's own errors.
MALFORMED_FILE_ERRORS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
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
    """The content of one file. `title` is empty where the file has none; `text` is not tidied yet."""

    title: str
    text: str
    metadata: dict[str, Any] = field(default_factory=dict)


class UnreadableError(Exception):
    """A source that gives no document: `reason` is a few words for grouping, `detail` the rest."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail
