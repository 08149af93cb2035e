"""Charts and comments of Word, PowerPoint and Excel files: parts that a page refers to."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree import ElementTree

from rag_ft.documents.formats.content import Block
from rag_ft.documents.formats.package import PACKAGE_ERRORS, Package
from rag_ft.documents.formats.tables import cell_text, table_blocks

C = "{http://schemas.openxmlformats.org/drawingml/2006/chart}"
_A = "{http://schemas.openxmlformats.org/drawingml/2006/main}"
# A chart whose caches say that they are longer is cut here.
MAX_POINTS = 10_000
_COMMENTS = ("comment", "threadedComment", "cm", "reply")


def chart_blocks(tree: ElementTree.Element) -> Iterator[Block]:
    """Yields the title of a DrawingML chart as a caption, and the numbers that it shows as a table
    with a row for each category."""
    title = tree.find(f"{C}chart/{C}title")
    named = "" if title is None else " ".join("".join(t.itertext()) for t in title.iter(f"{_A}p"))
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
    `kinds` are those wanted: "chart", "comments", "threadedComment". A damaged one is left out."""
    for kind, name in package.relations(part).values():
        try:
            if kind == "drawing":
                yield from part_blocks(package, name, *kinds)
            elif kind in kinds and (tree := package.xml(name)) is not None:
                yield from chart_blocks(tree) if kind == "chart" else _comments(tree)
        except PACKAGE_ERRORS:
            continue


def _comments(tree: ElementTree.Element) -> Iterator[Block]:
    """Yields each comment and reply as a footnote, after the cell that it is about."""
    authors = [node.text or "" for node in tree.iter() if _local(node) == "author"]
    # Excel repeats threaded comments among the plain ones, with advice to update; it marks them so.
    repeated = {str(n) for n, author in enumerate(authors) if author.startswith("tc=")}
    for node in tree.iter():
        if _local(node) not in _COMMENTS or node.get("authorId") in repeated:
            continue
        own = [part for part in node if _local(part) in ("text", "txBody")] or [node]
        said = " ".join(" ".join("".join(part.itertext()) for part in own).split())
        cell = node.get("ref", "")
        if said:
            yield Block("footnote", f"{cell}: {said}" if cell else said)


def _local(node: ElementTree.Element) -> str:
    return node.tag.rpartition("}")[2]
