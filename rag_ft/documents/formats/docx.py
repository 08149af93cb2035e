"""Reads Word files with the standard library: a .docx is XML in a zip."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from xml.etree import ElementTree

from rag_ft.documents.formats.cleaning import is_program_title
from rag_ft.documents.formats.content import MALFORMED_FILE_ERRORS, Content, UnreadableError

# A part that unpacks to more than this multiple of the file is a zip bomb.
MAX_EXPANSION = 100

_NAMESPACE = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
# Word uses this one for files saved as "Strict Open XML Document".
_STRICT_NAMESPACE = "http://purl.oclc.org/ooxml/wordprocessingml/main"
W = f"{{{_NAMESPACE}}}"
_MC = "{http://schemas.openxmlformats.org/markup-compatibility/2006}"
# These stand around paragraphs, tables, rows or cells: content controls, custom XML, insertions.
_WRAPPERS = frozenset(
    (
        f"{W}sdt",
        f"{W}sdtContent",
        f"{W}customXml",
        f"{W}ins",
        f"{W}moveTo",
        f"{_MC}AlternateContent",
        f"{_MC}Choice",
    )
)
# The fallback repeats the choice before it, and moved text stands at its new place.
_LEFT_OUT = frozenset((f"{_MC}Fallback", f"{W}moveFrom", f"{W}pPr"))
_CHARACTERS = {f"{W}tab": "\t", f"{W}br": "\n", f"{W}cr": "\n", f"{W}noBreakHyphen": "-"}


def read_docx(raw: bytes) -> Content:
    """Returns paragraphs and headings as blocks, list items and table rows as lines.

    Cells are separated by ` | `. The title is the first heading, else that of the file's
    properties.

    Raises:
        UnreadableError: "corrupt", "encrypted", or "too large" when unpacked.
    """
    # The signature of OLE files: Word 97-2003, and what a password encrypts.
    if raw.startswith(b"\xd0\xcf\x11\xe0"):
        raise UnreadableError(
            "encrypted", "password-protected or older than Word 2007; save it as plain .docx"
        )
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            body = _part(archive, "word/document.xml", len(raw)).find(f"{W}body")
            title = ""
            if "docProps/core.xml" in archive.namelist():
                properties = _part(archive, "docProps/core.xml", len(raw))
                title = properties.findtext("{http://purl.org/dc/elements/1.1/}title") or ""
        # This stands inside the try, because elements may nest too deep for recursion.
        blocks = list(_blocks(body)) if body is not None else []
    except (
        zipfile.BadZipFile,
        KeyError,
        ElementTree.ParseError,
        NotImplementedError,
        *MALFORMED_FILE_ERRORS,
    ) as error:
        raise UnreadableError("corrupt", f"Word file: {error}") from error
    if is_program_title(title):
        title = ""
    # The style of a heading has its English or German name ("berschrift1" in German files).
    for style, text in blocks:
        if style.lower().startswith(("title", "heading", "berschrift")):
            title = text
            break
    lines = (f"{text}\n" if style in ("row", "list") else f"\n{text}\n\n" for style, text in blocks)
    return Content(title, "".join(lines))


def _part(archive: zipfile.ZipFile, name: str, packed_size: int) -> ElementTree.Element:
    """Parses one XML file of the archive."""
    if archive.getinfo(name).file_size > MAX_EXPANSION * packed_size:
        raise UnreadableError(
            "too large", f"the Word file unpacks to more than {MAX_EXPANSION} times its size"
        )
    xml = archive.read(name).replace(_STRICT_NAMESPACE.encode(), _NAMESPACE.encode())
    return ElementTree.fromstring(xml)


def _blocks(parent: ElementTree.Element) -> Iterator[tuple[str, str]]:
    """Yields (style, text) of paragraphs and table rows that have text, in document order."""
    for child in _unwrapped(parent):
        if child.tag == f"{W}p":
            text = _paragraph(child)
            style = child.find(f"{W}pPr/{W}pStyle")
            if text and child.find(f"{W}pPr/{W}numPr") is not None:
                yield "list", f"- {text}"
            elif text:
                yield style.get(f"{W}val", "") if style is not None else "", text
        elif child.tag == f"{W}tbl":
            yield from _rows(child)


def _rows(table: ElementTree.Element) -> Iterator[tuple[str, str]]:
    """Yields ("row", cells) of a table; a table inside a cell follows the row that holds it."""
    for row in _unwrapped(table, "tr"):
        cells = list(_unwrapped(row, "tc"))
        texts = [" ".join(map(_paragraph, _unwrapped(cell, "p"))).strip() for cell in cells]
        if any(texts):
            yield "row", " | ".join(texts)
        for cell in cells:
            for inner in _unwrapped(cell, "tbl"):
                yield from _rows(inner)


def _unwrapped(parent: ElementTree.Element, name: str = "") -> Iterator[ElementTree.Element]:
    """Yields the children, also those in wrappers; with a name only those of that name."""
    for child in parent:
        if child.tag in _WRAPPERS:
            yield from _unwrapped(child, name)
        elif not name or child.tag == f"{W}{name}":
            yield child


def _paragraph(element: ElementTree.Element) -> str:
    return "".join(_runs(element)).strip()


def _runs(element: ElementTree.Element) -> Iterator[str]:
    """Yields the texts of a paragraph and the characters that elements stand for."""
    for child in element:
        if child.tag == f"{W}t":
            yield child.text or ""
        elif child.tag in _CHARACTERS:
            yield _CHARACTERS[child.tag]
        elif child.tag == f"{W}txbxContent":
            # The paragraphs of a text box get lines of their own.
            yield from (f"\n{text}" for _, text in _blocks(child))
            yield "\n"
        elif child.tag not in _LEFT_OUT:
            yield from _runs(child)
