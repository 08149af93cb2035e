"""Charts and comments of office files."""

from __future__ import annotations

import io
import zipfile

import openpyxl
from document_files import text_of
from openpyxl.comments import Comment
from pptx import Presentation
from pptx.chart.data import CategoryChartData
from pptx.enum.chart import XL_CHART_TYPE
from pptx.util import Inches

from rag_ft.documents.formats.docx import read_docx
from rag_ft.documents.formats.pptx import read_pptx
from rag_ft.documents.formats.spreadsheet import read_spreadsheet

RELATIONS = "http://schemas.openxmlformats.org/package/2006/relationships"
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
CHART = "http://schemas.openxmlformats.org/drawingml/2006/chart"
WORD = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"
TABLE = "Berths in use\n\n| Boats | Kayaks\nNorth | 12 | 4.5\nSouth | 7 | 9"


def slides() -> bytes:
    """A slide with a chart, as PowerPoint stores it."""
    data = CategoryChartData()
    data.categories = ["North", "South"]
    data.add_series("Boats", (12, 7))
    data.add_series("Kayaks", (4.5, 9))
    shown = Presentation()
    slide = shown.slides.add_slide(shown.slide_layouts[6])
    where = [Inches(1)] * 4
    chart = slide.shapes.add_chart(XL_CHART_TYPE.COLUMN_CLUSTERED, *where, data).chart
    chart.has_title = True
    chart.chart_title.text_frame.text = "Berths in use"
    out = io.BytesIO()
    shown.save(out)
    return out.getvalue()


def changed(raw: bytes, parts: dict[str, bytes]) -> bytes:
    """The zip file with other or more parts."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(raw)) as old, zipfile.ZipFile(out, "w") as new:
        for name in old.namelist():
            if name not in parts:
                new.writestr(name, old.read(name))
        for name, content in parts.items():
            new.writestr(name, content)
    return out.getvalue()


def relation(kind: str, target: str) -> str:
    return f'<Relationship Id="x1" Type="{OFFICE}/{kind}" Target="{target}"/>'


def relations(*found: str) -> bytes:
    return f'<Relationships xmlns="{RELATIONS}">{"".join(found)}</Relationships>'.encode()


def read(raw: bytes, name: str) -> bytes:
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        return archive.read(name)


def word_file_with(chart: bytes) -> bytes:
    """A Word file that shows "Berth 7" and a chart."""
    body = "<w:p><w:r><w:t>Berth 7</w:t></w:r><w:r>"
    body += f'<c:chart xmlns:c="{CHART}" xmlns:r="{OFFICE}" r:id="x1"/></w:r></w:p>'
    document = f'<w:document xmlns:w="{WORD}"><w:body>{body}</w:body></w:document>'
    parts = {
        "word/document.xml": document.encode(),
        "word/_rels/document.xml.rels": relations(relation("chart", "charts/chart1.xml")),
        "word/charts/chart1.xml": chart,
    }
    return changed(b"PK\5\6" + bytes(18), parts)


def test_a_chart_is_a_table_in_slides_and_in_word_files() -> None:
    raw = slides()
    assert text_of(read_pptx(raw)) == TABLE
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        name = next(n for n in archive.namelist() if n.startswith("ppt/charts/chart"))
    assert text_of(read_docx(word_file_with(read(raw, name)))) == f"Berth 7\n\n{TABLE}"


def test_a_damaged_chart_is_noted_and_the_text_stays() -> None:
    content = read_docx(word_file_with(b"<c:chart"))
    assert text_of(content) == "Berth 7"
    assert [where for where, _ in content.notes] == ["chart word/charts/chart1.xml"]


def test_comments_on_cells_follow_the_sheet() -> None:
    book = openpyxl.Workbook()
    sheet = book.active
    sheet.append(["Berth", "Fee"])
    sheet.append(["7", 40])
    sheet["B2"].comment = Comment("Members pay half.", "Ada")
    sheet["A2"].comment = Comment("[Threaded comment] Update Excel.", "tc={1}")
    out = io.BytesIO()
    book.save(out)
    text = text_of(read_spreadsheet(out.getvalue()))
    assert text.endswith("7 | 40\n\nB2 (Ada): Members pay half.")


def test_comments_on_a_slide_and_their_replies_follow_it() -> None:
    raw, name = slides(), "ppt/slides/_rels/slide1.xml.rels"
    comments = (
        b'<c xmlns="http://schemas.microsoft.com/office/powerpoint/2018/8/main" '
        b'xmlns:a="http://schemas.openxmlformats.org/drawingml/2006/main"><cm><replyLst><reply>'
        b"<txBody><a:p><a:r><a:t>No, 2024.</a:t></a:r></a:p></txBody></reply></replyLst>"
        b"<txBody><a:p><a:r><a:t>From 2023?</a:t></a:r></a:p></txBody></cm></c>"
    )
    added = relation("comments", "../comments/c1.xml").encode() + b"</Relationships>"
    related = read(raw, name).replace(b"</Relationships>", added)
    commented = changed(raw, {name: related, "ppt/comments/c1.xml": comments})
    assert text_of(read_pptx(commented)) == f"{TABLE}\n\nFrom 2023?\n\nNo, 2024."
