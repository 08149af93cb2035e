"""Word files, read with the standard library: a .docx is XML in a zip."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator
from xml.etree import ElementTree

from rag_ft.documents.formats.cleaning import is_program_title
from rag_ft.documents.formats.content import MALFORMED_FILE_ERRORS, Content, UnreadableError

MAX_EXPANSION = 100  # a .docx that unpacks to more is a zip bomb, not a document


def read_docx(raw: bytes) -> Content:
    """Paragraphs and headings as blocks, list items and table rows as lines (cells parted by ` | `).

    Raises:
        UnreadableError: "corrupt", "encrypted", or "too large" when unpacked.
    """
    if raw.startswith(b"\xd0\xcf\x11\xe0"):
        raise UnreadableError(
            "encrypted", "a password-protected or pre-2007 Word file: save it as plain .docx"
        )
    try:
        with zipfile.ZipFile(io.BytesIO(raw)) as archive:
            body = _part(archive, "word/document.xml", len(raw)).find(f"{W}body")
            named = ""
            if "docProps/core.xml" in archive.namelist():
                properties = _part(archive, "docProps/core.xml", len(raw))
                named = properties.findtext("{http://purl.org/dc/elements/1.1/}title") or ""
        blocks = list(_blocks(body)) if body is not None else []  # in here: it may nest too deep
    except (
        zipfile.BadZipFile,
        KeyError,
        ElementTree.ParseError,
        NotImplementedError,
        *MALFORMED_FILE_ERRORS,
    ) as error:
        raise UnreadableError("corrupt", f"Word file: {error}") from error
    headings = [
        text
        for style, text in blocks
        if style.lower().startswith(("title", "heading", "berschrift"))
    ]
    title = next(iter(headings), "") or ("" if is_program_title(named) else named)
    lines = (f"{text}\n" if style in ("row", "list") else f"\n{text}\n\n" for style, text in blocks)
    return Content(title, "".join(lines))


_NAMESPACE = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
_STRICT_NAMESPACE = (
    "http://purl.oclc.org/ooxml/wordprocessingml/main"  # "Strict Open XML Document" when saving
)
W = f"{{{_NAMESPACE}}}"
_MC = "{http://schemas.openxmlformats.org/markup-compatibility/2006}"
# What may stand around paragraphs, tables, rows and cells alike: content controls, custom XML, insertions.
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
# The fallback repeats what stands before it, what was moved away stands where it was moved to.
_LEFT_OUT = frozenset((f"{_MC}Fallback", f"{W}moveFrom", f"{W}pPr"))
_CHARACTERS = {f"{W}tab": "\t", f"{W}br": "\n", f"{W}cr": "\n", f"{W}noBreakHyphen": "-"}


def _part(archive: zipfile.ZipFile, name: str, packed_size: int) -> ElementTree.Element:
    if archive.getinfo(name).file_size > MAX_EXPANSION * packed_size:
        raise UnreadableError(
            "too large", "the Word file unpacks to more than a hundred times its size"
        )
    return ElementTree.fromstring(
        archive.read(name).replace(_STRICT_NAMESPACE.encode(), _NAMESPACE.encode())
    )


def _blocks(parent: ElementTree.Element) -> Iterator[tuple[str, str]]:
    """(style, text) of paragraphs and table rows in document order; empty ones left out."""
    for child in _unwrapped(parent):
        if child.tag == f"{W}p":
            if text := _paragraph(child):
                item = child.find(f"{W}pPr/{W}numPr") is not None
                yield ("list", f"- {text}") if item else (_style(child), text)
        elif child.tag == f"{W}tbl":
            yield from _rows(child)


def _rows(table: ElementTree.Element) -> Iterator[tuple[str, str]]:
    """A table inside a cell comes after the row that holds it."""
    for row in _unwrapped(table, "tr"):
        cells = list(_unwrapped(row, "tc"))
        texts = [" ".join(map(_paragraph, _unwrapped(cell, "p"))).strip() for cell in cells]
        if any(texts):
            yield "row", " | ".join(texts)
        for cell in cells:
            for inner in _unwrapped(cell, "tbl"):
                yield from _rows(inner)


def _unwrapped(parent: ElementTree.Element, name: str = "") -> Iterator[ElementTree.Element]:
    """The children, those in wrappers too; with a name those of that name."""
    for child in parent:
        if child.tag in _WRAPPERS:
            yield from _unwrapped(child, name)
        elif not name or child.tag == f"{W}{name}":
            yield child


def _style(paragraph: ElementTree.Element) -> str:
    style = paragraph.find(f"{W}pPr/{W}pStyle")
    return style.get(f"{W}val", "") if style is not None else ""


def _paragraph(element: ElementTree.Element) -> str:
    return "".join(_runs(element)).strip()


def _runs(element: ElementTree.Element) -> Iterator[str]:
    for child in element:
        if child.tag == f"{W}t":
            yield child.text or ""
        elif child.tag in _CHARACTERS:
            yield _CHARACTERS[child.tag]
        elif child.tag == f"{W}txbxContent":  # a text box: lines of their own
            yield from (f"\n{text}" for _, text in _blocks(child))
            yield "\n"
        elif child.tag not in _LEFT_OUT:
            yield from _runs(child)
