"""Reads Word files with the standard library: a .docx is XML in a zip."""

from __future__ import annotations

import posixpath
from collections.abc import Iterator
from xml.etree import ElementTree

from rag_ft.documents.formats.cleaning import is_program_title
from rag_ft.documents.formats.content import Block, BlockKind, Content, UnreadableError
from rag_ft.documents.formats.docx_forms import (
    check_box,
    equation_field,
    field_state,
    picture_text,
)
from rag_ft.documents.formats.docx_imports import (
    MAX_IMPORTS,
    WORD_SUFFIXES,
    read_part,
    suffix_of,
)
from rag_ft.documents.formats.docx_styles import (
    Numbering,
    Style,
    W,
    font_of,
    is_body_text,
    list_of,
    outline_level,
    raised_by,
    raised_styles,
    read_styles,
    style_by_id,
    style_fonts,
)
from rag_ft.documents.formats.office_math import M, equation_text
from rag_ft.documents.formats.office_parts import (
    DGM,
    MC,
    C,
    R,
    chart_blocks,
    diagram_blocks,
    said_by,
)
from rag_ft.documents.formats.package import PACKAGE_ERRORS, Package
from rag_ft.documents.formats.scripts import END, SUB, SUP, plain_scripts
from rag_ft.documents.formats.symbol_fonts import is_symbol_font, symbol

# These stand around paragraphs, tables, rows or cells: content controls, custom XML, insertions.
_WRAPPERS = frozenset(
    (
        f"{W}sdt",
        f"{W}sdtContent",
        f"{W}customXml",
        f"{W}ins",
        f"{W}moveTo",
        f"{MC}AlternateContent",
        f"{MC}Choice",
    )
)
# The fallback repeats the choice before it, and moved text stands at its new place.
_LEFT_OUT = frozenset((f"{MC}Fallback", f"{W}moveFrom", f"{W}pPr", f"{W}rPr", f"{W}del"))
_CHARACTERS = {f"{W}tab": "\t", f"{W}br": "\n", f"{W}cr": "\n", f"{W}noBreakHyphen": "-"}
_RAISED = {"superscript": SUP, "subscript": SUB}
_REFERENCES = frozenset(f"{W}{kind}Reference" for kind in ("footnote", "endnote", "comment"))


def read_docx(raw: bytes, depth: int = 0) -> Content:
    """Returns headings, paragraphs, list items, table rows, charts and diagrams, notes and comments
    after the paragraph that refers to them, and the text of imported parts.

    Cells are separated by ` | `. The title is the first heading, else that of the file's
    properties.

    Raises:
        UnreadableError: "corrupt", "encrypted", or "too large" when unpacked.
    """
    with Package(raw, "Word file") as package:
        reader = _DocxReader(package, depth)
        blocks = list(reader.blocks())
        title = package.title()
    if is_program_title(title):
        title = ""
    heading = next((block.text for block in blocks if block.kind == "heading"), None)
    return Content(heading or title, blocks, notes=reader.lost)


class _DocxReader:
    """Reads the main part of a package, with what other parts say about it."""

    def __init__(self, package: Package, depth: int) -> None:
        self.package, self.depth = package, depth
        self.main = package.main_part("word/document.xml")
        tree = package.xml(self.main)
        if tree is None:
            raise UnreadableError("corrupt", f"Word file: it has no {self.main}")
        self.body = tree.find(f"{W}body")
        self.relations = package.relations(self.main)
        styles = self._related("styles")
        self.styles, self.raised = read_styles(styles), raised_styles(styles)
        self.fonts = style_fonts(styles)
        self.numbering = Numbering.of(self._related("numbering"))
        self.notes = {
            kind: {
                note.get(f"{W}id", ""): note
                for note in tree
                if note.get(f"{W}type") in (None, "normal")
            }
            for kind, tree in (
                ("footnote", self._related("footnotes")),
                ("endnote", self._related("endnotes")),
                ("comment", self._related("comments")),
            )
            if tree is not None
        }
        # The notes, charts and diagrams that the paragraph at hand refers to, and how many notes
        # there were.
        self.referred: list[tuple[str, ElementTree.Element]] = []
        self.charts: list[str] = []
        self.num_notes = 0
        self.instruction = ""  # of the field at hand
        self.lost: list[tuple[str, str]] = []

    def _related(self, kind: str) -> ElementTree.Element | None:
        names = [name for own, name in self.relations.values() if own == kind]
        folder = posixpath.dirname(self.main)
        return self.package.xml(names[0] if names else posixpath.join(folder, f"{kind}.xml"))

    def blocks(self) -> Iterator[Block]:
        """Yields the blocks of the document."""
        if self.body is not None:
            yield from self._blocks(self.body)

    def _blocks(self, parent: ElementTree.Element) -> Iterator[Block]:
        previous: BlockKind | None = None
        for child in _unwrapped(parent):
            if child.tag == f"{W}p":
                found = self._paragraph_blocks(child, after_item=previous == "item")
            elif child.tag == f"{W}tbl":
                found = self._rows(child)
            elif child.tag == f"{W}altChunk":
                found = self._imported(child)
            elif child.tag in (f"{M}oMathPara", f"{M}oMath"):
                found = iter([Block("paragraph", equation_text(child))])
            else:
                continue
            for block in found:
                yield block
                previous = block.kind

    def _paragraph_blocks(
        self, paragraph: ElementTree.Element, *, after_item: bool
    ) -> Iterator[Block]:
        """Yields the paragraph, if it has text, and the notes that it refers to."""
        text = self._text(paragraph)
        properties = paragraph.find(f"{W}pPr")
        style = self._style(properties)
        own = list_of(properties)
        num = own if own is not None else style.num
        level = outline_level(properties) or (0 if is_body_text(properties) else style.heading)
        counted = text and num is not None and num[0] != "0"
        marker = self.numbering.marker(*num) if counted and num else ""
        if text and level:
            number = "" if marker == "- " else marker
            yield Block("heading", number + " ".join(text.split()), min(level, 6))
        elif counted and num:
            yield Block("item", "  " * num[1] + marker + text, tight=after_item)
        elif text:
            is_caption = style.name.lower() in ("caption", "beschriftung")
            yield Block("caption" if is_caption else "paragraph", text)
        yield from self._charts()
        yield from self._footnotes()

    def _style(self, properties: ElementTree.Element | None) -> Style:
        found = None if properties is None else properties.find(f"{W}pStyle")
        style_id = "" if found is None else found.get(f"{W}val", "")
        return self.styles.get(style_id) or style_by_id(style_id)

    def _footnotes(self) -> Iterator[Block]:
        referred, self.referred = self.referred, []
        for mark, note in referred:
            text = " ".join(filter(None, (self._text(p) for p in note.iter(f"{W}p"))))
            # A comment has an author and a date.
            by = said_by(note.get(f"{W}author", ""), note.get(f"{W}date", ""))
            if text:
                yield Block("footnote", f"[{mark}] {by}: {text}" if by else f"[{mark}] {text}")

    def _charts(self) -> Iterator[Block]:
        charts, self.charts = self.charts, []
        for name in charts:
            try:
                tree = self.package.xml(name)
                if tree is not None:
                    is_diagram = tree.tag.startswith(DGM)
                    yield from diagram_blocks(tree) if is_diagram else chart_blocks(tree)
            except PACKAGE_ERRORS as error:
                self.lost.append((f"chart {name}", str(error)))

    def _imported(self, element: ElementTree.Element) -> Iterator[Block]:
        """Yields the blocks of a part that was imported as HTML, MHT, text or Word."""
        kind, name = self.relations.get(element.get(f"{R}id", ""), ("", ""))
        suffix = suffix_of(name, self.package.content_type(name))
        try:
            if self.depth >= MAX_IMPORTS:
                raise UnreadableError("too deep", "Word files inside Word files")
            raw = self.package.read(name)
            if suffix in WORD_SUFFIXES:
                yield from read_docx(raw, self.depth + 1).blocks
            else:
                yield from read_part(raw, suffix)
        except (UnreadableError, KeyError) as error:
            self.lost.append((f"imported part {name or kind}", str(error)))

    def _rows(self, table: ElementTree.Element) -> Iterator[Block]:
        """Yields the rows of a table; a table inside a cell follows the row that holds it. A cell
        that is merged with those below is repeated in their rows."""
        above: dict[int, str] = {}
        is_first = True
        for row in _unwrapped(table, "tr"):
            cells = list(_unwrapped(row, "tc"))
            texts = []
            column = 0
            for cell in cells:
                properties = cell.find(f"{W}tcPr")
                text = self._cell(cell)
                merged = None if properties is None else properties.find(f"{W}vMerge")
                if merged is not None and merged.get(f"{W}val") != "restart" and not text:
                    text = above.get(column, "")
                above[column] = text
                texts.append(text)
                span = None if properties is None else properties.find(f"{W}gridSpan")
                width = "" if span is None else span.get(f"{W}val", "")
                column += int(width) if width.isdecimal() and len(width) < 4 else 1
            if any(texts):
                marked = row.find(f"{W}trPr/{W}tblHeader") is not None
                yield Block("row", " | ".join(texts), int(marked and is_first), tight=not is_first)
                is_first = False
            for cell in cells:
                for inner in _unwrapped(cell, "tbl"):
                    yield from self._rows(inner)
                for part in _unwrapped(cell, "altChunk"):
                    yield from self._imported(part)
            yield from self._footnotes()

    def _cell(self, cell: ElementTree.Element) -> str:
        """Returns a cell in one line: `;` between list items, blanks for every other break."""
        text = ""
        for paragraph in _unwrapped(cell, "p"):
            properties = paragraph.find(f"{W}pPr")
            num = list_of(properties) or self._style(properties).num
            said = " ".join(self._text(paragraph).split())
            is_item = num is not None and num[0] != "0"
            text += ("; " if is_item and text else " " if text else "") + said if said else ""
        return text.strip()

    def _text(self, element: ElementTree.Element) -> str:
        return plain_scripts("".join(self._runs(element, ""))).strip()

    def _runs(self, element: ElementTree.Element, font: str) -> Iterator[str]:
        """Yields the texts of a paragraph and the characters that elements stand for."""
        for child in element:
            tag = child.tag
            if tag == f"{W}t":
                yield _shown(child.text or "", font)
            elif tag in _CHARACTERS:
                yield _CHARACTERS[tag]
            elif tag == f"{W}sym":
                code = child.get(f"{W}char", "")
                yield symbol(child.get(f"{W}font", ""), int(code, 16) if code.isalnum() else 0)
            elif tag == f"{W}r":
                yield from self._run(child)
            elif tag in _REFERENCES:
                yield self._reference(child)
            elif tag in (f"{M}oMath", f"{M}oMathPara"):
                yield equation_text(child)
            elif tag == f"{C}chart":
                self.charts.append(self.relations.get(child.get(f"{R}id", ""), ("", ""))[1])
            elif tag == f"{DGM}relIds":
                self.charts.append(self.relations.get(child.get(f"{R}dm", ""), ("", ""))[1])
            elif tag == f"{W}instrText":
                self.instruction += child.text or ""
            elif tag == f"{W}fldChar":
                yield field_state(child) + equation_field(self.instruction)
                self.instruction = ""
            elif tag == f"{W}ruby":
                yield self._ruby(child, font)
            elif tag == f"{W}sdt" and (state := check_box(child)):
                yield state
            elif tag == f"{W}txbxContent":
                # The paragraphs of a text box get lines of their own.
                yield from (f"\n{block.text}" for block in self._blocks(child))
                yield "\n"
            elif tag not in _LEFT_OUT:
                if tag in (f"{W}drawing", f"{W}pict"):
                    yield picture_text(child)
                yield from self._runs(child, font)

    def _run(self, run: ElementTree.Element) -> Iterator[str]:
        properties = run.find(f"{W}rPr")
        found = run.find(f"{W}rPr/{W}rStyle")
        style = "" if found is None else found.get(f"{W}val", "")
        how = "" if properties is None else raised_by(properties)
        mark = _RAISED.get(how or self.raised.get(style, ""), "")
        text = "".join(self._runs(run, font_of(properties) or self.fonts.get(style, "")))
        # The reference to a note stands in brackets already.
        yield f"{mark}{text}{END}" if mark and text and not text.startswith(" [") else text

    def _ruby(self, element: ElementTree.Element, font: str) -> str:
        """Returns words with their reading in brackets after them."""
        base, reading = (
            "".join(self._runs(part, font)) if part is not None else ""
            for part in (element.find(f"{W}rubyBase"), element.find(f"{W}rt"))
        )
        return f"{base}({reading})" if reading.strip() else base

    def _reference(self, element: ElementTree.Element) -> str:
        kind = element.tag.removeprefix(W).removesuffix("Reference")
        note = self.notes.get(kind, {}).get(element.get(f"{W}id", ""))
        if note is None:
            return ""
        self.num_notes += 1
        self.referred.append((str(self.num_notes), note))
        return f" [{self.num_notes}]"


def _shown(text: str, font: str) -> str:
    """Returns what a font shows for a text: some fonts have signs in place of letters."""
    is_symbols = is_symbol_font(font)
    return "".join(
        symbol(font, ord(c))
        if "\uf000" <= c <= "\uf0ff" or (is_symbols and " " < c < "\x7f")
        else c
        for c in text
    )


def _unwrapped(parent: ElementTree.Element, name: str = "") -> Iterator[ElementTree.Element]:
    """Yields the children, also those in wrappers; with a name only those of that name."""
    for child in parent:
        if child.tag in _WRAPPERS:
            yield from _unwrapped(child, name)
        elif not name or child.tag == f"{W}{name}":
            yield child
