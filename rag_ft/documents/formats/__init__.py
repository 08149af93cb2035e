"""One reader per format. A new format is a file here and a line in FORMATS."""

from __future__ import annotations

from collections.abc import Callable

from rag_ft.documents.formats.content import Content
from rag_ft.documents.formats.docx import read_docx
from rag_ft.documents.formats.html import read_html
from rag_ft.documents.formats.markdown import read_markdown
from rag_ft.documents.formats.pdf import read_pdf
from rag_ft.documents.formats.text import read_text

FORMATS: dict[str, Callable[[bytes], Content]] = {
    ".md": read_markdown,
    ".markdown": read_markdown,
    ".html": read_html,
    ".htm": read_html,
    ".txt": read_text,
    ".text": read_text,
    ".pdf": read_pdf,
    ".docx": read_docx,
}
