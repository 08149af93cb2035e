"""PDF files: text, title, hyphens, passwords, scanned pages and damage."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from document_files import check_that_damage_is_a_reject, read_as

from rag_ft.documents.formats.content import UnreadableError


def make_pdf(lines: list[str], title: str = "") -> bytes:
    """A one-page PDF with a text layer, written by hand: pypdf only reads."""
    from pypdf import PdfWriter
    from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

    writer = PdfWriter()
    page = writer.add_blank_page(612, 792)
    entries = {"/Type": "/Font", "/Subtype": "/Type1", "/BaseFont": "/Helvetica"}
    font = DictionaryObject({NameObject(k): NameObject(v) for k, v in entries.items()})
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


def test_a_damaged_pdf_raises_nothing_else(tmp_path: Path) -> None:
    check_that_damage_is_a_reject(tmp_path, "a.pdf", make_pdf(["The hall opens."]))
