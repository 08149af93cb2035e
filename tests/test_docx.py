"""Word files as Word writes them: content controls, nested tables, text boxes, strict Open XML."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import pytest
from document_files import check_that_damage_is_a_reject, read_as, text_of

from rag_ft.documents.formats import package
from rag_ft.documents.formats.content import UnreadableError
from rag_ft.documents.formats.docx import read_docx

TRANSITIONAL = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
STRICT = "http://purl.oclc.org/ooxml/wordprocessingml/main"
MC = "http://schemas.openxmlformats.org/markup-compatibility/2006"


def make_docx(
    body: str, title: str = "", namespace: str = TRANSITIONAL, packing: int = zipfile.ZIP_DEFLATED
) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", packing) as archive:
        names = f'xmlns:w="{namespace}" xmlns:mc="{MC}"'
        archive.writestr(
            "word/document.xml", f"<w:document {names}><w:body>{body}</w:body></w:document>"
        )
        if title:
            dc = "http://purl.org/dc/elements/1.1/"
            archive.writestr(
                "docProps/core.xml", f'<p xmlns:dc="{dc}"><dc:title>{title}</dc:title></p>'
            )
    return out.getvalue()


def lines(body: str, namespace: str = TRANSITIONAL) -> list[str]:
    # Not packed: a body that repeats itself a thousand times looks like a zip bomb when packed.
    raw = make_docx(body, namespace=namespace, packing=zipfile.ZIP_STORED)
    text = text_of(read_docx(raw))
    return [line for line in text.split("\n") if line]


def paragraph(text: str, style: str = "") -> str:
    marked = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
    return f"<w:p>{marked}<w:r><w:t>{text}</w:t></w:r></w:p>"


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
    pump = row(paragraph("Pump"), paragraph("12 bar"))
    crane = row(paragraph("Crane"), paragraph("3 t"))
    inner = f"<w:tbl>{pump}{crane}</w:tbl>"
    outer = row(paragraph("Outer") + inner + "<w:p/>", paragraph("beside"))
    assert lines(f"<w:tbl>{outer}{row(paragraph('End'))}</w:tbl>") == [
        "Outer | beside",
        "Pump | 12 bar",
        "Crane | 3 t",
        "End",
    ]


def test_the_paragraphs_of_a_text_box_are_lines() -> None:
    box = f"<w:txbxContent>{paragraph('First line')}{paragraph('Second line')}</w:txbxContent>"
    choices = f"<mc:Choice>{box}</mc:Choice><mc:Fallback>{box}</mc:Fallback>"
    drawn = f"<mc:AlternateContent>{choices}</mc:AlternateContent>"
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


def test_word_paragraphs_headings_lists_and_tables_are_read(tmp_path: Path) -> None:
    cells = "".join(f"<w:tc>{paragraph(c)}</w:tc>" for c in ("Day", "Time"))
    body = (
        paragraph("House rules", "Heading1")
        + paragraph("The hall opens.")
        + "<w:p/>"
        + "<w:p><w:pPr><w:numPr/></w:pPr><w:r><w:t>Item</w:t></w:r></w:p>"
        + f"<w:tbl><w:tr>{cells}</w:tr></w:tbl>"
        + "<w:p><w:hyperlink><w:r><w:t>a link</w:t><w:tab/></w:r></w:hyperlink>"
        + "<w:del><w:r><w:delText>old</w:delText></w:r></w:del></w:p>"
    )
    content = read_as(tmp_path, "a.docx", make_docx(body, "Ignored"))
    assert content.title == "House rules"
    assert content.text.split("\n") == [
        "House rules",
        "",
        "The hall opens.",
        "",
        "- Item",
        "",
        "Day | Time",
        "",
        "a link",
    ]
    assert read_as(tmp_path, "b.docx", make_docx(paragraph("x"), "Named")).title == "Named"


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(package, "MAX_UNPACKED_MB", 5)
    with pytest.raises(UnreadableError, match="too large"):
        read_as(tmp_path, "a.docx", make_docx(paragraph("x" * 10_000_000)))


def test_a_damaged_word_file_raises_nothing_else(tmp_path: Path) -> None:
    check_that_damage_is_a_reject(tmp_path, "a.docx", make_docx(paragraph("The hall opens.")))
