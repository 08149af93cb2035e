"""Reads source code as it stands."""

from __future__ import annotations

import re

from rag_ft.documents.formats.content import Block, Content
from rag_ft.documents.formats.encodings import decode


def read_code(raw: bytes) -> Content:
    """Returns the parts of a program that blank lines separate before a line without indentation.

    Raises:
        UnreadableError: "not text".
    """
    parts = re.split(r"\n{2,}(?=\S)", decode(raw).replace("\r\n", "\n"))
    return Content("", [Block("code", part.strip("\n")) for part in parts])
