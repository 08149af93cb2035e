"""Reads Jupyter notebooks: JSON with cells of Markdown and code."""

from __future__ import annotations

import json
from typing import Any

from rag_ft.documents.formats.content import Block, Content, UnreadableError
from rag_ft.documents.formats.encodings import decode
from rag_ft.documents.formats.markdown import content_of_markdown

# The printed output of a cell that is kept.
MAX_OUTPUT_CHARS = 2000


def read_notebook(raw: bytes) -> Content:
    """Returns the cells of Markdown, the code and what it printed; pictures are left out.

    The title is the first heading.

    Raises:
        UnreadableError: "corrupt".
    """
    try:
        cells = json.loads(decode(raw))["cells"]
        blocks: list[Block] = []
        title = ""
        for cell in cells:
            source = _joined(cell.get("source"))
            if cell.get("cell_type") == "markdown":
                content = content_of_markdown(source)
                title = title or content.title
                blocks += content.blocks
            elif source.strip():
                blocks.append(Block("code", source))
            for output in cell.get("outputs") or ():
                data = output.get("data") or {}
                said = _joined(output.get("text") or data.get("text/plain"))
                if said.strip():
                    blocks.append(Block("code", said[:MAX_OUTPUT_CHARS]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UnreadableError("corrupt", f"notebook: {error}") from error
    return Content(title, blocks)


def _joined(value: Any) -> str:
    return "".join(map(str, value)) if isinstance(value, list) else str(value or "")
