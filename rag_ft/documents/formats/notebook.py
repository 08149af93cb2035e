"""Reads Jupyter notebooks: JSON with cells of Markdown and code."""

from __future__ import annotations

import json
import re
from typing import Any

from rag_ft.documents.formats.content import Block, BlockKind, Content, UnreadableError
from rag_ft.documents.formats.encodings import decode
from rag_ft.documents.formats.markdown import content_of_markdown

# What colours the output on a terminal.
_COLOURS = re.compile(r"\x1b\[[\d;]{0,20}m")
# The printed output of a cell that is kept.
MAX_OUTPUT_CHARS = 2000


def read_notebook(raw: bytes) -> Content:
    """Returns the cells of Markdown, the code and what it printed; pictures are left out.

    The title is the first heading.

    Raises:
        UnreadableError: "corrupt".
    """
    try:
        book = json.loads(decode(raw))
        # Before version 4 the cells stood in worksheets.
        sheets = [book] if "cells" in book else book["worksheets"]
        cells = [cell for sheet in sheets for cell in sheet["cells"]]
        blocks: list[Block] = []
        title = ""
        for cell in cells:
            source = _joined(cell.get("source") or cell.get("input"))
            if cell.get("cell_type") == "heading":
                source = f"{'#' * int(cell.get('level', 1))} {' '.join(source.split())}"
            if cell.get("cell_type") in ("markdown", "heading"):
                content = content_of_markdown(source)
                title = title or content.title
                blocks += content.blocks
            elif source.strip():
                kind: BlockKind = "paragraph" if cell.get("cell_type") == "raw" else "code"
                blocks.append(Block(kind, source))
            for output in cell.get("outputs") or ():
                said = _printed(output)
                if said.strip():
                    blocks.append(Block("code", said[:MAX_OUTPUT_CHARS]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UnreadableError("corrupt", f"notebook: {error}") from error
    return Content(title, blocks)


def _printed(output: dict[str, Any]) -> str:
    """Returns what a cell printed, or the error that it ended with."""
    data = output.get("data") or {}
    if output.get("output_type") in ("error", "pyerr"):
        return f"{output.get('ename', '')}: {output.get('evalue', '')}"
    said = output.get("text") or data.get("text/plain") or data.get("text/markdown")
    return _COLOURS.sub("", _joined(said))


def _joined(value: Any) -> str:
    return "".join(map(str, value)) if isinstance(value, list) else str(value or "")
