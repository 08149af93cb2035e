"""Readers, sentences, chunks, near-duplicates and splits: each from both ends, the result and the refusal."""

from __future__ import annotations

import io
import random
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rag_ft.documents.formats.cleaning import (
    decode,
    readable,
    tidy,
    tidy_in_place,
    unwrap,
)
from rag_ft.documents.formats.content import UnreadableError
from rag_ft.documents.formats.html import read_html
from rag_ft.documents.formats.markdown import read_markdown
from rag_ft.documents.formats.text import read_text
from rag_ft.documents.reading import read_file

MEGABYTE = 2**20
WORD_NS = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"


def make_pdf(lines: list[str], title: str = "") -> bytes:
    """A one-page PDF with a text layer, written by hand: pypdf only reads."""
    from pypdf import PdfWriter
    from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

    writer = PdfWriter()
    page = writer.add_blank_page(612, 792)
    font = DictionaryObject({NameObject("/Type"): NameObject("/Font"), NameObject("/Subtype"): NameObject("/Type1"),
                             NameObject("/BaseFont"): NameObject("/Helvetica")})  # fmt: skip
    page[NameObject("/Resources")] = DictionaryObject(
        {NameObject("/Font"): DictionaryObject({NameObject("/F1"): writer._add_object(font)})}
    )
    content = DecodedStreamObject()
    shown = " ".join(f"({line}) Tj T*" for line in lines)
    content.set_data(f"BT /F1 12 Tf 14 TL 72 700 Td {shown} ET".encode("latin-1"))
    page[NameObject("/Contents")] = writer._add_object(content)
    if title:
        writer.add_metadata({"/Title": title})
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def make_docx(body: str, title: str = "") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(
            "word/document.xml",
            f'<w:document xmlns:w="{WORD_NS}"><w:body>{body}</w:body></w:document>',
        )
        if title:
            dc = "http://purl.org/dc/elements/1.1/"
            archive.writestr(
                "docProps/core.xml", f'<p xmlns:dc="{dc}"><dc:title>{title}</dc:title></p>'
            )
    return out.getvalue()


def paragraph(text: str, style: str = "") -> str:
    marked = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
    return f"<w:p>{marked}<w:r><w:t>{text}</w:t></w:r></w:p>"


def read_as(tmp_path: Path, name: str, raw: bytes, max_bytes: float = MEGABYTE) -> Any:
    path = tmp_path / name
    path.write_bytes(raw)
    return read_file(path, max_bytes)


# Encodings


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32", "cp1252"])
def test_text_is_decoded_in_the_encodings_people_use(encoding: str) -> None:
    text = "Die Öffnungszeiten des Cafés – täglich “ab zehn”"
    assert decode(text.encode(encoding)) == text


def test_utf8_with_a_damaged_character_stays_utf8() -> None:
    assert decode("Größe, Maß und Übung: fünf Räume für Gäste".encode() + b"\xff") == (
        "Größe, Maß und Übung: fünf Räume für Gäste\ufffd"
    )


@pytest.mark.parametrize(
    "raw",
    [
        random.Random(0).randbytes(3000),
        b"\x89PNG\r\n\x1a\n" + bytes(range(256)) * 9,
        "Sixteen bits and no mark".encode("utf-16-le"),
        "Почтовый индекс и адрес".encode("koi8-r"),
        "営業時間は午前九時からです".encode("shift-jis"),
        b"\xff\xfeodd",
    ],
)
def test_binary_content_and_unknown_encodings_are_not_text(raw: bytes) -> None:
    with pytest.raises(UnreadableError, match="not text"):
        decode(raw)


def test_tidy_text_has_plain_newlines_no_controls_and_composed_characters() -> None:
    assert tidy("\ufeffa\x00b\r\nc\rd  \n\n\n\n\n\ne\u0301\u00a0f\x07 ") == "ab\nc\nd\n\n\n\u00e9 f"
    assert tidy("lone \ud800 surrogate") == "lone \ufffd surrogate"


def test_wrapped_paragraphs_become_one_line_and_other_lines_stay() -> None:
    wrapped = "The Skerry Chapel was completed in 1742 by Father\nAnskar Bloom, who was no builder, and it shows in\nways."
    assert (
        unwrap(f"Title\n{wrapped}\n\nPhone: 1\nFax: 2")
        == f"Title\n{wrapped.replace(chr(10), ' ')}\n\nPhone: 1\nFax: 2"
    )
    for kept in (
        "- The first of the items is a rather long line\n- The second of the items is a rather long line",
        "The speaker of the market hall: Delphine Osk, since spring\nPhone: 12\nThe key is kept: in the harbour office",
        "The Skerry Chapel | 1742 | Father Anskar Bloom | Hill\nThe Beacon Tower | 1936 | Sigrun Halle | Upper quay",
    ):
        assert unwrap(kept) == kept


def test_tidying_in_place_keeps_every_position() -> None:
    text = "a\x00b\r\nc\rd\ud800 answer"
    kept = tidy_in_place(text)
    assert len(kept) == len(text) and kept.index("answer") == text.index("answer")
    assert kept.encode() and "\r" not in kept and "\x00" not in kept


# Readers


def test_markdown_loses_its_marks_and_keeps_its_structure() -> None:
    content = read_markdown(
        b"---\ntitle: House rules\nyear: 2024\n---\n# Rules\n\n## **Opening** hours\nThe *hall* opens at `nine`; see "
        b'[the plan](plan.md "x").\n<!-- no\nsecret -->\n\n* one\n* two_words_here\n\n| Day | Time |\n'
        b"|---|:--:|\n| Mon | 9 |\n\n"
        b"```python\na = b['**c**'] # d\n```\n"
    )
    assert (content.title, content.metadata) == ("House rules", {"year": 2024})
    assert "Opening hours\nThe hall opens at nine; see the plan." in content.text
    assert "* one\n* two_words_here" in content.text and "Day | Time\nMon | 9" in tidy(content.text)
    assert "a = b['**c**'] # d" in content.text
    assert "secret" not in content.text and "---" not in content.text


def test_markdown_without_front_matter_is_titled_by_its_first_heading() -> None:
    assert read_markdown(b"Intro\n\n## Second\n\n# The *main* one #\ntext").title == "The main one"
    assert read_markdown(b"Under *lined*\n===\n\ntext").title == "Under lined"
    assert read_markdown(b"---\n: [bad yaml\n---\n# Title\n").title == "Title"
    assert read_markdown(b"---\ndate: 2024-13-45\n---\n# Title ##\n").title == "Title"
    assert read_markdown(b"# On C#\n").text == "On C#"
    assert read_markdown(b"```\n# a comment\n```\ntext").title == ""


def test_html_keeps_blocks_lists_and_tables_and_drops_scripts_and_navigation() -> None:
    content = read_html(
        b"<html><head><title>Site | Rules</title><style>p{}</style></head><body><nav>Home</nav>"
        b"<h1>House <i>rules</i></h1>"
        b"<script>var x='</p>';</script><!-- hidden --><p>First\n para<b>graph</b>.</p><p>Line<br>break &amp; more</p>"
        b"<ul><li><p>one</p></li><li>two</li></ul><table><tr><th>Day</th><th>Time</th></tr><tr><td>Mon</td>"
        b"<td><p>9</p></td></tr></table><pre>a\n  b</pre></body></html>"
    )
    assert content.title == "House rules"
    text = tidy(content.text)
    assert text.startswith("House rules\n\nFirst paragraph.\n\nLine\nbreak & more\n\n- one\n")
    assert (
        "\n- two\n" in text
        and "\nDay | Time\n" in text
        and "\nMon | 9\n" in text
        and text.endswith("\na\n  b")
    )
    assert not any(word in text for word in ("Home", "var", "hidden", "p{}", "Site"))


def test_html_is_read_in_the_encoding_it_declares() -> None:
    raw = '<meta charset="koi8-r"><title>Почта</title><p>Индекс</p>'.encode("koi8-r")
    content = read_html(raw)
    assert (content.title, content.text.strip()) == ("Почта", "Индекс")


def test_a_table_that_lays_out_the_page_is_no_table_of_facts() -> None:
    content = read_html(
        b"<table><tr><td>menu<td><h1>House<br>rules</h1><p>One.</p><p>Two.</p></table>"
    )
    assert content.title == "House rules" and "One.\n\nTwo." in content.text


def test_plain_text_is_titled_by_a_first_line_that_stands_alone() -> None:
    assert read_text(b"Opening hours\n\nThe hall opens.").title == "Opening hours"
    assert read_text(b"Opening hours\n=====\nThe hall opens.").title == "Opening hours"
    assert read_text(b"The hall opens at nine.\n\nIt closes.").title == ""
    assert read_text(b"one\ntwo").title == ""


def test_pdf_text_and_title_are_read(tmp_path: Path) -> None:
    content = read_as(
        tmp_path,
        "a.pdf",
        make_pdf(["The hall opens at nine.", "It is a long exam-", "ple."], "House rules"),
    )
    assert content.title == "House rules"
    assert "The hall opens at nine." in content.text and "long example." in content.text
    assert (
        read_as(tmp_path, "floor_plan.pdf", make_pdf(["x"], "Microsoft Word - Draft")).title
        == "Floor plan"
    )


def test_word_paragraphs_headings_lists_and_tables_are_read(tmp_path: Path) -> None:
    cells = "".join(f"<w:tc>{paragraph(c)}</w:tc>" for c in ("Day", "Time"))
    body = (
        paragraph("House rules", "Heading1") + paragraph("The hall opens.") + "<w:p/>"
        + '<w:p><w:pPr><w:numPr/></w:pPr><w:r><w:t>Item</w:t></w:r></w:p>' + f"<w:tbl><w:tr>{cells}</w:tr></w:tbl>"
        + '<w:p><w:hyperlink><w:r><w:t>a link</w:t><w:tab/></w:r></w:hyperlink>'
        + "<w:del><w:r><w:delText>old</w:delText></w:r></w:del></w:p>"
    )  # fmt: skip
    content = read_as(tmp_path, "a.docx", make_docx(body, "Ignored"))
    assert content.title == "House rules"
    assert content.text.split("\n") == [
        "House rules",
        "",
        "",
        "The hall opens.",
        "",
        "- Item",
        "Day | Time",
        "",
        "a link",
    ]
    assert read_as(tmp_path, "b.docx", make_docx(paragraph("x"), "Named")).title == "Named"


def test_a_title_is_at_last_the_files_name(tmp_path: Path) -> None:
    assert read_as(tmp_path, "opening_hours-2024.txt", b"just text").title == "Opening hours 2024"
    assert readable("a.b__c") == "A b c"


@pytest.mark.parametrize(
    ("name", "raw", "reason"),
    [
        ("a.pdf", b"%PDF-1.7\ngarbage", "corrupt"),
        ("a.pdf", b"no pdf at all", "corrupt"),
        ("a.docx", b"PK\x03\x04 broken", "corrupt"),
        ("a.docx", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "encrypted"),
        ("a.txt", random.Random(1).randbytes(500), "not text"),
        ("a.html", b"\x00\x01\x02\x03" * 50, "not text"),
        ("a.md", b"", "empty"),
        ("a.md", b" \n\t ", "empty"),
        ("a.html", b"<html><script>x</script></html>", "empty"),
        ("a.xyz", b"text", "unknown type"),
        ("noextension", b"text", "unknown type"),
        ("a.txt", b"x" * 3000, "too large"),
    ],
)
def test_a_file_that_gives_no_document_says_why(
    tmp_path: Path, name: str, raw: bytes, reason: str
) -> None:
    with pytest.raises(UnreadableError) as caught:
        read_as(tmp_path, name, raw, max_bytes=2000)
    assert caught.value.reason == reason


def test_damaged_pdf_and_word_files_never_raise_anything_else(tmp_path: Path) -> None:
    chance = random.Random(2)
    for name, whole in (
        ("a.pdf", make_pdf(["The hall opens."])),
        ("a.docx", make_docx(paragraph("The hall opens."))),
    ):
        for _ in range(60):
            raw = bytearray(
                whole[: chance.randrange(1, len(whole))] if chance.random() < 0.4 else whole
            )
            for _ in range(chance.randrange(1, 8)):
                raw[chance.randrange(len(raw))] = chance.randrange(256)
            try:
                read_as(tmp_path, name, bytes(raw))
            except UnreadableError as error:
                assert error.reason in {"corrupt", "empty", "encrypted", "too large", "not text"}


def test_an_encrypted_pdf_is_a_reject_unless_its_password_is_empty(tmp_path: Path) -> None:
    from pypdf import PdfReader, PdfWriter

    for password, readable_ in (("secret", False), ("", True)):
        writer = PdfWriter(clone_from=PdfReader(io.BytesIO(make_pdf(["The hall opens."]))))
        writer.encrypt(user_password=password, owner_password="owner", algorithm="RC4-128")
        out = io.BytesIO()
        writer.write(out)
        if readable_:
            assert "The hall opens." in read_as(tmp_path, "a.pdf", out.getvalue()).text
            continue
        with pytest.raises(UnreadableError, match="encrypted"):
            read_as(tmp_path, "a.pdf", out.getvalue())


def test_a_scanned_pdf_is_told_to_go_through_ocr(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match="OCR"):
        read_as(tmp_path, "a.pdf", make_pdf([]))


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError, match="too large"):
        read_as(tmp_path, "a.docx", make_docx(paragraph("x" * 10_000_000)))


def test_a_broken_link_is_unreadable(tmp_path: Path) -> None:
    link = tmp_path / "a.txt"
    link.symlink_to(tmp_path / "gone.txt")
    with pytest.raises(UnreadableError, match="broken link"):
        read_file(link, MEGABYTE)


@pytest.mark.parametrize("read", [read_markdown, read_html, read_text])
def test_hostile_repetition_is_read_in_linear_time(read: Callable[[bytes], Any]) -> None:
    begin = time.process_time()
    for piece in (
        "<!--",
        " ",
        "*a ",
        "__a ",
        "[a](",
        "| ",
        "-",
        "#",
        "# ",
        "`",
        "> ",
        "<p>",
        "<li>",
        "&#",
        "\n ",
        "\t\n",
    ):
        for raw in (piece * 5_000, "# x" + piece * 5_000 + "y", "|" + " " * 50_000 + piece + "|x"):
            read(raw.encode())
    assert time.process_time() - begin < 20
