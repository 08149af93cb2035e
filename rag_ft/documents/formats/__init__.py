"""One reader per format. A new format is one new file here and one line in FORMATS.

A reader takes the bytes of a file and returns its Content, or raises UnreadableError. The checks
and the tidying that every format needs are in `reading.read_file`.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

from rag_ft.documents.formats.content import Content

Reader = Callable[[bytes], Content]


def reader(format_name: str) -> Reader:
    """Returns the function `read_<format_name>` of the module with that name in this folder.

    The module is imported at the first call, so that only formats in use load their libraries.
    """

    def read(raw: bytes) -> Content:
        module = importlib.import_module(f"{__name__}.{format_name}")
        return getattr(module, f"read_{format_name}")(raw)

    return read


# Suffix in lower case -> reader.
FORMATS: dict[str, Reader] = {
    ".md": reader("markdown"),
    ".markdown": reader("markdown"),
    ".html": reader("html"),
    ".htm": reader("html"),
    ".txt": reader("text"),
    ".text": reader("text"),
    ".pdf": reader("pdf"),
    ".docx": reader("docx"),
}
