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


def with_parts(body: str, parts: dict[str, str]) -> bytes:
    out = io.BytesIO(make_docx(body))
    with zipfile.ZipFile(out, "a") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
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


W = f'xmlns:w="{TRANSITIONAL}"'
RELATIONS = "http://schemas.openxmlformats.org/package/2006/relationships"
OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006"
MATH = f'xmlns:m="{OFFICE}/math"'


def package_of(
    body: str,
    parts: dict[str, str],
    relations: dict[str, str] | None = None,
    main: str = "document",
) -> bytes:
    """A Word file whose main part has other parts beside it: name -> XML inside its root, and
    relation id -> "type target"."""
    out = io.BytesIO()
    names = f'{W} {MATH} xmlns:r="{OFFICE}/relationships"'
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(
            "_rels/.rels",
            f'<Relationships xmlns="{RELATIONS}"><Relationship Id="r1" Target="word/{main}.xml" '
            f'Type="{OFFICE}/relationships/officeDocument"/></Relationships>',
        )
        archive.writestr(
            f"word/{main}.xml", f"<w:document {names}><w:body>{body}</w:body></w:document>"
        )
        for name, content in parts.items():
            root = name.split("/")[-1].split(".")[0]
            whole = f"<w:{root} {W}>{content}</w:{root}>" if name.endswith(".xml") else content
            archive.writestr(f"word/{name}", whole)
        related = "".join(
            f'<Relationship Id="{key}" Type="{OFFICE}/relationships/{value.split()[0]}" '
            f'Target="{value.split()[1]}"/>'
            for key, value in (relations or {}).items()
        )
        archive.writestr(
            f"word/_rels/{main}.xml.rels",
            f'<Relationships xmlns="{RELATIONS}">{related}</Relationships>',
        )
    return out.getvalue()


def listed(text: str, num_id: int, level: int = 0) -> str:
    number = f'<w:numPr><w:ilvl w:val="{level}"/><w:numId w:val="{num_id}"/></w:numPr>'
    return f"<w:p><w:pPr>{number}</w:pPr><w:r><w:t>{text}</w:t></w:r></w:p>"


def level(number: int, form: str, text: str, start: int = 1) -> str:
    return (
        f'<w:lvl w:ilvl="{number}"><w:start w:val="{start}"/><w:numFmt w:val="{form}"/>'
        f'<w:lvlText w:val="{text}"/></w:lvl>'
    )


def test_notes_stand_after_the_paragraph_that_refers_to_them() -> None:
    note = '<w:footnote w:id="{}"{}><w:p><w:r><w:t>{}</w:t></w:r></w:p></w:footnote>'
    notes = note.format(0, ' w:type="separator"', "---") + note.format(2, "", "Measured in 1998.")
    body = (
        '<w:p><w:r><w:t>40 m high</w:t></w:r><w:r><w:footnoteReference w:id="2"/></w:r></w:p>'
        + paragraph("Next.")
    )
    content = read_docx(package_of(body, {"footnotes.xml": notes}))
    assert text_of(content) == "40 m high [1]\n\n[1] Measured in 1998.\n\nNext."
    assert [block.kind for block in content.blocks] == ["paragraph", "footnote", "paragraph"]


def test_lists_keep_the_numbers_of_their_definition() -> None:
    numbering = (
        f'<w:abstractNum w:abstractNumId="7">{level(0, "decimal", "%1.", 4)}'
        f"{level(1, 'lowerLetter', '%1.%2)')}</w:abstractNum>"
        f'<w:abstractNum w:abstractNumId="8">{level(0, "bullet", "•")}</w:abstractNum>'
        '<w:num w:numId="1"><w:abstractNumId w:val="7"/></w:num>'
        '<w:num w:numId="2"><w:abstractNumId w:val="8"/></w:num>'
        '<w:num w:numId="3"><w:abstractNumId w:val="7"/><w:lvlOverride w:ilvl="0">'
        '<w:startOverride w:val="1"/></w:lvlOverride></w:num>'
    )
    items = [("a", 1, 0), ("b", 1, 0), ("c", 1, 1), ("d", 1, 1), ("e", 1, 0), ("f", 2, 0)]
    body = "".join(listed(*item) for item in [*items, ("g", 3, 0), ("h", 0, 0)])
    text = text_of(read_docx(package_of(body, {"numbering.xml": numbering})))
    assert text == "4. a\n5. b\n  5.a) c\n  5.b) d\n6. e\n- f\n1. g\n\nh", "numId 0 is no list"


def test_headings_and_lists_are_known_by_their_style() -> None:
    styles = (
        '<w:style w:styleId="Titre1"><w:name w:val="heading 1"/></w:style>'
        '<w:style w:styleId="X"><w:name w:val="Own"/><w:basedOn w:val="Titre1"/></w:style>'
        '<w:style w:styleId="Y"><w:name w:val="Level"/><w:pPr><w:outlineLvl w:val="2"/></w:pPr>'
        '</w:style><w:style w:styleId="L"><w:name w:val="List Bullet"/></w:style>'
    )
    body = paragraph("One", "Titre1") + paragraph("Two", "X") + paragraph("Three", "Y")
    numbered = (
        '<w:p><w:pPr><w:pStyle w:val="Titre1"/><w:numPr><w:numId w:val="1"/></w:numPr></w:pPr>'
    )
    body += paragraph("item", "L") + f"{numbered}<w:r><w:t>Four</w:t></w:r></w:p>"
    content = read_docx(package_of(body, {"styles.xml": styles}))
    assert [(b.kind, b.level, b.text) for b in content.blocks] == [
        ("heading", 1, "One"),
        ("heading", 1, "Two"),
        ("heading", 3, "Three"),
        ("item", 0, "- item"),
        ("heading", 1, "Four"),
    ]
    assert content.title == "One"


def test_numbered_headings_keep_their_numbers() -> None:
    numbering = (
        '<w:abstractNum w:abstractNumId="0">'
        '<w:lvl w:ilvl="0"><w:numFmt w:val="decimal"/><w:lvlText w:val="%1"/></w:lvl>'
        '<w:lvl w:ilvl="1"><w:numFmt w:val="decimal"/><w:lvlText w:val="%1.%2"/></w:lvl>'
        '<w:lvl w:ilvl="2"><w:numFmt w:val="decimal"/><w:lvlText w:val="%1.%2.%3"/></w:lvl>'
        '<w:lvl w:ilvl="3"><w:numFmt w:val="bullet"/><w:lvlText w:val="o"/></w:lvl>'
        '</w:abstractNum><w:num w:numId="7"><w:abstractNumId w:val="0"/></w:num>'
    )

    def style(level: int, number: str = "7") -> str:
        return (
            f'<w:style w:styleId="H{level}"><w:name w:val="heading {level}"/><w:pPr><w:numPr>'
            f'<w:ilvl w:val="{level - 1}"/><w:numId w:val="{number}"/></w:numPr></w:pPr></w:style>'
        )

    styles = style(1) + style(2) + style(3) + style(4) + style(5, "0")
    told = [
        ("Pumps", 1),
        ("Fees", 2),
        ("Hours", 2),
        ("", 1),
        ("Boats", 1),
        ("Oars", 3),
        ("Masts", 2),
    ]
    told += [("Bullet", 4), ("Plain", 5)]
    body = "".join(paragraph(text, f"H{level}") for text, level in told)
    content = read_docx(package_of(body, {"styles.xml": styles, "numbering.xml": numbering}))
    assert [b.text for b in content.blocks] == [
        "1 Pumps", "1.1 Fees", "1.2 Hours", "2 Boats", "2.1.1 Oars", "2.2 Masts", "Bullet", "Plain",
    ]  # fmt: skip


def test_equations_symbols_and_raised_text_are_read() -> None:
    equation = (
        "<m:oMath><m:r><m:t>P=</m:t></m:r><m:f><m:num><m:r><m:t>a+b</m:t></m:r></m:num><m:den>"
        "<m:r><m:t>2</m:t></m:r></m:den></m:f></m:oMath>"
    )
    raised = '<w:r><w:rPr><w:vertAlign w:val="superscript"/></w:rPr><w:t>6</w:t></w:r>'
    micro = '<w:r><w:sym w:font="Symbol" w:char="F06D"/></w:r>'
    odd = '<w:r><w:sym w:font="Wingdings" w:char="F0FC"/><w:sym w:font="Odd" w:char="E123"/></w:r>'
    body = f"<w:p><w:r><w:t>5 </w:t></w:r>{micro}<w:r><w:t>m, 10</w:t></w:r>{raised}{odd}</w:p>"
    body += f"<w:p>{equation}</w:p><w:tbl>{row(f'<w:p>{equation}</w:p>', paragraph('x'))}</w:tbl>"
    assert text_of(read_docx(package_of(body, {}))) == (
        "5 μm, 10^6✓□\n\nP=(a+b)/2\n\nP=(a+b)/2 | x"
    )


def test_imported_parts_are_read_and_others_are_noted() -> None:
    body = (
        paragraph("Before") + '<w:altChunk r:id="a"/><w:altChunk r:id="b"/><w:altChunk r:id="c"/>'
    )
    parts = {"a.html": "<p>cooled by <b>Dagny</b></p>", "b.txt": "plain words", "c.bin": "x"}
    related = {key: f"aFChunk {name}" for key, name in zip("abc", parts, strict=True)}
    content = read_docx(package_of(body, parts, related, main="document2"))
    assert text_of(content) == "Before\n\ncooled by Dagny\n\nplain words"
    assert content.notes == [("imported part word/c.bin", "unknown type: .bin")]


def test_a_merged_cell_is_repeated_and_a_row_is_one_line() -> None:
    def merged(how: str, text: str) -> str:
        return (
            f"<w:tc><w:tcPr><w:vMerge{how}/></w:tcPr>{paragraph(text) if text else '<w:p/>'}</w:tc>"
        )

    broken = "<w:p><w:r><w:t>a</w:t><w:br/><w:t>b</w:t></w:r></w:p>"
    pump, below = merged(' w:val="restart"', "Pump"), merged("", "")
    first = f"<w:tr>{pump}<w:tc>{broken}</w:tc></w:tr>"
    second = f"<w:tr>{below}<w:tc>{paragraph('c')}</w:tc></w:tr>"
    assert lines(f"<w:tbl>{first}{second}</w:tbl>") == ["Pump | a b", "Pump | c"]


def test_what_a_style_or_a_position_raises_is_an_exponent() -> None:
    moved = '<w:rPr><w:position w:val="10"/><w:sz w:val="12"/></w:rPr>'
    body = f"<w:p><w:r><w:t>10</w:t></w:r><w:r>{moved}<w:t>6</w:t></w:r></w:p>"
    assert lines(body) == ["10^6"]
    styled = '<w:rPr><w:rStyle w:val="Hoch"/></w:rPr>'
    rule = '<w:rPr><w:vertAlign w:val="superscript"/></w:rPr>'
    style = f'<w:style w:type="character" w:styleId="Hoch">{rule}</w:style>'
    raw = with_parts(
        f"<w:p><w:r><w:t>10</w:t></w:r><w:r>{styled}<w:t>7</w:t></w:r></w:p>",
        {"word/styles.xml": f'<w:styles xmlns:w="{TRANSITIONAL}">{style}</w:styles>'},
    )
    assert text_of(read_docx(raw)) == "10^7"


def test_imported_parts_are_known_by_their_type_and_read_in_cells() -> None:
    relation = (
        '<Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
        '<Relationship Id="a" Type="http://x/aFChunk" Target="a.dat"/></Relationships>'
    )
    types = (
        '<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
        '<Default Extension="dat" ContentType="text/html"/></Types>'
    )
    parts = {
        "word/_rels/document.xml.rels": relation,
        "[Content_Types].xml": types,
        "word/a.dat": "<p>Cooled by Dagny Moe",
    }
    chunk = f'<w:altChunk xmlns:r="{OFFICE}/relationships" r:id="a"/>'
    for body in (chunk, f"<w:tbl>{row(chunk)}</w:tbl>"):
        assert text_of(read_docx(with_parts(body, parts))) == "Cooled by Dagny Moe"


def test_names_of_parts_may_differ_in_case_and_slashes() -> None:
    raw = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(make_docx(paragraph("House rules")))) as usual:
        body = usual.read("word/document.xml")
    with zipfile.ZipFile(raw, "w") as archive:
        archive.writestr("Word\\Document.xml", body)
    assert text_of(read_docx(raw.getvalue())) == "House rules"
