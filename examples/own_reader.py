"""A document format of your own: python examples/own_reader.py CONFIG runs `ingest` with it.

Here, a .csv file becomes a text with one line a row. To have it in the package, put the reader into
rag_ft/documents/formats/ and add its suffix to the table of readers.
"""

import csv
import io
import sys
from pathlib import Path

from rag_ft import load_config, run_stage
from rag_ft.documents.formats import FORMATS, Content


def read_csv(raw: bytes) -> Content:
    """Every row as `column: value, column: value`, so that a chunk can be understood alone."""
    rows = csv.DictReader(io.StringIO(raw.decode("utf-8")))
    lines = [", ".join(f"{column}: {value}" for column, value in row.items()) for row in rows]
    return Content(title="", text=".\n\n".join(lines))


FORMATS[".csv"] = read_csv
done = run_stage("ingest", load_config(Path(sys.argv[1])))
print(done["counts"])
