"""Reads workbooks of Excel and OpenDocument with calamine."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any

from rag_ft.documents.formats.content import (
    MALFORMED_FILE_ERRORS,
    Block,
    Content,
    UnreadableError,
)
from rag_ft.documents.formats.office_parts import part_blocks
from rag_ft.documents.formats.package import Package
from rag_ft.documents.formats.tables import cell_text, table_blocks

MAX_MERGED_ROWS = 1000
_MAIN = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
_R = "{http://schemas.openxmlformats.org/officeDocument/2006/relationships}"


def read_spreadsheet(raw: bytes) -> Content:
    """Returns each visible sheet under its name, as the rows of a table; values, not formulas; then
    its text boxes, the numbers of its charts and the comments on its cells.

    The title is that of the file's properties. The metadata are {num_sheets}. Hidden sheets, and
    sheets without cells such as charts, are noted.

    Raises:
        UnreadableError: "corrupt", "encrypted", or "too large" when unpacked.
    """
    import python_calamine as calamine

    title, added = "", dict[str, list[Block]]()
    if raw.startswith(b"PK"):
        with Package(raw, "workbook") as package:
            title, added = package.title(), _charts_and_comments(package)
    blocks: list[Block] = []
    notes: list[tuple[str, str]] = []
    try:
        book = calamine.CalamineWorkbook.from_filelike(io.BytesIO(raw))
        for sheet in book.sheets_metadata:
            if sheet.visible != calamine.SheetVisibleEnum.Visible:
                notes.append((f"sheet {sheet.name}", "hidden"))
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
    return Content(title, blocks, {"num_sheets": len(book.sheets_metadata)}, notes)


def _charts_and_comments(package: Package) -> dict[str, list[Block]]:
    """{name of a sheet: its charts and comments}."""
    main = package.main_part("xl/workbook.xml")
    tree, relations = package.xml(main), package.relations(main)
    found: dict[str, list[Block]] = {}
    for sheet in tree.iter(f"{_MAIN}sheet") if tree is not None else ():
        _, part = relations.get(sheet.get(f"{_R}id", ""), ("", ""))
        kinds = ("drawing", "chart", "diagramData", "comments", "threadedComment")
        found[sheet.get("name", "")] = list(part_blocks(package, part, *kinds)) if part else []
    return found


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
