"""Reads OpenDocument texts with the standard library."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree import ElementTree

from rag_ft.documents.formats.alt_text import alt_text
from rag_ft.documents.formats.content import Block, Content, UnreadableError
from rag_ft.documents.formats.office_parts import said_by
from rag_ft.documents.formats.package import DC, PACKAGE_ERRORS, Package
from rag_ft.documents.formats.scripts import END, SUB, SUP, plain_scripts

_T = "{urn:oasis:names:tc:opendocument:xmlns:text:1.0}"
_TABLE = "{urn:oasis:names:tc:opendocument:xmlns:table:1.0}"
_OFFICE = "{urn:oasis:names:tc:opendocument:xmlns:office:1.0}"
_DRAW = "{urn:oasis:names:tc:opendocument:xmlns:drawing:1.0}"
_CHART = "{urn:oasis:names:tc:opendocument:xmlns:chart:1.0}"
_XLINK = "{http://www.w3.org/1999/xlink}"
_MANIFEST = "{urn:oasis:names:tc:opendocument:xmlns:manifest:1.0}"
_SVG = "{urn:oasis:names:tc:opendocument:xmlns:svg-compatible:1.0}"
_NS_STYLE = "{urn:oasis:names:tc:opendocument:xmlns:style:1.0}"
_STYLE = f"{_NS_STYLE}style"
_CHARACTERS = {f"{_T}tab": "\t", f"{_T}line-break": "\n"}
_ANNOTATION = f"{_OFFICE}annotation"
_PICTURE_TEXTS = (f"{_SVG}title", f"{_SVG}desc")
_LEFT_OUT = frozenset(
    (f"{_T}tracked-changes", _ANNOTATION, f"{_T}note-citation", f"{_T}table-of-content")
)
MAX_REPEATED = 1000


def read_odt(raw: bytes) -> Content:
    """Returns headings, paragraphs, list items, table rows, footnotes, comments and the numbers of
    charts.

    The title is that of the file's properties, else the first heading.

    Raises:
        UnreadableError: "corrupt", "encrypted", or "too large" when unpacked.
    """
    with Package(raw, "OpenDocument text") as package:
        manifest = package.xml("META-INF/manifest.xml")
        if manifest is not None and manifest.find(f".//{_MANIFEST}encryption-data") is not None:
            raise UnreadableError("encrypted", "password required; save it without one")
        tree = package.xml("content.xml")
        if tree is None:
            raise UnreadableError("corrupt", "OpenDocument text: it has no content.xml")
        _mark_raised(tree, package.xml("styles.xml"))
        body = tree.find(f"{_OFFICE}body/{_OFFICE}text")
        blocks = list(_blocks(body, 0, package)) if body is not None else []
        meta = package.xml("meta.xml")
    title = (None if meta is None else meta.findtext(f".//{DC}title")) or ""
    heading = next((block.text for block in blocks if block.kind == "heading"), "")
    return Content(title or heading, blocks)


def _blocks(parent: ElementTree.Element, depth: int, package: Package) -> Iterator[Block]:
    for child in parent:
        if child.tag == f"{_T}h":
            level = child.get(f"{_T}outline-level", "1")
            yield Block("heading", _text(child), min(int(level), 6) if level.isdecimal() else 1)
            yield from _footnotes(child)
        elif child.tag == f"{_T}p":
            yield Block("paragraph", _text(child))
            yield from _charts(child, package)
            yield from _footnotes(child)
        elif child.tag == f"{_T}list":
            yield from _items(child, depth, package)
        elif child.tag == f"{_TABLE}table":
            yield from _rows(child)
        elif child.tag not in _LEFT_OUT:
            yield from _blocks(child, depth, package)


def _items(parent: ElementTree.Element, depth: int, package: Package) -> Iterator[Block]:
    is_first = True
    for item in parent.iterfind(f"{_T}list-item"):
        for number, block in enumerate(_blocks(item, depth + 1, package)):
            if number == 0 and block.kind == "paragraph":
                yield Block(
                    "item", "  " * depth + "- " + block.text, tight=depth > 0 or not is_first
                )
                is_first = False
            else:
                yield block


def _charts(paragraph: ElementTree.Element, package: Package) -> Iterator[Block]:
    """Yields the titles and the numbers of the charts in a paragraph; a damaged one is left out."""
    for embedded in paragraph.iter(f"{_DRAW}object"):
        folder = embedded.get(f"{_XLINK}href", "").removeprefix("./").rstrip("/")
        try:
            tree = package.xml(f"{folder}/content.xml")
        except (UnreadableError, *PACKAGE_ERRORS):
            continue
        chart = None if tree is None else tree.find(f"{_OFFICE}body/{_OFFICE}chart/{_CHART}chart")
        if chart is None:
            continue
        titles = [
            _text(p)
            for part in ("title", "subtitle")
            for p in chart.iterfind(f"{_CHART}{part}/{_T}p")
        ]
        if said := " ".join(filter(None, titles)):
            yield Block("caption", said)
        for table in chart.iterfind(f"{_TABLE}table"):
            yield from _rows(table)


def _rows(table: ElementTree.Element) -> Iterator[Block]:
    """Yields the rows of a table, each in one line; the cells of a head row are marked. A cell that
    is merged with those below is repeated in their rows."""
    # column -> (text, number of rows that it still fills)
    spanning: dict[int, tuple[str, int]] = {}
    heads = {id(row) for head in table.iter(f"{_TABLE}table-header-rows") for row in head}
    is_first = True
    for row in table.iter(f"{_TABLE}table-row"):
        cells: list[str] = []
        for cell in row:
            if cell.tag not in (f"{_TABLE}table-cell", f"{_TABLE}covered-table-cell"):
                continue
            texts = (_text(p) for p in cell.iter() if p.tag in (f"{_T}p", f"{_T}h"))
            repeated = cell.get(f"{_TABLE}number-columns-repeated", "1")
            number = min(int(repeated), MAX_REPEATED) if repeated.isdecimal() else 1
            text = " ".join(" ".join(texts).split())
            rows = cell.get(f"{_TABLE}number-rows-spanned", "1")
            if rows.isdecimal() and int(rows) > 1:
                spanning[len(cells)] = (text, int(rows) - 1)
            for _ in range(number):
                column = len(cells)
                above, left = spanning.get(column, ("", 0))
                is_covered = cell.tag == f"{_TABLE}covered-table-cell" and left > 0
                if is_covered:
                    spanning[column] = (above, left - 1)
                cells.append(above if is_covered else text)
        while cells and not cells[-1]:
            cells.pop()
        if cells:
            yield Block("row", " | ".join(cells), int(id(row) in heads), tight=not is_first)
            is_first = False


def _text(element: ElementTree.Element) -> str:
    return plain_scripts("".join(_pieces(element))).strip()


def _mark_raised(tree: ElementTree.Element, *styles: ElementTree.Element | None) -> None:
    """Puts marks around the text of spans whose style raises or lowers it."""
    marks: dict[str, str] = {}
    for style in (s for part in (tree, *styles) if part is not None for s in part.iter(_STYLE)):
        properties = style.find(f"{_NS_STYLE}text-properties")
        how = "" if properties is None else properties.get(f"{_NS_STYLE}text-position", "")
        # "super 58%", or how much of the line's height: "33% 58%", "-8% 58%".
        if how and how[0] != "0":
            mark = SUB if how.startswith(("sub", "-")) else SUP
            marks[style.get(f"{_NS_STYLE}name", "")] = mark
    for span in tree.iter(f"{_T}span") if marks else ():
        if mark := marks.get(span.get(f"{_T}style-name", ""), ""):
            span.text = mark + (span.text or "")
            if len(span):
                span[-1].tail = (span[-1].tail or "") + END
            else:
                span.text = f"{span.text}{END}"


def _pieces(element: ElementTree.Element) -> Iterator[str]:
    yield element.text or ""
    for child in element:
        if child.tag == f"{_T}s":
            count = child.get(f"{_T}c", "1")
            yield " " * (min(int(count), 100) if count.isdecimal() else 1)
        elif child.tag == f"{_T}note":
            yield f" [{_citation(child)}]"
        elif child.tag == f"{_T}ruby-text":
            yield f"({child.text or ''})"
        elif child.tag in _CHARACTERS:
            yield _CHARACTERS[child.tag]
        elif child.tag in _PICTURE_TEXTS:
            said = alt_text(child.text)
            yield f" {said} " if said else ""
        elif child.tag not in _LEFT_OUT:
            yield from _pieces(child)
        yield child.tail or ""


def _citation(note: ElementTree.Element) -> str:
    return note.findtext(f"{_T}note-citation") or "*"


def _footnotes(element: ElementTree.Element) -> Iterator[Block]:
    for note in element.iter(f"{_T}note"):
        body = note.find(f"{_T}note-body")
        if body is not None:
            text = " ".join(_text(p) for p in body.iter(f"{_T}p"))
            yield Block("footnote", f"[{_citation(note)}] {text}")
    for comment in element.iter(_ANNOTATION):
        by = said_by(comment.findtext(f"{DC}creator", ""), comment.findtext(f"{DC}date", ""))
        text = " ".join(_text(p) for p in comment.iter(f"{_T}p")).strip()
        if text:
            yield Block("footnote", f"{by}: {text}" if by else text)
