"""Reads plain text files."""

from __future__ import annotations

import re

from rag_ft.documents.formats.cleaning import decode, tidy, unwrap
from rag_ft.documents.formats.content import Content

MAX_FIRST_LINE_CHARS = 100


def read_text(raw: bytes) -> Content:
    """Returns the text with wrapped lines joined.

    A short first line that stands alone is the title.

    Raises:
        UnreadableError: "not text".
    """
    text = tidy(decode(raw))
    first, _, rest = text.partition("\n")
    # Alone: a blank line follows, or a line of marks that underlines it.
    alone = rest[:1] == "\n" or re.match(r"[=\-~*]{3,}\n", rest + "\n") is not None
    sentence = first.endswith((".", ":", "。"))
    is_title = alone and len(first) <= MAX_FIRST_LINE_CHARS and not sentence
    return Content(first if is_title else "", unwrap(text))
