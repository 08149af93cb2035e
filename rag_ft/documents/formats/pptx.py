"""Reads PowerPoint presentations with python-pptx."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import Any
from xml.etree import ElementTree

from rag_ft.documents.formats.cleaning import is_program_title
from rag_ft.documents.formats.content import Block, Content
from rag_ft.documents.formats.office_parts import chart_blocks, part_blocks
from rag_ft.documents.formats.package import Package
from rag_ft.documents.formats.tables import table_blocks


def read_pptx(raw: bytes) -> Content:
    """Returns the slides as pages: title, texts, tables, charts, the speaker's notes and
    comments.

    The title is that of the first slide, else that of the file's properties. The metadata are
    {num_pages}.

    Raises:
        UnreadableError: "corrupt", "encrypted", or "too large" when unpacked.
    """
    from pptx import Presentation

    blocks: list[Block] = []
    number = 0
    with Package(raw, "PowerPoint file") as package:
        title = package.title()
        for number, slide in enumerate(Presentation(io.BytesIO(raw)).slides, 1):
            named = slide.shapes.title
            heading = " ".join(named.text_frame.text.split()) if named is not None else ""
            if heading:
                blocks.append(Block("heading", heading, 2 if number > 1 else 1, number))
            own = named.shape_id if named is not None else None
            for block in _shapes(slide.shapes, own):
                blocks.append(_on_page(block, number))
            if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
                said = slide.notes_slide.notes_text_frame.text.strip()
                if said:
                    blocks.append(Block("paragraph", said, page=number))
            comments = part_blocks(package, slide.part.partname.lstrip("/"), "comments")
            blocks += [_on_page(block, number) for block in comments]
    first = next((block.text for block in blocks if block.kind == "heading"), "")
    title = first or ("" if is_program_title(title) else title)
    return Content(title, blocks, {"num_pages": number})


def _on_page(block: Block, page: int) -> Block:
    return Block(block.kind, block.text, block.level, page, tight=block.tight)


def _shapes(shapes: Any, title_id: int | None) -> Iterator[Block]:
    """Yields the texts of shapes from top to bottom, those of groups and tables too."""
    ordered = sorted(shapes, key=lambda shape: (shape.top or 0, shape.left or 0))
    for shape in ordered:
        if shape.shape_id == title_id:
            continue
        if hasattr(shape, "shapes"):
            yield from _shapes(shape.shapes, title_id)
        elif getattr(shape, "has_table", False) and shape.has_table:
            rows = ([cell.text_frame.text for cell in row.cells] for row in shape.table.rows)
            yield from table_blocks(rows)
        elif getattr(shape, "has_chart", False) and shape.has_chart:
            yield from chart_blocks(ElementTree.fromstring(shape.chart.part.blob))
        elif shape.has_text_frame:
            yield from _paragraphs(shape)


def _paragraphs(shape: Any) -> Iterator[Block]:
    """Yields a text box as a paragraph, and the outline of a slide as items."""
    paragraphs = [p for p in shape.text_frame.paragraphs if p.text.strip()]
    listed = shape.is_placeholder and len(paragraphs) > 1
    for number, paragraph in enumerate(paragraphs):
        text = paragraph.text.replace("\v", "\n").strip()
        if listed:
            yield Block("item", "  " * paragraph.level + "- " + text, tight=number > 0)
        else:
            yield Block("paragraph", text, tight=number > 0)
