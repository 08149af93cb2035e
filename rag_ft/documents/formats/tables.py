"""Tables of data, from spreadsheets and CSV files, as rows that can be read alone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import date, datetime, time
from typing import Any

from rag_ft.documents.formats.content import Block

# A table with more rows is split across chunks, so each of its rows names its columns.
MAX_PLAIN_ROWS = 12
# The characters of a cell that are a name of a column and not a sentence.
MAX_NAME_CHARS = 60


def table_blocks(rows: Iterable[list[str]], caption: str = "") -> Iterator[Block]:
    """Yields the rows of a table: `Pump | 40`, or `Item: Pump; Fee: 40` where the table is long.

    Empty rows and columns are left out. The first row with a name in each of its cells is the
    head.
    """
    found = [[" ".join(cell.split()) for cell in row] for row in rows]
    found = [row for row in found if any(row)]
    if not found:
        return
    width = max(map(len, found))
    found = [row + [""] * (width - len(row)) for row in found]
    used = [n for n in range(width) if any(row[n] for row in found)]
    found = [[row[n] for n in used] for row in found]
    if caption:
        yield Block("caption", caption)
    head = found[0] if _is_head(found[0]) and len(found) > 1 and len(used) > 1 else None
    named = head is not None and len(found) > MAX_PLAIN_ROWS
    for number, row in enumerate(found):
        text = " | ".join(row)
        if named and head is not None and number:
            pairs = zip(head, row, strict=True)
            text = "; ".join(f"{name}: {cell}" if name else cell for name, cell in pairs if cell)
        yield Block("row", text, int(head is not None and number == 0), tight=number > 0)


def cell_text(value: Any) -> str:
    """Returns a cell of a spreadsheet as it is read: `40` for 40.0, `2024-05-01` for a date."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() and abs(value) < 1e15 else f"{value:.12g}"
    if isinstance(value, datetime):
        at = value.time()
        return str(value.date()) if at == time(0) else value.isoformat(" ", "minutes")
    if isinstance(value, date | time):
        return value.isoformat()
    return str(value)


def _is_head(row: list[str]) -> bool:
    """Whether a row has names and no numbers."""
    names = [cell for cell in row if cell]
    return (
        len(names) > 1
        and len(set(names)) == len(names)
        and all(len(name) <= MAX_NAME_CHARS and any(map(str.isalpha, name)) for name in names)
        and not any(name[0].isdigit() for name in names)
    )
