"""Reads Excel workbooks with openpyxl."""

from __future__ import annotations

import io
import warnings

from rag_ft.documents.formats.content import Block, Content
from rag_ft.documents.formats.package import Package
from rag_ft.documents.formats.tables import cell_text, table_blocks


def read_xlsx(raw: bytes) -> Content:
    """Returns each visible sheet under its name, as the rows of a table; values, not formulas.

    The title is that of the file's properties. The metadata are {num_sheets}. Sheets without
    cells, such as charts, are noted.

    Raises:
        UnreadableError: "corrupt", "encrypted", or "too large" when unpacked.
    """
    import openpyxl

    blocks: list[Block] = []
    notes: list[tuple[str, str]] = []
    with Package(raw, "Excel file") as package:
        title = package.title()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about extensions that openpyxl does not know
            book = openpyxl.load_workbook(io.BytesIO(raw), data_only=True)
            for name in book.sheetnames:
                sheet = book[name]
                if not hasattr(sheet, "iter_rows"):
                    notes.append((f"sheet {name}", "a chart"))
                    continue
                if sheet.sheet_state != "visible":
                    notes.append((f"sheet {name}", "hidden"))
                    continue
                rows = ([cell_text(value) for value in row] for row in _merged(sheet))
                found = list(table_blocks(rows))
                if found:
                    blocks += [Block("heading", name, 2), *found]
    return Content(title, blocks, {"num_sheets": len(book.sheetnames)}, notes)


def _merged(sheet):  # type: ignore[no-untyped-def]
    """Yields the rows of values; a cell that is merged with those below is repeated in them."""
    fill = {
        (row, area.min_col): sheet.cell(area.min_row, area.min_col).value
        for area in sheet.merged_cells.ranges
        for row in range(area.min_row + 1, min(area.max_row, area.min_row + 1000) + 1)
    }
    for number, row in enumerate(sheet.iter_rows(values_only=True), sheet.min_row):
        if not fill:
            yield row
            continue
        yield [
            fill.get((number, column), value) if value is None else value
            for column, value in enumerate(row, sheet.min_column)
        ]
