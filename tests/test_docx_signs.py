"""Word files: signs of fonts, readings, equations, names of headings, levels of lists."""

from __future__ import annotations

import io
import zipfile

import pytest
from document_files import text_of
from test_docx import TRANSITIONAL, paragraph

from rag_ft.documents.formats.docx import read_docx

NAMES = (
    f'xmlns:w="{TRANSITIONAL}" '
    'xmlns:m="http://schemas.openxmlformats.org/officeDocument/2006/math" '
    'xmlns:r="http://schemas.openxmlformats.org/officeDocument/2006/relationships"'
)
RELATIONS = "http://schemas.openxmlformats.org/package/2006/relationships"


def docx_of(body: str, **parts: str | bytes) -> bytes:
    """A Word file with parts such as `styles`."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(
            "word/document.xml", f"<w:document {NAMES}><w:body>{body}</w:body></w:document>"
        )
        for name, content in parts.items():
            if isinstance(content, str):
                content = f"<w:{name} {NAMES}>{content}</w:{name}>".encode()
            archive.writestr(f"word/{name}.xml", content)
    return out.getvalue()


def run(text: str, font: str = "", style: str = "") -> str:
    fonts = f'<w:rFonts w:ascii="{font}"/>' if font else ""
    named = f'<w:rStyle w:val="{style}"/>' if style else ""
    return f'<w:r><w:rPr>{named}{fonts}</w:rPr><w:t xml:space="preserve">{text}</w:t></w:r>'


def test_signs_of_a_font_that_a_run_or_its_style_names() -> None:
    styles = (
        '<w:style w:type="character" w:styleId="Sign"><w:rPr><w:rFonts w:ascii="Symbol"/></w:rPr>'
        "</w:style>"
    )
    body = f"<w:p>{run('5 ')}{run('m', 'Symbol')}{run('m, ')}{run(chr(0xF06D), style='Sign')}</w:p>"
    assert text_of(read_docx(docx_of(body, styles=styles))) == "5 μm, μ"


def test_a_reading_stands_in_brackets_after_its_word() -> None:
    ruby = f"<w:ruby><w:rt>{run('かんじ')}</w:rt><w:rubyBase>{run('漢字')}</w:rubyBase></w:ruby>"
    assert text_of(read_docx(docx_of(f"<w:p><w:r>{ruby}</w:r></w:p>"))) == "漢字(かんじ)"


def math(inner: str) -> str:
    return f"<w:p><m:oMath>{inner}</m:oMath></w:p>"


@pytest.mark.parametrize(
    "inner, said",
    [
        (
            "<m:rad><m:deg><m:r><m:t>3</m:t></m:r></m:deg><m:e><m:r><m:t>k</m:t></m:r></m:e></m:rad>",
            "3√(k)",
        ),
        (
            "<m:eqArr><m:e><m:r><m:t>r=1</m:t></m:r></m:e><m:e><m:r><m:t>s=2</m:t></m:r></m:e>"
            "</m:eqArr>",
            "r=1; s=2",
        ),
    ],
)
def test_all_parts_of_an_equation_are_read(inner: str, said: str) -> None:
    assert text_of(read_docx(docx_of(math(inner)))) == said


def test_an_equation_in_a_field_is_read_and_other_instructions_are_not() -> None:
    def field(instruction: str) -> str:
        return (
            '<w:r><w:fldChar w:fldCharType="begin"/></w:r>'
            f"<w:r><w:instrText>{instruction}</w:instrText></w:r>"
            '<w:r><w:fldChar w:fldCharType="end"/></w:r>'
        )

    equation, page = field(" EQ \\f(a+1,b) "), field(" PAGE ")
    body = f"<w:p>{run('Half is ')}{equation}{page}{run(' of it.')}</w:p>"
    assert text_of(read_docx(docx_of(body))) == "Half is (a+1,b) of it."


@pytest.mark.parametrize("name", ["heading 1,H1", "Otsikko 1", "见", "标题 1"])
def test_the_name_of_a_heading_may_have_other_names_after_it(name: str) -> None:
    styles = f'<w:style w:type="paragraph" w:styleId="x"><w:name w:val="{name}"/></w:style>'
    read = read_docx(docx_of(paragraph("Hours", "x") + paragraph("Nine."), styles=styles))
    assert read.title == ("" if name == "见" else "Hours")


def test_a_paragraph_of_outline_level_nine_is_text() -> None:
    styles = (
        '<w:style w:type="paragraph" w:styleId="x"><w:name w:val="Para"/>'
        '<w:pPr><w:outlineLvl w:val="0"/></w:pPr></w:style>'
    )
    text = paragraph("Text", "x").replace("</w:pPr>", '<w:outlineLvl w:val="9"/></w:pPr>')
    blocks = read_docx(docx_of(text + paragraph("Head", "x"), styles=styles)).blocks
    assert [block.kind for block in blocks] == ["paragraph", "heading"]


def test_lists_with_levels_of_their_own_and_arabic_numbers_alone() -> None:
    def level(number: int, form: str, text: str, start: int = 1, more: str = "") -> str:
        return (
            f'<w:lvl w:ilvl="{number}"><w:start w:val="{start}"/><w:numFmt w:val="{form}"/>{more}'
            f'<w:lvlText w:val="{text}"/></w:lvl>'
        )

    def item(text: str, list_id: int, at: int = 0) -> str:
        number = f'<w:numPr><w:ilvl w:val="{at}"/><w:numId w:val="{list_id}"/></w:numPr>'
        return f"<w:p><w:pPr>{number}</w:pPr>{run(text)}</w:p>"

    numbering = (
        '<w:abstractNum w:abstractNumId="0">'
        + level(0, "upperRoman", "%1.")
        + level(1, "decimal", "%1.%2", more="<w:isLgl/>")
        + '</w:abstractNum><w:num w:numId="1"><w:abstractNumId w:val="0"/></w:num>'
        '<w:num w:numId="2"><w:abstractNumId w:val="0"/><w:lvlOverride w:ilvl="0">'
        + level(0, "decimal", "Rule %1:", 9)
        + "</w:lvlOverride></w:num>"
    )
    body = item("a", 1) + item("b", 1) + item("c", 1, 1) + item("d", 2) + item("e", 2)
    text = text_of(read_docx(docx_of(body, numbering=numbering)))
    assert text == "I. a\nII. b\n  2.1 c\nRule 9: d\nRule 10: e"


def test_an_imported_word_file_is_known_by_its_type() -> None:
    out = io.BytesIO(docx_of('<w:altChunk r:id="A"/>'))
    kind = "application/vnd.openxmlformats-officedocument.wordprocessingml.document"
    with zipfile.ZipFile(out, "a") as archive:
        archive.writestr("word/part.bin", docx_of(paragraph("Cooled by Dagny Moe.")))
        archive.writestr(
            "word/_rels/document.xml.rels",
            f'<Relationships xmlns="{RELATIONS}"><Relationship Id="A" Type="x/aFChunk" '
            'Target="part.bin"/></Relationships>',
        )
        archive.writestr(
            "[Content_Types].xml",
            '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
            f'<Default Extension="bin" ContentType="{kind}"/></Types>',
        )
    assert text_of(read_docx(out.getvalue())) == "Cooled by Dagny Moe."
