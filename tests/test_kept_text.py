"""What a person sees in a file beside its running text, and what readers keep of it."""

from __future__ import annotations

import io
import zipfile
from typing import Any

import openpyxl
import pytest
from document_files import text_of
from lxml import etree
from pdf_files import pdf_in_letters
from pptx import Presentation
from pptx.util import Inches
from test_office_parts import OFFICE, WORD, changed, read, relation, relations

from rag_ft.documents.formats.alt_text import alt_text
from rag_ft.documents.formats.content import UnreadableError
from rag_ft.documents.formats.docx import read_docx
from rag_ft.documents.formats.epub import read_epub
from rag_ft.documents.formats.html import read_html
from rag_ft.documents.formats.latex import read_latex
from rag_ft.documents.formats.odt import read_odt
from rag_ft.documents.formats.pdf import read_pdf
from rag_ft.documents.formats.pptx import read_pptx
from rag_ft.documents.formats.spreadsheet import read_spreadsheet
from rag_ft.documents.formats.xml_text import read_xml

DIAGRAM = "http://schemas.openxmlformats.org/drawingml/2006/diagram"
DRAWING = "http://schemas.openxmlformats.org/drawingml/2006/main"
MATH = "http://schemas.openxmlformats.org/officeDocument/2006/math"
EMPTY_ZIP = b"PK\5\6" + bytes(18)
STEPS = (
    f'<d:dataModel xmlns:d="{DIAGRAM}" xmlns:a="{DRAWING}"><d:ptLst>'
    + "".join(
        f"<d:pt><d:t><a:p><a:r><a:t>{said}</a:t></a:r></a:p></d:t></d:pt>"
        for said in ("Order", "Check", "Ship")
    )
    + '<d:pt type="pres"/></d:ptLst></d:dataModel>'
).encode()


def saved(shown: Any) -> bytes:
    out = io.BytesIO()
    shown.save(out)
    return out.getvalue()


def word_file(body: str, **parts: bytes) -> bytes:
    spaces = f'xmlns:w="{WORD}" xmlns:r="{OFFICE}" xmlns:d="{DIAGRAM}" xmlns:m="{MATH}"'
    spaces += ' xmlns:w14="http://schemas.microsoft.com/office/word/2010/wordml"'
    spaces += ' xmlns:wp="http://schemas.openxmlformats.org/drawingml/2006/wordprocessingDrawing"'
    document = f"<w:document {spaces}><w:body>{body}</w:body></w:document>".encode()
    named = {f"word/{name}.xml": part for name, part in parts.items()}
    related = relations(relation("diagramData", "data.xml"))
    rest = {"word/document.xml": document, "word/_rels/document.xml.rels": related}
    return changed(EMPTY_ZIP, {**rest, **named})


def blank_slide() -> tuple[Any, Any]:
    shown = Presentation()
    return shown, shown.slides.add_slide(shown.slide_layouts[6])


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("Berths by month", "Berths by month"),
        ("港の係留場所の数", "港の係留場所の数"),
        ("Logo", ""),
        ("harbour plan.png", ""),
        ("A boat\n\nDescription automatically generated", ""),
        ("Ein Boot\n\nKI-generierte Inhalte können fehlerhaft sein.", ""),
        (None, ""),
    ],
)
def test_words_about_a_picture_are_kept_unless_a_program_guessed_them(
    said: str | None, kept: str
) -> None:
    assert alt_text(said) == kept


def test_words_about_pictures_of_a_page_are_kept_and_names_of_icons_are_not() -> None:
    page = (
        b"<p>See <img src=a.png alt='Plan of the harbour with nine berths'> below.</p>"
        b"<p><img src=b.png alt='Share'>Fees</p><table><tr><td>Quay</td><td>"
        b"<img src=c.png alt='Map of the quay in winter'></td></tr></table>"
    )
    assert text_of(read_html(page)) == (
        "See Plan of the harbour with nine berths below.\n\nFees\n\n"
        "Quay | Map of the quay in winter"
    )


def test_the_state_of_check_boxes_and_the_choice_of_a_list_are_read() -> None:
    control = (
        '<w:sdt><w:sdtPr><w14:checkbox><w14:checked w14:val="{0}"/></w14:checkbox></w:sdtPr>'
        "<w:sdtContent><w:r><w:t>\u2612</w:t></w:r></w:sdtContent></w:sdt>"
    )
    older = '<w:r><w:fldChar w:fldCharType="begin"><w:ffData>{0}</w:ffData></w:fldChar></w:r>'
    box = '<w:checkBox><w:default w:val="0"/>{0}</w:checkBox>'
    choice = (
        '<w:ddList><w:result w:val="1"/><w:listEntry w:val="Rope"/><w:listEntry w:val="Sail"/>'
        "</w:ddList>"
    )
    body = "".join(
        f"<w:p>{state}<w:r><w:t> {said}</w:t></w:r></w:p>"
        for said, state in [
            ("tea", control.format(1)),
            ("milk", control.format(0)),
            ("oil", older.format(box.format("<w:checked/>"))),
            ("tar", older.format(box.format(""))),
            ("loft", older.format(choice)),
        ]
    )
    assert text_of(read_docx(word_file(body))).split("\n\n") == [
        "[x] tea", "[ ] milk", "[x] oil", "[ ] tar", "Sail loft"
    ]  # fmt: skip


def test_a_word_file_keeps_diagrams_comments_with_author_and_words_about_pictures() -> None:
    body = (
        '<w:p><w:r><w:t>Plan</w:t></w:r><w:r><w:commentReference w:id="1"/></w:r><w:r><w:drawing>'
        '<wp:docPr id="1" descr="Plan of the quay"/><d:relIds r:dm="x1"/></w:drawing></w:r></w:p>'
    )
    comments = (
        f'<w:comments xmlns:w="{WORD}"><w:comment w:id="1" w:author="Ada Moe" '
        'w:date="2024-05-01T09:00:00Z"><w:p><w:r><w:t>Too short.</w:t></w:r></w:p></w:comment>'
        "</w:comments>"
    ).encode()
    assert text_of(read_docx(word_file(body, data=STEPS, comments=comments))) == (
        "Plan [1] Plan of the quay\n\n- Order\n- Check\n- Ship\n\n"
        "[1] Ada Moe, 2024-05-01: Too short."
    )


def test_the_name_of_a_function_stands_apart_from_what_it_is_of() -> None:
    def run(text: str) -> str:
        return f"<m:r><m:t>{text}</m:t></m:r>"

    limit = f"<m:limLow><m:e>{run('lim')}</m:e><m:lim>{run('n')}</m:lim></m:limLow>"
    body = f"<w:p><m:oMath><m:func><m:fName>{limit}</m:fName><m:e>{run('an')}</m:e></m:func>"
    assert text_of(read_docx(word_file(f"{body}</m:oMath></w:p>"))) == "lim_n an"


def test_a_slide_keeps_diagrams_pictures_and_shapes_with_equations() -> None:
    shown, slide = blank_slide()
    box = slide.shapes.add_textbox(Inches(1), Inches(3), Inches(3), Inches(1))
    box.text_frame.text = "The area is "
    paragraph = box.text_frame.paragraphs[0]._p
    math = f'<m:oMath xmlns:m="{MATH}"><m:r><m:t>x</m:t></m:r></m:oMath>'
    paragraph.append(etree.fromstring(math))
    mc = "http://schemas.openxmlformats.org/markup-compatibility/2006"
    wrapper = etree.fromstring(
        f'<mc:AlternateContent xmlns:mc="{mc}"><mc:Choice Requires="a14"/><mc:Fallback/>'
        "</mc:AlternateContent>"
    )
    box._element.addprevious(wrapper)
    wrapper[0].append(box._element)
    frame = slide.shapes.add_table(1, 1, Inches(1), Inches(1), Inches(3), Inches(1))._element
    data = frame.find(f".//{{{DRAWING}}}graphicData")
    data.clear()
    data.set("uri", DIAGRAM)
    data.append(etree.fromstring(f'<d:relIds xmlns:d="{DIAGRAM}" xmlns:r="{OFFICE}" r:dm="x1"/>'))
    frame.find(".//{*}cNvPr").set("descr", "How an order goes")
    raw, name = saved(shown), "ppt/slides/_rels/slide1.xml.rels"
    added = relation("diagramData", "../diagrams/data1.xml").encode() + b"</Relationships>"
    related = read(raw, name).replace(b"</Relationships>", added)
    whole = changed(raw, {name: related, "ppt/diagrams/data1.xml": STEPS})
    assert text_of(read_pptx(whole)) == (
        "- Order\n- Check\n- Ship\n\nHow an order goes\n\nThe area is x"
    )


def test_a_slide_repeats_merged_cells_in_the_rows_below_and_keeps_the_numbers_of_lists() -> None:
    shown, slide = blank_slide()
    table = slide.shapes.add_table(3, 2, Inches(1), Inches(1), Inches(3), Inches(1)).table
    for row, texts in enumerate([("Quay", "Berth"), ("North", "4"), ("", "7")]):
        for column, text in enumerate(texts):
            table.cell(row, column).text = text
    table.cell(1, 0).merge(table.cell(2, 0))
    box = slide.shapes.add_textbox(Inches(1), Inches(5), Inches(3), Inches(1)).text_frame
    box.text = "Moor\nPay\nSign\nLeave"
    for paragraph, kind in zip(
        box.paragraphs, ["romanLcPeriod"] * 3 + ["arabicParenR"], strict=True
    ):
        properties = paragraph._p.get_or_add_pPr()
        etree.SubElement(properties, f"{{{DRAWING}}}buAutoNum", type=kind)
    assert text_of(read_pptx(saved(shown))) == (
        "Quay | Berth\nNorth | 4\nNorth | 7\n\ni. Moor\nii. Pay\niii. Sign\n4) Leave"
    )


def test_comments_of_today_name_their_authors() -> None:
    shown, _ = blank_slide()
    raw, name = saved(shown), "ppt/slides/_rels/slide1.xml.rels"
    office = "http://schemas.microsoft.com/office/powerpoint/2018/8/main"
    comments = (
        f'<c xmlns="{office}" xmlns:a="{DRAWING}"><cm authorId="A1" created="2024-05-01T09:00:00">'
        "<txBody><a:p><a:r><a:t>Too</a:t></a:r><a:r><a:t> long.</a:t></a:r></a:p>"
        "<a:p><a:r><a:t>Cut it.</a:t></a:r></a:p></txBody></cm></c>"
    ).encode()
    added = relation("comments", "../comments/c1.xml").encode() + b"</Relationships>"
    related = read(raw, name).replace(b"</Relationships>", added)
    authors = f'<l xmlns="{office}"><author id="A1" name="Ada Moe"/></l>'.encode()
    parts = {name: related, "ppt/comments/c1.xml": comments, "ppt/authors.xml": authors}
    assert text_of(read_pptx(changed(raw, parts))) == "Ada Moe, 2024-05-01: Too long. Cut it."


def test_text_boxes_and_words_about_pictures_of_a_sheet_are_read() -> None:
    book = openpyxl.Workbook()
    book.active.append(["Berth", "7"])
    raw = saved(book)
    space = "http://schemas.openxmlformats.org/drawingml/2006/spreadsheetDrawing"
    drawing = (
        f'<x:wsDr xmlns:x="{space}" xmlns:a="{DRAWING}"><x:sp><x:txBody><a:p><a:r>'
        "<a:t>Paid until May.</a:t></a:r></a:p></x:txBody></x:sp><x:pic><x:nvPicPr>"
        '<x:cNvPr id="2" name="P" descr="Map of the quay"/></x:nvPicPr></x:pic></x:wsDr>'
    ).encode()
    related = relations(relation("drawing", "../drawings/drawing1.xml"))
    parts = {"xl/worksheets/_rels/sheet1.xml.rels": related, "xl/drawings/drawing1.xml": drawing}
    text = text_of(read_spreadsheet(changed(raw, parts)))
    assert text.endswith("Berth | 7\n\nPaid until May.\n\nMap of the quay")


def test_an_opendocument_text_keeps_comments_merged_cells_and_words_about_pictures() -> None:
    names = {
        "office": "office:1.0", "text": "text:1.0", "table": "table:1.0", "draw": "drawing:1.0",
        "svg": "svg-compatible:1.0",
    }  # fmt: skip
    spaces = " ".join(
        f'xmlns:{name}="urn:oasis:names:tc:opendocument:xmlns:{rest}"'
        for name, rest in names.items()
    )
    covered = "<table:covered-table-cell/>"

    def cell(text: str, more: str = "") -> str:
        return f"<table:table-cell{more}><text:p>{text}</text:p></table:table-cell>"

    rows = cell("North", ' table:number-rows-spanned="2"') + cell("4")
    body = (
        "<text:p>Plan<office:annotation><dc:creator>Ada Moe</dc:creator>"
        "<dc:date>2024-05-01T09:00:00</dc:date><text:p>Too short.</text:p></office:annotation>"
        "<draw:frame><draw:image/><svg:desc>Plan of the quay</svg:desc></draw:frame></text:p>"
        f"<table:table><table:table-row>{rows}</table:table-row>"
        f"<table:table-row>{covered}{cell('7')}</table:table-row></table:table>"
    )
    content = (
        f'<office:document-content {spaces} xmlns:dc="http://purl.org/dc/elements/1.1/">'
        f"<office:body><office:text>{body}</office:text></office:body></office:document-content>"
    )
    raw = changed(EMPTY_ZIP, {"content.xml": content.encode()})
    assert text_of(read_odt(raw)) == (
        "Plan Plan of the quay\n\nAda Moe, 2024-05-01: Too short.\n\nNorth | 4\nNorth | 7"
    )


def test_an_article_keeps_notes_of_tables_supplements_keywords_and_letters() -> None:
    article = """<article><front><article-meta><title-group><article-title>Tides</article-title>
      </title-group><kwd-group><kwd>moon</kwd><kwd>sea</kwd></kwd-group></article-meta></front>
      <body><p>Height per year<sup>-1</sup>.</p><table-wrap><label>Table 1</label><table><tr>
      <td>N</td><td>4</td></tr></table><table-wrap-foot><fn><p>N is the north.</p></fn>
      </table-wrap-foot></table-wrap><fig><label>Figure 1</label><p><fig><label>Figure 1a</label>
      <caption><p>The old pier.</p></caption></fig></p></fig></body><sub-article><front-stub>
      <title-group><article-title>Decision letter</article-title></title-group></front-stub><body>
      <p>We ask for more data.</p></body></sub-article></article>"""
    assert text_of(read_xml(article.encode())).split("\n\n") == [
        "Tides", "Keywords: moon; sea", "Height per year⁻¹.", "Table 1", "N | 4",
        "N is the north.", "Figure 1", "Figure 1a The old pier.", "Decision letter",
        "We ask for more data.",
    ]  # fmt: skip


def test_the_texts_that_latex_gives_names_to_stand_in_their_places() -> None:
    paper = rb"""\newcommand{\pump}{P-7\xspace}
    \def\harbour{\textbf{Old} Port}
    \newcommand\both{\pump at \harbour}
    \newcommand{\twice}[1]{#1 and #1}
    \begin{document}The \pump is at \harbour{}, \both. It lifts $\pump$ \pumps.\end{document}"""
    assert text_of(read_latex(paper)) == (
        "The P-7 is at Old Port, P-7 at Old Port. It lifts ${P-7}$ ."
    )


def test_the_authors_of_latex_and_of_a_book_are_read() -> None:
    paper = rb"""\documentclass{article}\title{Tides}
    \author{Ada Moe\thanks{Paid by the harbour.} \\ Port School \and % the second
    Bo Lind}\begin{document}\maketitle The sea rises.\end{document}"""
    assert text_of(read_latex(paper)).split("\n\n") == [
        "Tides", "Ada Moe Paid by the harbour., Port School; Bo Lind", "The sea rises."
    ]  # fmt: skip
    container = (
        '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
        '<rootfile full-path="b.opf"/></rootfiles></container>'
    )
    book = (
        '<package xmlns="http://www.idpf.org/2007/opf" xmlns:dc="http://purl.org/dc/elements/1.1/">'
        "<metadata><dc:title>Tides</dc:title><dc:creator>Ada Moe</dc:creator><dc:description>"
        "&lt;p&gt;How the sea rises.&lt;/p&gt;</dc:description></metadata><manifest>"
        '<item id="c" href="c.xhtml" media-type="application/xhtml+xml"/></manifest>'
        '<spine><itemref idref="c"/></spine></package>'
    )
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("META-INF/container.xml", container)
        archive.writestr("b.opf", book)
        archive.writestr("c.xhtml", "<html><body><p>At night.</p></body></html>")
    assert text_of(read_epub(out.getvalue())) == "Ada Moe\n\nHow the sea rises.\n\nAt night."


def test_the_letters_of_an_arabic_ligature_stand_in_their_order() -> None:
    # Drawn from left to right: teh, the ligature of lam and alef, kaf, lam, alef.
    letters = {"T": "\u062a", "X": "\u0644\u0627", "K": "\u0643", "L": "\u0644", "A": "\u0627"}
    assert (
        text_of(read_pdf(pdf_in_letters("TXKLA", letters)))
        == "\u0627\u0644\u0643\u0644\u0627\u062a"
    )


def test_a_damaged_slide_is_noted_or_the_file_rejected() -> None:
    shown, slide = blank_slide()
    slide.shapes.add_table(1, 1, *[Inches(1)] * 4)
    other = shown.slides.add_slide(shown.slide_layouts[5])
    other.shapes.title.text = "Berths"
    raw, name = saved(shown), "ppt/slides/slide1.xml"
    content = read_pptx(changed(raw, {name: read(raw, name).replace(b" uri=", b" urx=")}))
    assert (text_of(content), [part for part, _ in content.notes]) == ("Berths", ["slide 1"])
    with pytest.raises(UnreadableError, match="corrupt"):
        read_pptx(changed(raw, {name: read(raw, name)[:200]}))
