"""Reads CSV and TSV files with the standard library."""

from __future__ import annotations

import csv
import io
import re
import sys

from rag_ft.documents.formats.content import Content, UnreadableError
from rag_ft.documents.formats.encodings import decode
from rag_ft.documents.formats.tables import table_blocks

_DELIMITERS = ",;\t|"


def read_csv(raw: bytes) -> Content:
    """Returns the rows of a table; the delimiter is the one that the file uses.

    Raises:
        UnreadableError: "not text", or "corrupt".
    """
    text = decode(raw)
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    # Excel is told the delimiter by a line such as "sep=;".
    named = re.match(r"sep=(.)\r?\n", text)
    text = text[named.end() :] if named else text
    sample = text[:20_000]
    try:
        dialect: type[csv.Dialect] | csv.Dialect = csv.Sniffer().sniff(sample, _DELIMITERS)
    except csv.Error:  # a table of one column has no delimiter
        dialect = csv.excel_tab if "\t" in sample else csv.excel
    if named:
        dialect = type("Named", (csv.excel,), {"delimiter": named[1]})
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), dialect))
    except csv.Error as error:
        raise UnreadableError("corrupt", f"CSV: {error}") from error
    return Content("", list(table_blocks(rows)))
