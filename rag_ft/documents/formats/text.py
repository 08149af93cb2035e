"""Plain text files."""

from __future__ import annotations

import re

from rag_ft.documents.formats.cleaning import decode, tidy, unwrap
from rag_ft.documents.formats.content import Content


def read_text(raw: bytes) -> Content:
    """Plain text. A short first line that stands alone is the title."""
    text = tidy(decode(raw))
    first, _, rest = text.partition("\n")
    alone = rest[:1] == "\n" or re.match(r"[=\-~*]{3,}\n", rest + "\n") is not None
    return Content(
        first if alone and len(first) <= 100 and not first.endswith((".", ":", "。")) else "",
        unwrap(text),
    )
