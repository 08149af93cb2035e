"""Files of every other format, made here: what they say is read, in order."""

from __future__ import annotations

import io
import json
import mailbox
import tarfile
import zipfile
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from document_files import check_that_damage_is_a_reject, read_as, text_of

from rag_ft.documents.formats import sniffed
from rag_ft.documents.formats.content import UnreadableError
from rag_ft.documents.formats.csv_table import read_csv
from rag_ft.documents.formats.latex import read_latex
from rag_ft.documents.formats.odt import read_odt
from rag_ft.documents.formats.rst import read_rst
from rag_ft.documents.formats.xml_text import read_xml
from rag_ft.documents.reading import ReadSettings, read_parts


def xlsx() -> bytes:
    import openpyxl

    book = openpyxl.Workbook()
    sheet = book.active
    sheet.title = "Berths"
    for row in (["Name", "Fee", "Since"], ["Heron", 40.0, 1998], ["Pier", 7.5, None]):
        sheet.append(row)
    sheet.append(["Two", 1, 2])
    sheet.append([None, 3, 4])
    sheet.merge_cells("A4:A5")
    book.create_sheet("Hidden").sheet_state = "hidden"
    out = io.BytesIO()
    book.save(out)
    return out.getvalue()


def pptx() -> bytes:
    from pptx import Presentation
    from pptx.util import Inches

    show = Presentation()
    slide = show.slides.add_slide(show.slide_layouts[1])
    slide.shapes.title.text = "Harbour plan"
    slide.placeholders[1].text = "Dig the basin\nBuild the quay"
    slide.notes_slide.notes_text_frame.text = "Say it slowly."
    table = (
        show.slides.add_slide(show.slide_layouts[6])
        .shapes.add_table(2, 2, Inches(1), Inches(1), Inches(4), Inches(1))
        .table
    )
    for n, text in enumerate(("Item", "Fee", "Pump", "40")):
        table.cell(n // 2, n % 2).text = text
    out = io.BytesIO()
    show.save(out)
    return out.getvalue()


def zipped(parts: dict[str, str | bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return out.getvalue()


def epub() -> bytes:
    container = (
        '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
        '<rootfile full-path="OEBPS/book.opf"/></rootfiles></container>'
    )
    book = (
        '<package xmlns="http://www.idpf.org/2007/opf"><metadata '
        'xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>The lamp</dc:title></metadata>'
        '<manifest><item id="a" href="a.xhtml" media-type="application/xhtml+xml"/><item id="b" '
        'href="b.xhtml" media-type="application/xhtml+xml"/></manifest><spine>'
        '<itemref idref="b"/><itemref idref="a"/></spine></package>'
    )
    page = '<?xml version="1.0"?><html><head><title/></head><body>{}</body></html>'
    return zipped(
        {
            "mimetype": "application/epub+zip",
            "META-INF/container.xml": container,
            "OEBPS/book.opf": book,
            "OEBPS/a.xhtml": page.format("<p>It burns.</p>"),
            "OEBPS/b.xhtml": page.format("<h1>One</h1><p>It stands.</p>"),
        }
    )


def odt() -> bytes:
    names = " ".join(
        f'xmlns:{short}="urn:oasis:names:tc:opendocument:xmlns:{short}:1.0"'
        for short in ("office", "text", "table")
    )
    body = (
        '<text:h text:outline-level="2">Rules</text:h><text:p>Keep<text:s text:c="1"/>out'
        "<text:note><text:note-citation>1</text:note-citation><text:note-body><text:p>Or not."
        "</text:p></text:note-body></text:note>.</text:p><text:list><text:list-item><text:p>one"
        "</text:p></text:list-item><text:list-item><text:p>two</text:p></text:list-item></text:list>"
        "<table:table><table:table-row><table:table-cell><text:p>a</text:p></table:table-cell>"
        "<table:table-cell><text:p>b</text:p></table:table-cell></table:table-row></table:table>"
    )
    content = (
        f"<office:document-content {names}><office:body><office:text>{body}</office:text>"
        "</office:body></office:document-content>"
    )
    mime = "application/vnd.oasis.opendocument.text"
    return zipped({"mimetype": mime, "content.xml": content})


def mail(subject: str = "Berth 7", html: bool = False) -> bytes:
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "ola@a.example", "ilva@b.example", subject
    message.set_content("The fee is forty euro.\n")
    if html:
        message.clear_content()
        message.set_content("<p>The fee is <b>forty</b> euro.</p>", subtype="html")
    message.add_attachment(b"x", maintype="image", subtype="png", filename="a.png")
    return message.as_bytes()


NOTEBOOK = json.dumps(
    {
        "cells": [
            {"cell_type": "markdown", "source": ["# Load\n", "\n", "Of the crane."]},
            {
                "cell_type": "code",
                "source": "print(12)",
                "outputs": [{"output_type": "stream", "text": ["12\n"]}],
            },
        ]
    }
).encode()
RTF = (
    rb"{\rtf1\ansi\ansicpg1252{\fonttbl{\f0 Arial;}}{\info{\title Lamp rules}}"
    rb"\f0 The caf\'e9 opens \u8211? at nine.\par Second.\par}"
)


@pytest.mark.parametrize(
    ("name", "raw", "title", "text"),
    [
        (
            "a.xlsx",
            xlsx(),
            "A",
            "Berths\n\nName | Fee | Since\nHeron | 40 | 1998\nPier | 7.5 |\nTwo | 1 | 2\n"
            "Two | 3 | 4",
        ),
        (
            "a.pptx",
            pptx(),
            "Harbour plan",
            "Harbour plan\n\n- Dig the basin\n- Build the quay\n\nSay it slowly.\n\n"
            "Item | Fee\nPump | 40",
        ),
        ("a.epub", epub(), "The lamp", "One\n\nIt stands.\n\nIt burns."),
        ("a.odt", odt(), "Rules", "Rules\n\nKeep out [1].\n\n[1] Or not.\n\n- one\n- two\n\na | b"),
        (
            "a.eml",
            mail(),
            "Berth 7",
            "Berth 7\n\nFrom: ola@a.example\nTo: ilva@b.example\n\nThe fee is forty euro.",
        ),
        (
            "b.eml",
            mail(html=True),
            "Berth 7",
            "Berth 7\n\nFrom: ola@a.example\nTo: ilva@b.example\n\nThe fee is forty euro.",
        ),
        ("a.ipynb", NOTEBOOK, "Load", "Load\n\nOf the crane.\n\nprint(12)\n\n12"),
        ("a.rtf", RTF, "Lamp rules", "The café opens – at nine.\n\nSecond."),
        ("a.py", b"def f():\n    x = 1\n\n    return x\n\n\ny = 2\n", "A", None),
        ("wrong.txt", epub(), "The lamp", "One\n\nIt stands.\n\nIt burns."),
    ],
)
def test_a_file_says_what_it_says(
    tmp_path: Path, name: str, raw: bytes, title: str, text: str | None
) -> None:
    found = read_as(tmp_path, name, raw)
    expected = text or "def f():\n    x = 1\n\n    return x\n\ny = 2"
    assert (found.title, found.text) == (title, expected)


@pytest.mark.parametrize(
    ("name", "raw"),
    [("a.xlsx", xlsx()), ("a.pptx", pptx()), ("a.epub", epub()), ("a.odt", odt()), ("a.rtf", RTF),
     ("a.eml", mail()), ("a.ipynb", NOTEBOOK)],
)  # fmt: skip
def test_a_damaged_file_raises_nothing_else(tmp_path: Path, name: str, raw: bytes) -> None:
    check_that_damage_is_a_reject(tmp_path, name, raw)


def test_parts_that_are_not_read_are_noted(tmp_path: Path) -> None:
    assert read_as(tmp_path, "a.xlsx", xlsx()).notes == [("sheet Hidden", "hidden")]
    assert read_as(tmp_path, "a.eml", mail()).notes == [("attachment a.png", "not read")]
    blocks = read_as(tmp_path, "a.pptx", pptx()).blocks
    assert {(block.page, block.page_end) for block in blocks} == {(1, 1), (2, 2)}


def test_rows_of_a_long_table_name_their_columns() -> None:
    rows = "".join(f"Pier {n};{n},5;\n" for n in range(20))
    lines = text_of(read_csv(f"Name;Fee;Note\n{rows}".encode())).split("\n")
    assert lines[0] == "Name | Fee | Note" and lines[8] == "Name: Pier 7; Fee: 7,5"
    assert text_of(read_csv(b"a\tb\n1\t2\n")) == "a | b\n1 | 2"
    assert text_of(read_csv('x,"two\nlines, é"\n'.encode("cp1252"))) == "x | two lines, é"


def test_restructured_text_loses_its_marks() -> None:
    raw = (
        b"Guide\n=====\n\nSee :ref:`the plan <plan>` and ``x``.\n\n* one\n* two\n\n"
        b".. code-block:: python\n\n   y = 1\n\n.. include:: /etc/hostname\n\n"
        b"Hours\n-----\n\nNine.\n"
    )
    content = read_rst(raw)
    text = text_of(content)
    assert text.startswith("Guide\n\nSee the plan and x.\n\n- one\n- two\n\ny = 1\n\n")
    assert text.endswith("Hours\n\nNine.") and content.title == "Guide"


def test_latex_keeps_formulas_and_headings() -> None:
    raw = (
        rb"\documentclass{article}\title{On \emph{cranes}}\begin{document}\maketitle % no"
        b"\n\\section{Load}\nThe angle $\\theta$ is {\\bf small}.\n\n\\subsection*{Rope}\nIt holds."
        b"\\end{document}"
    )
    content = read_latex(raw)
    assert content.title == "On cranes"
    assert text_of(content) == (
        "On cranes\n\nLoad\n\nThe angle $\\theta$ is small.\n\nRope\n\nIt holds."
    )


def test_articles_in_jats_have_sections_tables_and_raised_digits() -> None:
    raw = (
        b"<article><front><article-meta><title-group><article-title>On lamps</article-title>"
        b"</title-group><abstract><p>Short.</p></abstract></article-meta></front><body><sec><title>"
        b"Method</title><p>Of 10<sup>6</sup> lamps<xref>1</xref>.</p><table-wrap><label>Table 1"
        b"</label><caption><p>Fees</p></caption><table><thead><tr><th>a</th><th>b</th></tr></thead>"
        b"<tbody><tr><td>1</td><td>2</td></tr></tbody></table></table-wrap></sec></body></article>"
    )
    content = read_xml(raw)
    assert text_of(content) == (
        "On lamps\n\nAbstract\n\nShort.\n\nMethod\n\nOf 10^6 lamps1.\n\n"
        "Table 1 Fees\n\na | b\n1 | 2"
    )
    assert text_of(read_xml(b"<a><b>x</b>tail<c/></a>")) == "x\n\ntail"
    with pytest.raises(UnreadableError, match="corrupt"):
        read_xml(b"no xml")


@pytest.mark.parametrize("damaged", [False, True])
def test_the_numbers_of_charts_in_open_document_texts_are_read(damaged: bool) -> None:
    start = "urn:oasis:names:tc:opendocument:xmlns:"
    names = " ".join(
        f'xmlns:{n}="{start}{"drawing" if n == "draw" else n}:1.0"'
        for n in ("office", "text", "table", "draw", "chart")
    )
    names += ' xmlns:xlink="http://www.w3.org/1999/xlink"'
    body = (
        '<text:p>See:<draw:frame><draw:object xlink:href="./Object 1"/></draw:frame></text:p>'
        '<text:p><draw:frame><draw:object xlink:href="./Object 2"/></draw:frame>End.</text:p>'
    )
    cells = "".join(f"<table:table-cell><text:p>{n}</text:p></table:table-cell>" for n in (3, 4))
    chart = (
        f"<office:document-content {names}><office:body><office:chart><chart:chart><chart:title>"
        f"<text:p>Boats</text:p></chart:title><table:table><table:table-row>{cells}"
        "</table:table-row></table:table></chart:chart></office:chart></office:body>"
        "</office:document-content>"
    )
    content = (
        f"<office:document-content {names}><office:body><office:text>{body}</office:text>"
        "</office:body></office:document-content>"
    )
    parts = {"content.xml": content, "Object 1/content.xml": chart[: 300 if damaged else None]}
    read = read_odt(zipped({"mimetype": "application/vnd.oasis.opendocument.text", **parts}))
    told = "" if damaged else "Boats\n\n3 | 4\n\n"
    assert text_of(read) == f"See:\n\n{told}End."


def test_names_and_references_in_jats_keep_their_words_apart() -> None:
    names = "<name><surname>Vey</surname><given-names>Lorcan</given-names></name>"
    group = f"<person-group>{names}{names.replace('Vey', 'Torrent')}</person-group>"
    raw = (
        f"<article><front><article-meta><contrib-group><contrib>{names}</contrib></contrib-group>"
        "<aff><institution>Boat Office</institution><country>Uskar</country></aff>"
        "<title-group><article-title>On lamps</article-title></title-group></article-meta></front>"
        f"<body><p>Text.</p></body><back><ref-list><ref><label>1</label><element-citation>{group}"
        "<year>2001</year><source>Lamps</source></element-citation></ref><ref><mixed-citation>"
        f"{names}, {names}. Masts.</mixed-citation></ref></ref-list></back></article>"
    )
    assert text_of(read_xml(raw.encode())) == (
        "On lamps\n\nLorcan Vey; Boat Office Uskar\n\nText.\n\n"
        "- 1 Vey Lorcan Torrent Lorcan 2001 Lamps\n- Vey Lorcan, Vey Lorcan. Masts."
    )


def parts_of(path: Path, max_bytes: float = 10_000) -> dict[str, str]:
    return {
        name: str(found) if isinstance(found, UnreadableError) else found.text
        for name, found in read_parts(path, ReadSettings(max_bytes))
    }


def test_archives_and_mailboxes_give_their_documents(tmp_path: Path) -> None:
    inside: dict[str, Any] = {
        "a/one.md": b"# One\n\nText.",
        "two.txt": b"Two.",
        ".hidden.txt": b"no",
        "x.jpg": b"\xff\xd8",
        "big.txt": b"x" * 20_000,
    }
    path = tmp_path / "a.zip"
    path.write_bytes(zipped(inside))
    expected = {
        "a/one.md": "One\n\nText.",
        "two.txt": "Two.",
    }
    found = parts_of(path)
    assert {name: found[name] for name in expected} == expected and len(found) == 4
    assert found["x.jpg"].startswith("unknown type") and found["big.txt"].startswith("too large")

    tar = tmp_path / "a.tar.gz"
    with tarfile.open(tar, "w:gz") as archive:
        for name, content in inside.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    assert parts_of(tar) == found

    box = mailbox.mbox(tmp_path / "a.mbox")
    box.add(mail("First"))
    box.add(mail("Second"))
    box.flush()
    assert [text[:6] for text in parts_of(tmp_path / "a.mbox").values()] == ["First\n", "Second"]


def test_what_would_unpack_to_too_much_is_not_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rag_ft.documents.formats import archive

    path = tmp_path / "a.zip"
    path.write_bytes(zipped({f"{n}.txt": b"x" * 9000 for n in range(200)}))
    monkeypatch.setattr(archive, "MAX_UNPACKED_MB", 1)
    with pytest.raises(UnreadableError, match="too large"):
        parts_of(path)


def test_the_content_decides_over_the_name() -> None:
    assert sniffed(b"%PDF-1.7 ...", ".txt") == ".pdf" and sniffed(b"{\\rtf1 x}", ".doc") == ".rtf"
    assert sniffed(xlsx(), ".zip") == ".xlsx" and sniffed(b"plain", ".txt") == ".txt"


def test_a_program_of_the_user_reads_the_types_it_is_given(tmp_path: Path) -> None:
    command = ("sh", "-c", 'printf "# Scan\\n\\nRead from %s" "$(basename "$0")"', "{file}")
    options = {"parser_command": command, "parser_suffixes": (".pdf",)}
    found = read_as(tmp_path, "a.pdf", b"any bytes", **options)
    assert (found.title, found.text) == ("Scan", "Scan\n\nRead from a.pdf")
    assert read_as(tmp_path, "a.txt", b"Plain.", **options).text == "Plain."
    failing = {**options, "parser_command": ("sh", "-c", "echo no model >&2; exit 3")}
    with pytest.raises(UnreadableError, match="parser failed: sh: no model"):
        read_as(tmp_path, "a.pdf", b"any bytes", **failing)
