"""What other programs write: old notebooks, forwarded mail, XHTML with names of characters, raised
text in slides and OpenDocument texts, code and links in LaTeX, a delimiter that a file names."""

from __future__ import annotations

import io
import json
import zipfile
from typing import Any

import pytest
from document_files import text_of

from rag_ft.documents.formats.content import UnreadableError
from rag_ft.documents.formats.csv_table import read_csv
from rag_ft.documents.formats.html import content_of_html
from rag_ft.documents.formats.latex import read_latex
from rag_ft.documents.formats.mail import read_mail
from rag_ft.documents.formats.notebook import read_notebook
from rag_ft.documents.formats.odt import read_odt
from rag_ft.documents.formats.pptx import read_pptx
from rag_ft.documents.formats.rst import read_rst
from rag_ft.documents.formats.spreadsheet import read_spreadsheet


def test_notebooks_before_version_four_are_read() -> None:
    cells = [
        {"cell_type": "heading", "level": 2, "source": ["Oar yard"]},
        {"cell_type": "code", "input": ["x = 1"], "outputs": [{"text": ["1\n"]}]},
        {"cell_type": "raw", "source": "Kept by Ola."},
    ]
    content = read_notebook(json.dumps({"worksheets": [{"cells": cells}]}).encode())
    assert content.title == "Oar yard"
    assert text_of(content) == "Oar yard\n\nx = 1\n\n1\n\nKept by Ola."


def test_errors_of_notebooks_are_read_and_colours_are_not() -> None:
    outputs = [
        {"output_type": "error", "ename": "ValueError", "evalue": "bad lamp", "traceback": ["no"]},
        {"output_type": "stream", "text": "\x1b[0;31mred\x1b[0m"},
    ]
    cells = [{"cell_type": "code", "source": "x", "outputs": outputs}]
    text = text_of(read_notebook(json.dumps({"cells": cells}).encode()))
    assert text == "x\n\nValueError: bad lamp\n\nred"


def mail(kind: str, *parts: str) -> str:
    head = f"From: a@b.c\nSubject: Dock\nMIME-Version: 1.0\nContent-Type: {kind}; boundary=X\n\n"
    body = "".join(f"--X\nContent-Type: {part}\n" for part in parts)
    return text_of(read_mail(f"{head}{body}--X--\n".encode()))


def test_all_texts_of_a_message_are_read() -> None:
    assert mail("multipart/alternative", "text/plain\n\n", "text/html\n\n<p>In HTML</p>").endswith(
        "In HTML"
    )
    inner = "message/rfc822\n\nFrom: x@y.z\nSubject: Inner\n\nForwarded."
    text = mail("multipart/mixed", "text/plain\n\nOne.", "text/plain\n\nTwo.", inner)
    assert text.endswith("One.\n\nTwo.\n\nSubject: Inner\nFrom: x@y.z\n\nForwarded.")


def test_headers_are_decoded_as_browsers_understand_their_charset() -> None:
    # "gb2312" means gb18030, which has this letter.
    assert read_mail(b"Subject: =?gb2312?B?1uzpRg==?=\n\nHi").title == "朱镕"


def test_xhtml_may_name_characters_and_close_elements_at_once() -> None:
    page = (
        '<?xml version="1.0"?><html><head><title/></head><body><p>10&nbsp;oars{}</p></body></html>'
    )
    assert text_of(content_of_html(page.format("&eacute;"))) == "10 oarsé"
    # This one is no XML either.
    assert text_of(content_of_html(page.format("<br>x"))) == "10 oars\nx"


def test_code_and_links_of_latex_are_read() -> None:
    raw = rb"""\begin{document}See \href{http://a.b}{the dock}.
\begin{verbatim}
x_1 % {
\end{verbatim}
End.\end{document}"""
    assert text_of(read_latex(raw)) == "See the dock.\n\nx_1 % {\n\nEnd."


def test_a_csv_file_may_name_its_delimiter() -> None:
    assert text_of(read_csv(b"sep=|\nName|Fee, net\nPump|4,5\n")) == "Name | Fee, net\nPump | 4,5"


def test_raised_text_and_readings_of_opendocument_texts() -> None:
    names = " ".join(
        f'xmlns:{name}="urn:oasis:names:tc:opendocument:xmlns:{name}:1.0"'
        for name in ("office", "text", "style")
    )
    styles = "".join(
        f'<style:style style:name="{name}" style:family="text">'
        f'<style:text-properties style:text-position="{how}"/></style:style>'
        for name, how in (("T1", "super 58%"), ("T2", "-8% 58%"), ("T3", "0% 100%"))
    )
    spans = '10<text:span text:style-name="T1">6</text:span> of 7<text:span text:style-name="T3">8'
    spans += '</text:span>, x<text:span text:style-name="T2">1</text:span> '
    spans += (
        "<text:ruby><text:ruby-base>漢字</text:ruby-base><text:ruby-text>かんじ</text:ruby-text>"
    )
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("mimetype", "application/vnd.oasis.opendocument.text")
        archive.writestr(
            "content.xml",
            f"<office:document-content {names}><office:automatic-styles>{styles}"
            f"</office:automatic-styles><office:body><office:text><text:p>{spans}</text:ruby>"
            "</text:p></office:text></office:body></office:document-content>",
        )
    assert text_of(read_odt(out.getvalue())) == "10^6 of 78, x1 漢字(かんじ)"


def test_raised_text_of_slides() -> None:
    import pptx

    slides = pptx.Presentation()
    slide = slides.slides.add_slide(slides.slide_layouts[5])
    slide.shapes.title.text = "Area 10"
    run = slide.shapes.title.text_frame.paragraphs[0].add_run()
    run.text = "6"
    run._r.get_or_add_rPr().set("baseline", "30000")
    out = io.BytesIO()
    slides.save(out)
    assert read_pptx(out.getvalue()).title == "Area 10^6"


def test_directives_of_sphinx_are_read_as_the_text_that_they_hold() -> None:
    source = (
        ".. versionadded:: 2.0\n\n   New *lamp*.\n\n.. py:function:: light(a)\n   :noindex:\n\n"
        "   Lights it.\n\n.. code-block:: python\n   :caption: C\n   :linenos:\n\n   x = 1\n"
    )
    assert text_of(read_rst(source.encode())) == (
        "2.0\n\nNew lamp.\n\nlight(a)\n\nLights it.\n\nx = 1"
    )


def test_a_sheet_with_cells_far_from_each_other_is_noted_and_the_others_stay() -> None:
    import openpyxl

    book = openpyxl.Workbook()
    book.active["A1"] = book.active.cell(1_000_000, 1).value = "x"
    book.active.cell(1, 16_000).value = "y"
    with pytest.raises(UnreadableError, match="too large: workbook: 1000000 rows by 16000 columns"):
        read_spreadsheet(saved(book))
    book.create_sheet("Fees").append(["Heron", 4])
    content = read_spreadsheet(saved(book))
    assert text_of(content) == "Fees\n\nHeron | 4"
    assert [part for part, _ in content.notes] == ["sheet Sheet"]


def saved(book: Any) -> bytes:
    out = io.BytesIO()
    book.save(out)
    return out.getvalue()
