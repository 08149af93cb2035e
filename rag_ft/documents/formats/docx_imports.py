"""The parts of Word files that were imported from other files."""

from __future__ import annotations

import posixpath

from rag_ft.documents.formats.content import Block, UnreadableError

# The types of imported parts whose suffix may be any.
_IMPORTED = {
    "text/html": ".html",
    "application/xhtml+xml": ".html",
    "message/rfc822": ".mht",
    "multipart/related": ".mht",
    "text/plain": ".txt",
    "application/rtf": ".rtf",
    "text/rtf": ".rtf",
}
_WORD = (
    "application/vnd.openxmlformats-officedocument.wordprocessingml",
    "application/vnd.ms-word",
)
WORD_SUFFIXES = (".docx", ".docm", ".dotx")
# Word files inside a Word file are read to this depth.
MAX_IMPORTS = 3


def suffix_of(name: str, content_type: str) -> str:
    """Returns the suffix of an imported part, by its type, else by its name."""
    if content_type.startswith(_WORD):
        return ".docx"
    return _IMPORTED.get(content_type) or posixpath.splitext(name)[1].lower()


def read_part(raw: bytes, suffix: str) -> list[Block]:
    """Returns the blocks of an imported part that is no Word file."""
    from rag_ft.documents.formats.html import read_html
    from rag_ft.documents.formats.mail import html_of_mht
    from rag_ft.documents.formats.rtf import read_rtf
    from rag_ft.documents.formats.text import read_text

    if suffix in (".mht", ".mhtml"):
        return read_html(html_of_mht(raw)).blocks
    if suffix in (".htm", ".html", ".xhtml", ".xht"):
        return read_html(raw).blocks
    if suffix in (".txt", ".text"):
        return read_text(raw).blocks
    if suffix == ".rtf":
        return read_rtf(raw).blocks
    raise UnreadableError("unknown type", suffix)
