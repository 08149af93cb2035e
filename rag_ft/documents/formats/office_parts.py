"""Charts, diagrams, drawings and comments of Word, PowerPoint and Excel files: parts that a page
refers to."""

from __future__ import annotations

import re
from collections.abc import Iterator
from xml.etree import ElementTree

from rag_ft.documents.formats.alt_text import alt_text
from rag_ft.documents.formats.content import Block
from rag_ft.documents.formats.package import PACKAGE_ERRORS, Package
from rag_ft.documents.formats.tables import cell_text, table_blocks

MC = "{http://schemas.openxmlformats.org/markup-compatibility/2006}"
R = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}"
C = "{http://schemas.openxmlformats.org/drawingml/2006/chart}"
_XDR = "{http://schemas.openxmlformats.org/drawingml/2006/spreadsheetDrawing}"
DGM = "{http://schemas.openxmlformats.org/drawingml/2006/diagram}"
A = "{http://schemas.openxmlformats.org/drawingml/2006/main}"
# A chart whose caches say that they are longer is cut here.
MAX_POINTS = 10_000
_COMMENTS = ("comment", "threadedComment", "cm", "reply")


def chart_blocks(tree: ElementTree.Element) -> Iterator[Block]:
    """Yields the title of a DrawingML chart as a caption, and the numbers that it shows as a table
    with a row for each category."""
    title = tree.find(f"{C}chart/{C}title")
    named = "" if title is None else " ".join("".join(t.itertext()) for t in title.iter(f"{A}p"))
    categories: dict[int, str] = {}
    columns: list[tuple[str, dict[int, str]]] = []
    for series in tree.iter(f"{C}ser"):
        name = " ".join(_points(series, "tx").values())
        categories |= _points(series, "cat") or _points(series, "xVal")
        columns.append((name, _points(series, "val") or _points(series, "yVal")))
    rows = [["", *(name for name, _ in columns)]]
    for index in sorted(categories | {i: "" for _, values in columns for i in values}):
        rows.append([categories.get(index, ""), *(values.get(index, "") for _, values in columns)])
    yield from table_blocks(rows, " ".join(named.split()))


def _points(series: ElementTree.Element, name: str) -> dict[int, str]:
    """Number of a point -> what the file says that it shows."""
    held = series.find(f"{C}{name}")
    found: dict[int, str] = {}
    for point in held.iter(f"{C}pt") if held is not None else ():
        index, value = point.get("idx", ""), point.findtext(f"{C}v", "")
        if index.isdecimal() and int(index) < MAX_POINTS:
            found[int(index)] = _number(value)
    return found


def _number(value: str) -> str:
    """`4.3` for 4.2999999999999998, as the program shows it."""
    try:
        return cell_text(float(value))
    except (ValueError, OverflowError):
        return value


def part_blocks(package: Package, part: str, *kinds: str) -> Iterator[Block]:
    """Yields the charts and comments among the parts that `part` refers to, also through a drawing;
    `kinds` are those wanted: "drawing" (its text boxes and pictures), "chart", "diagramData",
    "comments", "threadedComment". A damaged one is left out."""
    for kind, name in package.relations(part).values():
        try:
            if kind in kinds and (tree := package.xml(name)) is not None:
                yield from _blocks_of(kind, tree, package)
            if kind == "drawing":
                yield from part_blocks(package, name, *kinds)
        except PACKAGE_ERRORS:
            continue


def _blocks_of(kind: str, tree: ElementTree.Element, package: Package) -> Iterator[Block]:
    if kind == "drawing":
        return _drawing(tree)
    if kind == "chart":
        return chart_blocks(tree)
    return diagram_blocks(tree) if kind == "diagramData" else _comments(tree, package)


def diagram_blocks(tree: ElementTree.Element) -> Iterator[Block]:
    """Yields the texts of a SmartArt diagram as items, in the order of its data."""
    is_first = True
    for point in tree.iter(f"{DGM}pt"):
        text = point.find(f"{DGM}t")
        for paragraph in text.iter(f"{A}p") if text is not None else ():
            if said := _said(paragraph):
                yield Block("item", f"- {said}", tight=not is_first)
                is_first = False


def _drawing(tree: ElementTree.Element) -> Iterator[Block]:
    """Yields the text boxes of a sheet, and what is said in words about its pictures."""
    for shape in tree.iter():
        if shape.tag == f"{_XDR}sp":
            said = [text for p in shape.iter(f"{A}p") if (text := _said(p))]
            yield Block("paragraph", "\n".join(said))
        elif shape.tag == f"{_XDR}pic":
            named = shape.find(f"{_XDR}nvPicPr/{_XDR}cNvPr")
            yield Block("caption", alt_text(None if named is None else named.get("descr")))


def _said(element: ElementTree.Element) -> str:
    return " ".join("".join(element.itertext()).split())


def said_by(author: str, when: str) -> str:
    """Returns who wrote a comment and on which day: `Jane Smith, 2026-06-18`."""
    return ", ".join(filter(None, (" ".join(author.split()), when[:10])))


def _people(package: Package) -> dict[str, str]:
    """Id -> name of those who wrote comments; the parts that hold them belong to the whole file."""
    found: dict[str, str] = {}
    for name in package.names():
        if re.search(r"(?:authors|persons/[^/]*)\.xml$", name, re.IGNORECASE):
            tree = package.xml(name)
            for person in tree if tree is not None else ():
                found[person.get("id", "")] = person.get("name") or person.get("displayName") or ""
    return found


def _comments(tree: ElementTree.Element, package: Package) -> Iterator[Block]:
    """Yields each comment and reply as a footnote, after the cell that it is about and who wrote
    it."""
    people = _people(package)
    authors = [node.text or "" for node in tree.iter() if _local(node) == "author"]
    # Excel repeats threaded comments among the plain ones, with advice to update; it marks them so.
    repeated = {str(n) for n, author in enumerate(authors) if author.startswith("tc=")}
    for node in tree.iter():
        if _local(node) not in _COMMENTS or node.get("authorId") in repeated:
            continue
        own = [part for part in node if _local(part) in ("text", "txBody")] or [node]
        said = " ".join(_said(p) for part in own for p in [*part.iter(f"{A}p")] or [part]).strip()
        number = node.get("authorId", "")
        # Excel counts the authors of a part; the others have ids of their own.
        is_counted = bool(authors) and number.isdecimal() and int(number) < len(authors)
        author = authors[int(number)] if is_counted else people.get(number, "")
        author = author or people.get(node.get("personId", ""), "")
        when = node.get("dt") or node.get("created") or node.get("dT") or ""
        # Excel writes the author's name before the first words.
        by = said_by("" if said.startswith(author) else author, when)
        cell = node.get("ref", "")
        before = f"{cell} ({by})" if cell and by else cell or by
        if said:
            yield Block("footnote", f"{before}: {said}" if before else said)


def _local(node: ElementTree.Element) -> str:
    return node.tag.rpartition("}")[2]
