"""Tables of HTML: which hold facts, and their rows in one line each."""

from __future__ import annotations

from typing import Any

from rag_ft.documents.formats.content import Block
from rag_ft.documents.formats.html_inline import (
    BLOCKS,
    HEADINGS,
    INLINE,
    clean,
    left_out,
    picture_text,
    raised,
)
from rag_ft.documents.formats.html_lists import OrderedList
from rag_ft.documents.formats.mathml import formula_of

_LAYOUT = frozenset(("table", *HEADINGS))
# A table with headings in its cells is one of facts where no cell is longer.
MAX_FACT_CHARS = 200
# A rowspan that a page claims repeats its cell in at most this many rows.
MAX_ROWSPAN = 1000


def layout_tables(root: Any) -> set[int]:
    """Returns the elements that hold a table or a heading, each looked at once: such a table lays
    out the page and is no table of facts, unless it has several short cells in each row."""
    holders: set[int] = set()
    facts: dict[int, bool] = {}
    for found in root.css(", ".join(_LAYOUT)):
        parent = found.parent
        if found.tag in HEADINGS:
            table = parent
            while table is not None and table.tag != "table":
                table = table.parent
            if table is not None and _known(facts, table):
                continue
        while parent is not None and parent.mem_id not in holders:
            holders.add(parent.mem_id)
            parent = parent.parent
    return holders


def _known(facts: dict[int, bool], table: Any) -> bool:
    if table.mem_id not in facts:
        facts[table.mem_id] = _has_facts(table)
    return facts[table.mem_id]


def _has_facts(table: Any) -> bool:
    parts = [part for part in table.iter() if part.tag in ("thead", "tbody", "tfoot")]
    rows = [row for part in (table, *parts) for row in part.iter() if row.tag == "tr"]
    for row in rows:
        cells = [cell for cell in row.iter() if cell.tag in ("td", "th")]
        # A table inside a cell is looked at first: the text of nested tables is long.
        if len(cells) < 2 or any(cell.css_first("table") is not None for cell in cells):
            return False
        if any(len(cell.text()) > MAX_FACT_CHARS for cell in cells):
            return False
    return len(rows) > 1


def rows_of(table: Any) -> list[Block]:
    """Returns the caption and the rows of a table of facts, each in one line.

    A cell that spans rows is repeated in each of them.
    """
    blocks: list[Block] = []
    # column -> (text, number of rows that it still fills)
    spanning: dict[int, tuple[str, int]] = {}
    for node in table.css("caption, tr"):
        if node.tag == "caption":
            blocks.append(Block("caption", _cell_text(node)))
            continue
        cells: list[str] = []
        found = [child for child in node.iter() if child.tag in ("td", "th")]
        for cell in found:
            while (above := spanning.get(len(cells), ("", 0)))[1] > 0:
                spanning[len(cells)] = (above[0], above[1] - 1)
                cells.append(above[0])
            rows = (cell.attributes.get("rowspan") or "").strip()
            text = _cell_text(cell)
            if rows.isdecimal() and len(rows) < 6 and int(rows) > 1:
                spanning[len(cells)] = (text, min(int(rows), MAX_ROWSPAN) - 1)
            cells.append(text)
        while (above := spanning.get(len(cells), ("", 0)))[1] > 0:
            spanning[len(cells)] = (above[0], above[1] - 1)
            cells.append(above[0])
        if any(cells):
            is_head = bool(found) and all(cell.tag == "th" for cell in found)
            first = not any(block.kind == "row" for block in blocks)
            blocks.append(Block("row", " | ".join(cells), int(is_head and first), tight=not first))
    return blocks


def _cell_text(cell: Any) -> str:
    """Returns a cell in one line: `;` between list items, blanks for every other break."""
    pieces: list[str] = []
    lists: dict[int, OrderedList] = {}
    stack: list[Any] = list(reversed(list(cell.iter(include_text=True))))
    while stack:
        node = stack.pop()
        if isinstance(node, str):
            pieces.append(node)
            continue
        name = node.tag or "-"
        if name == "-text":
            pieces.append(node.text_content or "")
        elif (formula := formula_of(node)) is not None:
            pieces.append(formula)
        elif name == "img" and not left_out(node):
            pieces.append(picture_text(node))
        elif not left_out(node):
            name = raised(node) or name
            before, after = INLINE.get(name, (" ", " ") if name in BLOCKS else ("", ""))
            if name == "li" and any(not piece.isspace() for piece in pieces):
                before = "; "
            if name == "li" and node.parent.tag == "ol":
                if node.parent.mem_id not in lists:
                    lists[node.parent.mem_id] = OrderedList(node.parent)
                before += lists[node.parent.mem_id].marker(node)
            pieces.append(before)
            stack.append(after)
            stack += reversed(list(node.iter(include_text=True)))
    return " ".join(clean("".join(pieces)).replace(" ; ", "; ").split())
