"""Bytes become text in the encodings people use, and text becomes tidy."""

from __future__ import annotations

import random

import pytest

from rag_ft.documents.formats.cleaning import readable, tidy, tidy_in_place, unwrap
from rag_ft.documents.formats.content import UnreadableError
from rag_ft.documents.formats.encodings import decode


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
    wrapped = (
        "The Skerry Chapel was completed in 1742 by Father\n"
        "Anskar Bloom, who was no builder, and it shows in\nways."
    )
    assert (
        unwrap(f"Title\n{wrapped}\n\nPhone: 1\nFax: 2")
        == f"Title\n{wrapped.replace(chr(10), ' ')}\n\nPhone: 1\nFax: 2"
    )
    for kept in (
        "- The first of the items is a rather long line\n"
        "- The second of the items is a rather long line",
        "The speaker of the market hall: Delphine Osk, since spring\n"
        "Phone: 12\nThe key is kept: in the harbour office",
        "The Skerry Chapel | 1742 | Father Anskar Bloom | Hill\n"
        "The Beacon Tower | 1936 | Sigrun Halle | Upper quay",
    ):
        assert unwrap(kept) == kept


def test_tidying_in_place_keeps_every_position() -> None:
    text = "a\x00b\r\nc\rd\ud800 answer"
    kept = tidy_in_place(text)
    assert len(kept) == len(text) and kept.index("answer") == text.index("answer")
    assert kept.encode() and "\r" not in kept and "\x00" not in kept


def test_the_name_of_a_file_becomes_a_title() -> None:
    assert readable("a.b__c") == "A b c"


@pytest.mark.parametrize(
    "kept",
    [
        "These are the things that every visitor has to bring along to the gate:\n"
        "→ a valid ticket for the day of the visit, printed or on the phone\n→ a passport",
        "① a valid ticket for the day of the visit, printed or on the phone\n② a passport",
        "1.1 a valid ticket for the day of the visit, printed or on the phone\n1.2 a passport",
        "Run these commands in the folder of the project on your machine first\nmake install",
        "export LAMP_HOME=/opt/lamp and other variables are set in the profile\nexport B=1",
        "The visitor has to bring the following three things along to the gate:\n"
        "iv. a valid ticket for the day\nv. one photo",
        "There are three berths at the eastern quay of the old harbour, as follows\n"
        "▪ one for the ferry\no one for the crane",
        "The settings of the lamp server were agreed upon in the meeting of last week\n"
        "max_lamps = 100\nlog.level=debug",
        "To install the lamp server on a machine of the harbour office run this command\n"
        "sudo apt install lamp\nlamp --start now",
        "item        price   hours of sale of each of the goods\npump        40      9-17\n"
        "valve       7       10-12",
    ],
)
def test_only_wrapped_sentences_are_joined(kept: str) -> None:
    assert unwrap(kept) == kept


@pytest.mark.parametrize(
    ("broken", "whole"),
    [
        ("a admin\u00ad\nistração", "a administração"),
        ("administra-\nção", "administração"),
        ("op-\nørte Нико-\n  лай ελλη-\nνικά", "opørte Николай ελληνικά"),
        ("north-west, north-\nwest", "north-west, north-west"),
        ("pages 10-\n20, Nord-\nSee", "pages 10-20, Nord-See"),
        (
            "vor- und nach-\nmittags, Vor-\nund Nachteile",
            "vor- und nachmittags, Vor- und Nachteile",
        ),
    ],
)
def test_a_word_broken_at_the_end_of_a_line_is_one_word(broken: str, whole: str) -> None:
    assert unwrap(tidy(broken)) == whole


def test_ligatures_become_letters_and_odd_spaces_become_spaces() -> None:
    assert tidy("The o\ufb03ce\u2009of\u202fthe sta\ufb00") == "The office of the staff"
    assert tidy("it\x92s \x805") == "it’s €5", "C1 controls are what cp1252 has there"
