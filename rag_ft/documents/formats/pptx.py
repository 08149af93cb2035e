"""Reads PowerPoint presentations with python-pptx."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

from rag_ft.documents.formats.alt_text import alt_text
from rag_ft.documents.formats.cleaning import is_program_title
from rag_ft.documents.formats.content import (
    MALFORMED_FILE_ERRORS,
    Block,
    Content,
    UnreadableError,
)
from rag_ft.documents.formats.numerals import numeral
from rag_ft.documents.formats.office_math import M, equation_text
from rag_ft.documents.formats.office_parts import (
    DGM,
    MC,
    A,
    R,
    chart_blocks,
    diagram_blocks,
    part_blocks,
)
from rag_ft.documents.formats.package import PACKAGE_ERRORS, Package
from rag_ft.documents.formats.scripts import END, SUB, SUP, plain_scripts
from rag_ft.documents.formats.tables import table_blocks

# The types of numbered lists, and what they are called in `numeral`.
_NUMBERS = {
    "alphaLc": "lowerLetter",
    "alphaUc": "upperLetter",
    "romanLc": "lowerRoman",
    "romanUc": "upperRoman",
}


def read_pptx(raw: bytes) -> Content:
    """Returns the slides as pages: title, texts, tables, charts, diagrams, what is said in words
    about pictures, the speaker's notes and comments.

    The title is that of the first slide, else that of the file's properties. A slide that cannot
    be read is noted. The metadata are {num_pages}.

    Raises:
        UnreadableError: "corrupt", "encrypted", or "too large" when unpacked.
    """
    from pptx import Presentation
    from pptx.exc import PythonPptxError

    blocks: list[Block] = []
    notes: list[tuple[str, str]] = []
    number = 0
    with Package(raw, "PowerPoint file") as package:
        title = package.title()
        for number, slide in enumerate(Presentation(io.BytesIO(raw)).slides, 1):
            try:
                found = list(_slide(slide, number, package))
            except (PythonPptxError, *MALFORMED_FILE_ERRORS) as error:
                notes.append((f"slide {number}", f"damaged: {str(error)[:100]}"))
            else:
                blocks += [replace(block, page=number) for block in found]
    if notes and not blocks:
        raise UnreadableError("corrupt", f"PowerPoint file: {notes[0][1]}")
    first = next((block.text for block in blocks if block.kind == "heading"), "")
    title = first or ("" if is_program_title(title) else title)
    return Content(title, blocks, {"num_pages": number}, notes)


def _slide(slide: Any, number: int, package: Package) -> Iterator[Block]:
    """Yields the blocks of a slide, its title first, and its notes and comments last."""
    _unwrap_choices(slide.shapes._spTree)
    _mark_raised(slide.shapes._spTree)
    named = slide.shapes.title
    heading = " ".join(_text(named.text_frame).split()) if named is not None else ""
    if heading:
        yield Block("heading", heading, 2 if number > 1 else 1)
    yield from _shapes(slide.shapes, named.shape_id if named is not None else None)
    if slide.has_notes_slide and slide.notes_slide.notes_text_frame is not None:
        yield Block("paragraph", slide.notes_slide.notes_text_frame.text.strip())
    yield from part_blocks(package, slide.part.partname.lstrip("/"), "comments")


def _shapes(shapes: Any, title_id: int | None) -> Iterator[Block]:
    """Yields the texts of shapes from top to bottom, those of groups and tables too."""
    ordered = sorted(shapes, key=lambda shape: (shape.top or 0, shape.left or 0))
    for shape in ordered:
        if shape.shape_id == title_id:
            continue
        if hasattr(shape, "shapes"):
            yield from _shapes(shape.shapes, title_id)
        elif getattr(shape, "has_table", False) and shape.has_table:
            yield from table_blocks(_rows(shape.table))
        elif getattr(shape, "has_chart", False) and shape.has_chart:
            yield from chart_blocks(ElementTree.fromstring(shape.chart.part.blob))
        elif shape.has_text_frame:
            yield from _paragraphs(shape)
        else:
            yield from _diagram(shape)
            # Of a picture, a chart that cannot be read, or a drawing.
            yield Block("caption", alt_text(shape._element._nvXxPr.cNvPr.get("descr")))


def _mark_raised(shapes: Any) -> None:
    """Puts marks around raised and lowered text."""
    for run in shapes.iter(f"{A}r"):
        properties, text = run.find(f"{A}rPr"), run.find(f"{A}t")
        baseline = "0" if properties is None else properties.get("baseline", "0")
        if text is not None and text.text and baseline.strip("-%0."):
            text.text = f"{SUB if baseline.startswith('-') else SUP}{text.text}{END}"


def _unwrap_choices(shapes: Any) -> None:
    """Puts shapes that only newer programs draw, such as those with equations, where the library
    looks for them. The older picture of them, which stands beside, is left out."""
    for wrapper in list(shapes.iter(f"{MC}AlternateContent")):
        choice, parent = wrapper.find(f"{MC}Choice"), wrapper.getparent()
        if choice is not None and parent.tag.endswith(("}spTree", "}grpSp")):
            parent[parent.index(wrapper) : parent.index(wrapper) + 1] = list(choice)


def _rows(table: Any) -> Iterator[list[str]]:
    """Yields the rows as texts; a cell that is merged with those below is repeated in them."""
    above: list[str] = []
    for row in table.rows:
        texts = [_text(cell.text_frame) for cell in row.cells]
        for number, cell in enumerate(row.cells):
            if cell.is_spanned and cell._tc.vMerge and number < len(above):
                texts[number] = above[number]
        yield texts
        above = texts


def _diagram(shape: Any) -> Iterator[Block]:
    """Yields the texts of a SmartArt diagram; a damaged one is left out."""
    for found in shape._element.iter(f"{DGM}relIds"):
        try:
            data = shape.part.related_part(found.get(f"{R}dm"))
            yield from diagram_blocks(ElementTree.fromstring(data.blob))
        except PACKAGE_ERRORS:
            continue


def _text(frame: Any) -> str:
    return "\n".join(_paragraph_text(paragraph) for paragraph in frame.paragraphs)


def _paragraph_text(paragraph: Any) -> str:
    """Returns the text of a paragraph; the library leaves equations out."""
    if next(paragraph._p.iter(f"{M}oMath"), None) is None:
        return plain_scripts(str(paragraph.text).replace("\v", "\n"))
    pieces: list[str] = []
    for node in paragraph._p.iter(f"{A}t", f"{A}br", f"{M}oMath"):
        is_math = node.tag == f"{M}oMath"
        pieces.append(equation_text(node) if is_math else (node.text or "\n"))
    return plain_scripts("".join(pieces))


def _marker(paragraph: Any, counts: dict[int, int]) -> str:
    """Returns the marker of a paragraph that is an item by its own properties: `2. `, `- ` or "".
    `counts` are the numbers of the items before it, by level."""
    level, properties = paragraph.level, paragraph._p.pPr
    for deeper in [n for n in counts if n > level]:
        del counts[deeper]
    numbered = None if properties is None else properties.find(f"{A}buAutoNum")
    if numbered is None:
        counts.pop(level, None)
        has_bullet = properties is not None and properties.find(f"{A}buChar") is not None
        return "- " if has_bullet else ""
    kind, start = numbered.get("type", ""), numbered.get("startAt", "1")
    counts[level] = counts.get(level, (int(start) if start.isdecimal() else 1) - 1) + 1
    form = next((form for name, form in _NUMBERS.items() if kind.startswith(name)), "decimal")
    return numeral(counts[level], form) + (". " if "Period" in kind else ") ")


def _paragraphs(shape: Any) -> Iterator[Block]:
    """Yields a text box as a paragraph, and the outline of a slide as items."""
    found = [(p, _paragraph_text(p).strip()) for p in shape.text_frame.paragraphs]
    paragraphs = [(paragraph, text) for paragraph, text in found if text]
    listed = shape.is_placeholder and len(paragraphs) > 1
    counts: dict[int, int] = {}
    for number, (paragraph, text) in enumerate(paragraphs):
        marker = _marker(paragraph, counts) or ("- " if listed else "")
        if marker:
            yield Block("item", "  " * paragraph.level + marker + text, tight=number > 0)
        else:
            yield Block("paragraph", text, tight=number > 0)
