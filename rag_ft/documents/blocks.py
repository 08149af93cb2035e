"""Joins the blocks of a document to its text, so that every block knows its place in it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import NamedTuple

from rag_ft.documents.formats.cleaning import tidy
from rag_ft.documents.formats.content import Block, BlockKind

# A heading of Markdown in a text whose positions are promised.
_MARKDOWN_HEADING = re.compile(r"^[ ]{0,3}(#{1,6})[ \t]+(\S[^\n]*)$", re.MULTILINE)


class PlacedBlock(NamedTuple):
    """A block that is `text[start:end]` of its document; the other fields are those of Block."""

    kind: BlockKind
    start: int
    end: int
    level: int = 0
    page: int | None = None
    page_end: int | None = None


def join_blocks(blocks: Iterable[Block]) -> tuple[str, list[PlacedBlock]]:
    """Returns the text of a document and its blocks, tidy, without empty ones.

    A blank line stands between two blocks, and none before a tight one.
    """
    parts: list[str] = []
    placed: list[PlacedBlock] = []
    length = 0
    for block in blocks:
        text = tidy(block.text, keep_indent=block.kind in ("code", "item"))
        if not text.strip():
            continue
        if parts:
            gap = "\n" if block.tight else "\n\n"
            parts.append(gap)
            length += len(gap)
        else:
            text = text.lstrip() if block.kind != "code" else text
        parts.append(text)
        end = length + len(text)
        last = block.page if block.page_end is None else block.page_end
        placed.append(PlacedBlock(block.kind, length, end, block.level, block.page, last))
        length = end
    return "".join(parts), placed


def blocks_of_text(text: str) -> list[PlacedBlock]:
    """Returns the headings of a text that came without blocks, and what stands between them.

    Headings are those of Markdown (`## Opening hours`). A text without any is one paragraph.
    """
    placed: list[PlacedBlock] = []
    start = 0
    for match in _MARKDOWN_HEADING.finditer(text):
        if text[start : match.start()].strip():
            placed.append(PlacedBlock("paragraph", start, match.start()))
        placed.append(PlacedBlock("heading", match.start(), match.end(), len(match[1])))
        start = match.end()
    if text[start:].strip():
        placed.append(PlacedBlock("paragraph", start, len(text)))
    return placed
