"""Quotes are found where they stand, and nowhere else."""

from __future__ import annotations

import pytest

from rag_ft.qa.evidence import evidence_in_chunk, locate, occurrences
from rag_ft.records import Chunk

TEXT = "The “Grey Heron” sails\n  at 07:30 – daily.  It costs 150 euros; a child pays 5 euros."


@pytest.mark.parametrize(
    "quote",
    [
        'The "Grey Heron" sails at 07:30',
        "it COSTS 150",
        "07:30 - DAILY",
        "  sails at\t07:30 ",
        '"...at 07:30 – daily…"',
    ],
)
def test_white_space_case_quotes_and_dashes_do_not_matter(quote: str) -> None:
    span = locate(quote, TEXT)
    assert span is not None
    assert (
        TEXT[span[0] : span[1]]
        .casefold()
        .startswith(quote.strip(' ".').casefold()[:3].replace('"', "“"))
    )


def test_an_exact_match_comes_before_a_normalised_one() -> None:
    assert occurrences("Ola", "ola and Ola") == [(8, 11)]


@pytest.mark.parametrize("quote", ["", "  ", "…", "the green heron", "50", "sail", "eur"])
def test_what_is_not_there_as_words_is_not_found(quote: str) -> None:
    assert locate(quote, TEXT) is None


def test_the_occurrence_nearest_to_the_focus_is_taken() -> None:
    text = "Ola came. Berit left. Ola stayed."
    assert locate("Ola", text) == (0, 3)
    assert locate("Ola", text, near=(22, 33)) == (22, 25)


def test_scripts_without_spaces_need_no_word_boundary() -> None:
    assert locate("北京", "中国的首都是北京市。") == (6, 8)


def test_letters_that_fold_to_two_keep_offsets_right() -> None:
    text = "Große STRASSE. Der Weg"
    span = locate("grosse strasse", text)
    assert span is not None and text[span[0] : span[1]] == "Große STRASSE"


def test_offsets_of_evidence_count_in_the_document() -> None:
    document = "Title\n\nOla leads the yard."
    chunk = Chunk("d#0", "d", "t", document[7:], 7, len(document), 5, "train")
    evidence = evidence_in_chunk(chunk, (0, 3))
    assert document[evidence.start : evidence.end] == evidence.text == "Ola"
