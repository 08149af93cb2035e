"""PDF files: text, title, hyphens, passwords, scanned pages and damage."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from document_files import check_that_damage_is_a_reject, read_as
from pdf_files import pdf_in_codes, pdf_of, widget

from rag_ft.documents.blocks import join_blocks
from rag_ft.documents.formats.content import UnreadableError
from rag_ft.documents.formats.pdf import read_pdf


def make_pdf(lines: list[str], title: str = "") -> bytes:
    return pdf_of([[(72, 700 - 14 * n, 12, line) for n, line in enumerate(lines)]], title)


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


def read(raw: bytes) -> list[tuple[str, int | None, str]]:
    content = read_pdf(raw)
    text, blocks = join_blocks(content.blocks)
    return [(block.kind, block.page, text[block.start : block.end]) for block in blocks]


def test_headings_footnotes_and_pages_are_told_apart() -> None:
    first = [
        (72, 740, 18, "Harbour guide"),
        (72, 700, 11, "*Opening hours"),
        (72, 684, 11, "The museum opens at nine in the morning and closes at five in the"),
        (72, 670, 11, "afternoon."),
        (72, 640, 14, "Prices"),
        (72, 620, 11, "The fee of the eastern berth is paid by the"),
        (72, 60, 8, "1 Counted in 1998 by Ola Brand."),
    ]
    raw = pdf_of([first, [(72, 740, 11, "board of the harbour.")]])
    assert read(raw) == [
        ("heading", 1, "Harbour guide"),
        ("heading", 1, "Opening hours"),
        (
            "paragraph",
            1,
            "The museum opens at nine in the morning and closes at five in the afternoon.",
        ),
        ("heading", 1, "Prices"),
        ("paragraph", 1, "The fee of the eastern berth is paid by the board of the harbour."),
        ("footnote", 1, "1 Counted in 1998 by Ola Brand."),
    ]
    assert read_pdf(raw).blocks[4].page_end == 2 and read_pdf(raw).title == "Harbour guide"


def test_running_heads_and_page_numbers_go_and_text_stays() -> None:
    numbers = ("i", "ii", "iii", "iv", "v", "vi")
    pages = [
        [
            (72, 760, 9, "Report 2019" if n % 2 else f"Chapter {n // 5}"),
            (72, 700, 11, f"Ferry {n * 7} sails to pier {n}."),
            (300, 30, 9, f"- {number} -"),
        ]
        for n, number in enumerate(numbers)
    ]
    assert [text for *_, text in read(pdf_of(pages))] == [
        f"Ferry {n * 7} sails to pier {n}." for n in range(6)
    ]


def test_fields_stand_after_their_labels_and_notes_are_read() -> None:
    states = {"/N": {"/Yes": {}, "/Off": {}}}
    labels = ["Boat name:", "Kind:", "Power", "Water"]
    raw = pdf_of(
        [[(100, 700 - 20 * n, 12, label) for n, label in enumerate(labels)]],
        fields=[
            widget("/Tx", (170, 696, 300, 712), T="name", V="Grey Heron"),
            widget("/Ch", (170, 676, 300, 692), T="kind", V="long", Opt=["long"], Ff=131072),
            widget("/Btn", (80, 658, 92, 670), T="power", V="/Yes", AS="/Yes", AP=states),
            widget("/Btn", (80, 638, 92, 650), T="water", V="/Off", AS="/Off", AP=states),
            {"/Type": "/Annot", "/Subtype": "/FreeText", "/Rect": [100, 500, 300, 520],
             "/Contents": "Closed since May"},
        ],
    )  # fmt: skip
    text = "\n".join(text for *_, text in read(raw))
    assert text == "Boat name: Grey Heron\nKind: long\nPower [x] Yes\nWater\nClosed since May"


def test_pieces_are_neither_glued_nor_doubled_nor_mixed() -> None:
    def text(*shown: tuple[float, float, float, str]) -> str:
        return "\n".join(text for *_, text in read(pdf_of([shown])))

    assert text((300, 700, 12, "4500 euro"), (72, 700, 12, "Price of the crane:")) == (
        "Price of the crane: 4500 euro"
    )
    letters = [(72 + 7 * n, 700, 12, c) for n, c in enumerate("Fee4500")]
    assert text(*(shown for letter in letters for shown in (letter, letter))) == "Fee4500"
    columns = [
        part
        for n in range(6)
        for part in (
            (72, 700 - 14 * n, 10, f"the left column says {n} and goes on"),
            (320, 700 - 14 * n, 10, f"the right column says {n} and ends"),
        )
    ]
    left, right = text(*columns).split("the right", 1)
    assert "right" not in left and "left" not in right and right.count("column") == 6


def test_broken_words_and_items_of_a_page() -> None:
    lines = [
        "It opens in the mor-",
        " ning, the north-west in the north-",
        "west, pages 10-",
        "20.",
    ]
    shown = [(72, 700 - 14 * n, 11, line) for n, line in enumerate(lines)]
    assert [text for *_, text in read(pdf_of([shown]))] == [
        "It opens in the morning, the north-west in the north-west, pages 10-20."
    ]
    listed = [
        "Bring the following things along to the gate of the museum:",
        "o a ticket",
        "o a card",
    ]
    shown = [(72, 700 - 14 * n, 11, line) for n, line in enumerate(listed)]
    assert [kind for kind, *_ in read(pdf_of([shown]))] == ["paragraph", "item", "item"]


def test_a_page_without_text_is_noted_and_the_others_stay() -> None:
    content = read_pdf(
        pdf_of([[(72, 700, 11, "The first page.")], [], [(72, 700, 11, "The last.")]])
    )
    assert content.notes == [("page 2", "no text layer; a scan?")]
    assert content.metadata == {"num_pages": 3}


def test_letters_that_cannot_be_told_are_no_text() -> None:
    known = pdf_in_codes("82A082A2", "Japan1", "/90ms-RKSJ-H")
    assert [text for *_, text in read(known)] == ["あい"]
    # What Word prints as "the harbour opens at nine", in the numbers of the glyphs.
    glyphs = [ord(c) - 29 for c in "theharbouropensatnineeveryday"]
    unknown = pdf_in_codes("".join(f"{n:04X}" for n in glyphs), "Identity", "/Identity-H")
    with pytest.raises(UnreadableError, match="not text: the font does not say which letters"):
        read_pdf(unknown)
