"""One reader per format. A new format is one new file here and one line in FORMATS.

A reader takes the bytes of a file and returns its Content, or raises UnreadableError. The checks
and the tidying that every format needs are in `reading.py`.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import io
import zipfile
from collections.abc import Callable
from functools import lru_cache

from rag_ft.documents.formats.content import MALFORMED_FILE_ERRORS, Content

Reader = Callable[[bytes], Content]
# Other packages offer readers under this name: `.suffix = "package.module:function"`.
ENTRY_POINTS = "rag_ft.readers"


def reader(module: str, function: str = "") -> Reader:
    """Returns a function of a module in this folder, by default `read_<module>`.

    The module is imported at the first call, so that only formats in use load their libraries.
    """

    def read(raw: bytes) -> Content:
        found = importlib.import_module(f"{__name__}.{module}")
        return getattr(found, function or f"read_{module}")(raw)

    return read


# Source code is read as it stands.
_CODE = """
    py pyi js mjs jsx ts tsx java kt scala c h cc cpp hpp cs go rs rb php swift pl lua r jl m sh
    bash ps1 bat sql vue svelte yaml yml toml proto graphql tf dart ex exs erl hs ml clj f90 asm"""
CODE_SUFFIXES = [f".{name}" for name in _CODE.split()]
# Suffix in lower case -> reader.
FORMATS: dict[str, Reader] = {
    ".md": reader("markdown"),
    ".markdown": reader("markdown"),
    ".mdx": reader("markdown", "read_mdx"),
    ".html": reader("html"),
    ".htm": reader("html"),
    ".xhtml": reader("html"),
    ".mht": reader("mail", "read_mht"),
    ".mhtml": reader("mail", "read_mht"),
    ".txt": reader("text"),
    ".text": reader("text"),
    ".pdf": reader("pdf"),
    ".docx": reader("docx"),
    ".docm": reader("docx"),
    ".dotx": reader("docx"),
    ".pptx": reader("pptx"),
    ".pptm": reader("pptx"),
    ".ppsx": reader("pptx"),
    **{s: reader("spreadsheet") for s in (".xlsx", ".xlsm", ".xlsb", ".xls", ".ods")},
    ".csv": reader("csv_table", "read_csv"),
    ".tsv": reader("csv_table", "read_csv"),
    ".epub": reader("epub"),
    ".eml": reader("mail"),
    ".odt": reader("odt"),
    ".rtf": reader("rtf"),
    ".ipynb": reader("notebook"),
    ".rst": reader("rst"),
    ".tex": reader("latex"),
    ".xml": reader("xml_text", "read_xml"),
    ".nxml": reader("xml_text", "read_xml"),
    **{suffix: reader("code") for suffix in CODE_SUFFIXES},
}
_PACKAGES = {
    "word/": ".docx",
    "ppt/": ".pptx",
    "xl/": ".xlsx",
}
_MIME_TYPES = {
    b"application/epub+zip": ".epub",
    b"application/vnd.oasis.opendocument.text": ".odt",
    b"application/vnd.oasis.opendocument.spreadsheet": ".ods",
}


def sniffed(raw: bytes, suffix: str) -> str:
    """Returns the suffix of the format that the content shows; where it shows none, `suffix`."""
    if raw[:1024].lstrip().startswith(b"%PDF-"):
        return ".pdf"
    if raw.startswith(b"{\\rtf"):
        return ".rtf"
    if raw.startswith(b"PK\x03\x04"):
        return _package_suffix(raw) or suffix
    return suffix


def _package_suffix(raw: bytes) -> str:
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            names = archive.namelist()
            mime = archive.read("mimetype")[:80].strip() if "mimetype" in names else b""
    except (zipfile.BadZipFile, NotImplementedError, *MALFORMED_FILE_ERRORS):
        return ""
    if mime in _MIME_TYPES:
        return _MIME_TYPES[mime]
    if "[Content_Types].xml" not in names:
        return ""
    return next(
        (s for name in names for start, s in _PACKAGES.items() if name.startswith(start)), ""
    )


@lru_cache(maxsize=64)
def plugin_reader(suffix: str) -> Reader | None:
    """Returns the reader that an installed package offers for a suffix, if any."""
    found = importlib.metadata.entry_points(group=ENTRY_POINTS, name=suffix)
    return next((entry.load() for entry in found), None)
