"""Word files as Word writes them: content controls, nested tables, text boxes, strict Open XML."""

from __future__ import annotations

import io
import zipfile

import pytest

from rag_ft.documents.formats.cleaning import tidy
from rag_ft.documents.formats.content import UnreadableError
from rag_ft.documents.formats.docx import read_docx

TRANSITIONAL = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
STRICT = "http://purl.oclc.org/ooxml/wordprocessingml/main"
MC = "http://schemas.openxmlformats.org/markup-compatibility/2006"


def lines(body: str, namespace: str = TRANSITIONAL) -> list[str]:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        document = f'<w:document xmlns:w="{namespace}" xmlns:mc="{MC}"><w:body>{body}</w:body></w:document>'
        archive.writestr("word/document.xml", document)
    return [line for line in tidy(read_docx(out.getvalue()).text).split("\n") if line]


def paragraph(text: str) -> str:
    return f"<w:p><w:r><w:t>{text}</w:t></w:r></w:p>"


def row(*cells: str) -> str:
    return "<w:tr>" + "".join(f"<w:tc>{cell}</w:tc>" for cell in cells) + "</w:tr>"


def control(content: str) -> str:
    return f"<w:sdt><w:sdtPr/><w:sdtContent>{content}</w:sdtContent></w:sdt>"


def test_what_a_content_control_holds_is_read_wherever_it_stands() -> None:
    cell = control(f"<w:tc>{paragraph('Pump')}</w:tc>")
    first = f"<w:tr>{cell}<w:tc>{control(paragraph('12 bar'))}</w:tc></w:tr>"
    table = f"<w:tbl>{first}{control(row(paragraph('Crane'), paragraph('3 t')))}</w:tbl>"
    assert lines(control(paragraph("Tools")) + control(table)) == [
        "Tools",
        "Pump | 12 bar",
        "Crane | 3 t",
    ]
    assert lines(f"<w:customXml>{paragraph('inside')}</w:customXml>{paragraph('after')}") == [
        "inside",
        "after",
    ]


def test_a_table_in_a_cell_comes_once_after_its_row() -> None:
    inner = f"<w:tbl>{row(paragraph('Pump'), paragraph('12 bar'))}{row(paragraph('Crane'), paragraph('3 t'))}</w:tbl>"
    outer = f"<w:tbl>{row(paragraph('Outer') + inner + '<w:p/>', paragraph('beside'))}{row(paragraph('End'))}</w:tbl>"
    assert lines(outer) == ["Outer | beside", "Pump | 12 bar", "Crane | 3 t", "End"]


def test_the_paragraphs_of_a_text_box_are_lines() -> None:
    box = f"<w:txbxContent>{paragraph('First line')}{paragraph('Second line')}</w:txbxContent>"
    drawn = f"<mc:AlternateContent><mc:Choice>{box}</mc:Choice><mc:Fallback>{box}</mc:Fallback></mc:AlternateContent>"
    body = f"<w:p><w:r><w:t>Before</w:t></w:r><w:r>{drawn}</w:r><w:r><w:t>after</w:t></w:r></w:p>"
    assert lines(body) == ["Before", "First line", "Second line", "after"]


def test_what_was_moved_stands_where_it_was_moved_to() -> None:
    moved = "<w:r><w:t>Moved</w:t></w:r>"
    assert lines(
        f"<w:p><w:moveFrom>{moved}</w:moveFrom></w:p><w:p><w:moveTo>{moved}</w:moveTo></w:p>"
    ) == ["Moved"]
    assert lines("<w:p><w:r><w:t>A</w:t><w:noBreakHyphen/><w:t>4</w:t></w:r></w:p>") == ["A-4"]


@pytest.mark.parametrize("namespace", [TRANSITIONAL, STRICT])
def test_strict_open_xml_is_read_like_the_usual_one(namespace: str) -> None:
    assert lines(paragraph("House rules"), namespace) == ["House rules"]


@pytest.mark.parametrize("name", ["sdt", "smartTag"])
def test_wrappers_a_thousand_deep_are_corrupt(name: str) -> None:
    deep = f"<w:{name}>" * 2000 + paragraph("x") + f"</w:{name}>" * 2000
    with pytest.raises(UnreadableError, match="corrupt"):
        lines(deep if name == "sdt" else f"<w:p>{deep}</w:p>")
