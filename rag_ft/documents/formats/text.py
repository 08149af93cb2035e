"""Reads plain text files."""

from __future__ import annotations

import re

from rag_ft.documents.formats.cleaning import tidy, unwrap
from rag_ft.documents.formats.content import Block, BlockKind, Content
from rag_ft.documents.formats.encodings import decode
from rag_ft.documents.formats.text_pages import without_page_breaks

MAX_FIRST_LINE_CHARS = 100
_UNDERLINED = re.compile(r"(?P<said>\S[^\n]{0,99})\n(?P<mark>={3,}|-{3,}|~{3,}|\*{3,})$")
_ITEM = re.compile(
    r"[ \t]*(?:[-*•‣–\u2190-\u21ff\u2460-\u24ff\u25a0-\u27bf]|\d{1,3}[.)]|\(?\w{1,2}[.)])[ \t]"
)


def read_text(raw: bytes) -> Content:
    """Returns the text with wrapped lines joined.

    A short first line that stands alone is the title.

    Raises:
        UnreadableError: "not text".
    """
    return content_of_text(decode(raw))


def content_of_text(text: str) -> Content:
    """Returns the content of plain text that is decoded already; see `read_text`."""
    text = tidy(without_page_breaks(text) if "\f" in text else text)
    first, _, rest = text.partition("\n")
    # Alone: a blank line follows, or a line of marks that underlines it.
    alone = rest[:1] == "\n" or re.match(r"[=\-~*]{3,}\n", rest + "\n") is not None
    sentence = first.endswith((".", ":", "。"))
    is_title = alone and len(first) <= MAX_FIRST_LINE_CHARS and not sentence
    blocks: list[Block] = []
    for number, part in enumerate(re.split(r"\n{2,}", unwrap(text))):
        lines = part.split("\n")
        if (number == 0 and is_title and len(lines) <= 2) or _UNDERLINED.match(part):
            blocks.append(Block("heading", part, 1 if number == 0 else 2))
        else:
            # Items are blocks of their own, so that no chunk begins in the middle of one.
            blocks += paragraphs_and_items(lines)
    return Content(first if is_title else "", blocks)


def paragraphs_and_items(lines: list[str]) -> list[Block]:
    """Returns the lines as blocks: list items with the lines that belong to them, and the rest."""
    blocks: list[Block] = []
    start = 0
    for number in range(1, len(lines) + 1):
        if number == len(lines) or _ITEM.match(lines[number]):
            text = "\n".join(lines[start:number])
            kind: BlockKind = "item" if _ITEM.match(text) else "paragraph"
            blocks.append(Block(kind, text, tight=start > 0))
            start = number
    return blocks
