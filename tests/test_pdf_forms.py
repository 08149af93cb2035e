"""PDF forms and comments, files that are cut off, and what stands in the margins of pages."""

from __future__ import annotations

from typing import Any

import pytest
from document_files import text_of
from pdf_files import pdf_of, widget

from rag_ft.documents.formats.pdf import read_pdf
from rag_ft.documents.formats.text import content_of_text

LABEL = [(72.0, 695.0, 11.0, "Country")]
PLACE = (150, 690, 300, 710)


def said(field: dict[str, Any]) -> str:
    return text_of(read_pdf(pdf_of([LABEL], fields=[field])))


def test_choices_are_read_as_the_page_shows_them() -> None:
    pairs = [["DK", "Denmark"], ["NO", "Norway"]]
    assert said(widget("/Ch", PLACE, T="c", V="NO", Opt=pairs, Ff=131072)) == "Country Norway"
    days = ["Monday", "Tuesday", "Friday"]
    several = widget("/Ch", PLACE, T="d", V=["Monday", "Friday"], Opt=days, Ff=2097152)
    assert said(several) == "Country Monday, Friday"


def test_a_hidden_field_is_not_shown_and_a_field_of_no_form_is() -> None:
    assert said(widget("/Tx", PLACE, T="n", V="99", F=2)) == "Country"
    field = widget("/Tx", PLACE, T="n", V="Ola")
    raw = pdf_of([LABEL], fields=[field]).replace(b"/AcroForm", b"/AcroFor_")
    assert text_of(read_pdf(raw)) == "Country Ola"


@pytest.mark.parametrize("kind", ["/Highlight", "/Square", "/Stamp"])
def test_comments_on_parts_of_a_page_are_read(kind: str) -> None:
    note = {"/Type": "/Annot", "/Subtype": kind, "/Rect": [72, 600, 300, 640]}
    assert "Check this" in said({**note, "/Contents": "Check this"})


def test_a_file_that_is_cut_off_after_its_objects_is_read() -> None:
    raw = pdf_of([[(72, 700, 11, "The first page.")]])
    assert text_of(read_pdf(raw[: raw.index(b"xref")])) == "The first page."


def test_a_sentence_goes_on_over_heads_that_do_not_repeat() -> None:
    texts = ["It opens at nine in the morning and closes in the", "evening, on all days of the"]
    texts.append("week but one.")
    heads = ["Hours", "Fees of the dock", "The board"]
    pages = [
        [(72, 770, 8, head), (72, 700, 11, text)] for head, text in zip(heads, texts, strict=True)
    ]
    assert " ".join(texts) in text_of(read_pdf(pdf_of(pages)))


def test_a_sentence_of_plain_text_goes_on_over_a_form_feed() -> None:
    said = ["It opens at nine in the morning and closes in the", "evening. No dogs.", "The end."]
    head = "Harbour rules          Page"
    text = "\n\n\f".join(f"{head} {n}\n\n{part}" for n, part in enumerate(said, 1))
    assert text_of(content_of_text(text)) == (
        "It opens at nine in the morning and closes in the evening. No dogs.\n\nThe end."
    )


def test_lines_at_the_edge_that_belong_to_a_paragraph_stay() -> None:
    text = "The same line.\nOf a paragraph.\n\fThe same line.\nOf a paragraph."
    assert text_of(content_of_text(text)).count("The same line.") == 2
