"""Pairs as CSV or XLSX for people with a spreadsheet, and their decisions back by `key`."""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from rag_ft.documents.formats.content import UnreadableError
from rag_ft.documents.formats.encodings import decode
from rag_ft.errors import DataError
from rag_ft.review.exchange import DECIDED, Returned, ReviewRow, answers_of
from rag_ft.review.store import REASONS

# People fill in `decision` and `reason`, and may change question, answers and evidence.
COLUMNS = (
    "decision",
    "reason",
    "question",
    "answers",
    "evidence",
    "chunk",
    "document",
    "kind",
    "split",
    "origin",
    "reviewer",
    "key",
    "pair_id",
)
WIDTHS = {"question": 50, "answers": 30, "evidence": 50, "chunk": 80, "document": 25}
MAX_CELL = 32_767  # characters that a cell of XLSX can hold
# What spreadsheets take for a formula, after any number of our marks.
_FORMULA = re.compile(r"^'*[=+\-@\t\r\n]")


def cells_of(row: ReviewRow) -> dict[str, str]:
    """A row; several answers are lines of one cell."""
    card, last = row.card, row.last
    return {
        "decision": last.decision if last else "",
        "reason": (last.reason or "") if last else "",
        "question": row.question,
        "answers": "\n".join(row.answers),
        "evidence": row.quote,
        "chunk": row.text,
        "document": card.pair.document_id or "",
        "kind": card.pair.kind,
        "split": card.pair.split,
        "origin": card.pair.origin,
        "reviewer": last.reviewer if last else "",
        "key": card.key,
        "pair_id": card.pair.id,
    }


def write_csv(rows: Iterable[ReviewRow], target: Path) -> None:
    """UTF-8 with a mark at the start, by which spreadsheets know the encoding. A cell that would be
    a formula begins with an apostrophe."""
    with target.open("x", encoding="utf-8-sig", newline="") as out:
        table = csv.writer(out)
        table.writerow(COLUMNS)
        for row in rows:
            cells = cells_of(row)
            table.writerow(defused(cells[name]) for name in COLUMNS)


def write_xlsx(rows: Iterable[ReviewRow], target: Path) -> None:
    """One sheet with lists to choose decision and reason from. Every cell is text, never a
    formula."""
    import xlsxwriter

    with xlsxwriter.Workbook(str(target), {"constant_memory": True}) as book:
        sheet = book.add_worksheet("review")
        head, wrapped = book.add_format({"bold": True}), book.add_format({"text_wrap": True})
        wrapped.set_align("top")
        sheet.freeze_panes(1, 1)
        for place, name in enumerate(COLUMNS):
            sheet.set_column(place, place, WIDTHS.get(name, 14), wrapped)
            sheet.write_string(0, place, name, head)
        num = 0
        for num, row in enumerate(rows, 1):
            cells = cells_of(row)
            for place, name in enumerate(COLUMNS):
                sheet.write_string(num, place, cells[name][:MAX_CELL], wrapped)
        for place, choices in enumerate((DECIDED, REASONS)):
            rule = {"validate": "list", "source": list(choices)}
            sheet.data_validation(1, place, max(1, num), place, rule)


def defused(text: str) -> str:
    """`text`, with an apostrophe before it where a spreadsheet would take it for a formula."""
    return f"'{text}" if _FORMULA.match(text) else text


def plain(cell: str) -> str:
    """The text that `defused` was made of."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def read_csv(path: Path) -> Iterator[Returned]:
    """The rows of a CSV file, whatever delimiter and encoding the spreadsheet has chosen.

    Raises:
        DataError: the file cannot be read, or has no column `key`.
    """
    try:
        text = decode(path.read_bytes())
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    except UnreadableError as error:
        raise DataError(f"{path} is not a CSV file: {error}") from error
    head = text.splitlines()[0] if text else ""
    delimiter = max(",;\t", key=head.count)
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    except csv.Error as error:
        raise DataError(f"{path} is not a CSV file: {error}") from error
    return _returned(path, ([plain(cell) for cell in row] for row in rows))


def read_xlsx(path: Path) -> Iterator[Returned]:
    """The rows of the first sheet of an XLSX file.

    Raises:
        DataError: the file cannot be read, or has no column `key`.
    """
    import python_calamine

    try:
        book = python_calamine.CalamineWorkbook.from_path(str(path))
        sheet = book.get_sheet_by_index(0)
        rows = [["" if c is None else str(c) for c in row] for row in sheet.to_python()]
    except (OSError, python_calamine.CalamineError) as error:
        raise DataError(f"cannot read {path} as XLSX: {error}") from error
    return _returned(path, rows)


def _returned(path: Path, rows: Iterable[list[str]]) -> Iterator[Returned]:
    table = iter(rows)
    names = [name.strip().casefold() for name in next(table, [])]
    if "key" not in names:
        raise DataError(f"{path} has no column `key`: it must be a table that rag-ft export wrote")
    for number, row in enumerate(table, 2):
        cells = dict(zip(names, row, strict=False))
        if not cells.get("key", "").strip():
            continue
        decision, question = cells.get("decision", "").strip().casefold(), cells.get("question")
        yield Returned(
            f"{path.name} row {number}",
            cells["key"].strip(),
            # An exported `add` is a decision that was made already.
            {"": None, "add": "accept"}.get(decision, decision),
            cells.get("reason", "").strip() or None,
            question,
            answers_of(cells.get("answers")),
            None,
            cells.get("evidence"),
            cells.get("reviewer", "").strip() or None,
        )
