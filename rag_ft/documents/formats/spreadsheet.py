"""Reads workbooks of Excel and OpenDocument with calamine."""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Iterator
from typing import Any

from rag_ft.documents.formats.content import (
    MALFORMED_FILE_ERRORS,
    Block,
    Content,
    UnreadableError,
)
from rag_ft.documents.formats.office_parts import R, part_blocks
from rag_ft.documents.formats.package import Package
from rag_ft.documents.formats.tables import cell_text, table_blocks

MAX_MERGED_ROWS = 1000
# The library makes room for every cell between the first and the last one.
MAX_CELLS = 20_000_000
_EXTENT = re.compile(rb"<dimension\s+ref=\"([A-Z]{1,3})(\d{1,7}):([A-Z]{1,3})(\d{1,7})\"")
_MAIN = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"


def read_spreadsheet(raw: bytes) -> Content:
    """Returns each visible sheet under its name, as the rows of a table; values, not formulas; then
    its text boxes, the numbers of its charts and the comments on its cells.

    The title is that of the file's properties. The metadata are {num_sheets}. Hidden sheets, and
    sheets without cells such as charts, are noted.

    Raises:
        UnreadableError: "corrupt", "encrypted", or "too large" when unpacked.
    """
    import python_calamine as calamine

    title, added, too_wide = "", dict[str, list[Block]](), dict[str, str]()
    if raw.startswith(b"PK"):
        with Package(raw, "workbook") as package:
            title, added = package.title(), _charts_and_comments(package)
            too_wide = _too_wide(package)
    blocks: list[Block] = []
    notes: list[tuple[str, str]] = []
    try:
        book = calamine.CalamineWorkbook.from_filelike(io.BytesIO(raw))
        for sheet in book.sheets_metadata:
            if sheet.visible != calamine.SheetVisibleEnum.Visible:
                notes.append((f"sheet {sheet.name}", "hidden"))
                continue
            if sheet.name in too_wide:
                notes.append((f"sheet {sheet.name}", too_wide[sheet.name]))
                continue
            found = list(table_blocks(_rows(book.get_sheet_by_name(sheet.name))))
            found += added.get(sheet.name, [])
            if found:
                blocks += [Block("heading", sheet.name, 2), *found]
            else:
                notes.append((f"sheet {sheet.name}", "no cells; a chart?"))
    except calamine.PasswordError as error:
        raise UnreadableError("encrypted", "password required; save it without one") from error
    except (calamine.CalamineError, *MALFORMED_FILE_ERRORS) as error:
        raise UnreadableError("corrupt", f"workbook: {error}") from error
    if too_wide and not blocks:
        raise UnreadableError("too large", f"workbook: {next(iter(too_wide.values()))}")
    return Content(title, blocks, {"num_sheets": len(book.sheets_metadata)}, notes)


def _sheets(package: Package) -> Iterator[tuple[str, str]]:
    """Yields the name of each sheet and the part of the package that holds it."""
    main = package.main_part("xl/workbook.xml")
    tree, relations = package.xml(main), package.relations(main)
    for sheet in tree.iter(f"{_MAIN}sheet") if tree is not None else ():
        yield sheet.get("name", ""), relations.get(sheet.get(f"{R}id", ""), ("", ""))[1]


def _charts_and_comments(package: Package) -> dict[str, list[Block]]:
    """{name of a sheet: its charts and comments}."""
    kinds = ("drawing", "chart", "diagramData", "comments", "threadedComment")
    return {
        name: list(part_blocks(package, part, *kinds)) if part else []
        for name, part in _sheets(package)
    }


def _too_wide(package: Package) -> dict[str, str]:
    """{name of a sheet whose cells lie too far from each other: what a person can do about it}."""
    found: dict[str, str] = {}
    for name, part in _sheets(package):
        extent = _EXTENT.search(package.read(part)[:4000]) if package.holds(part) else None
        if extent is None:
            continue
        rows = int(extent[4]) - int(extent[2]) + 1
        columns = _column(extent[3]) - _column(extent[1]) + 1
        if rows * columns > MAX_CELLS:
            found[name] = f"{rows} rows by {columns} columns; delete the cells far from the others"
    return found


def _column(letters: bytes) -> int:
    return functools.reduce(lambda number, letter: 26 * number + letter - 64, letters, 0)


def _rows(sheet: Any) -> Iterator[list[str]]:
    """Yields the rows as texts; a cell that is merged with those below is repeated in them."""
    rows = [[cell_text(value) for value in row] for row in sheet.to_python(skip_empty_area=True)]
    top, left = sheet.start or (0, 0)
    for (first, column), (last, _) in sheet.merged_cell_ranges or ():
        for row in range(first + 1, min(last, first + MAX_MERGED_ROWS) + 1):
            inside = 0 <= row - top < len(rows) and 0 <= column - left < len(rows[row - top])
            if inside and first >= top and not rows[row - top][column - left]:
                rows[row - top][column - left] = rows[first - top][column - left]
    yield from rows
