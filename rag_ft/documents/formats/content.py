"""What every reader returns, and the one error that it raises."""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field
from typing import Any, Literal

BlockKind = Literal["heading", "paragraph", "item", "row", "code", "caption", "footnote"]

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
class Block:
    """A heading, paragraph, list item, table row or another part of a document, not tidy yet.

    `level` is 1 to 6 for headings; a row of level 1 is the head of its table. `page` and `page_end`
    count from 1 and are None where the format has no pages. A `tight` block stands on the line
    after the block before it, without a blank line between.
    """

    kind: BlockKind
    text: str
    level: int = 0
    page: int | None = None
    page_end: int | None = None
    tight: bool = False


@dataclass(frozen=True)
class Content:
    """The content of one file: `title` is empty where the file has none. `notes` are (part, reason)
    of parts of the file that could not be read."""

    title: str
    blocks: list[Block]
    metadata: dict[str, Any] = field(default_factory=dict)
    notes: list[tuple[str, str]] = field(default_factory=list)


class UnreadableError(Exception):
    """A file or line gives no document: `reason` is one of a few words to group by, `detail` is
    the rest of the message."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason, self.detail = reason, detail

    def __reduce__(self) -> tuple[type[UnreadableError], tuple[str, str]]:
        return UnreadableError, (self.reason, self.detail)
