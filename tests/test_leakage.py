"""Nothing of a test document may be trained on."""

from __future__ import annotations

from dataclasses import replace

import pytest

from rag_ft.errors import DataError
from rag_ft.schema import Chunk, Document, Evidence, QAPair
from rag_ft.training.leakage import (
    TEST_QUESTION,
    check_chunks_allowed,
    check_no_leakage,
    without_test_questions,
)

CHUNKS = [
    Chunk("a.md#0", "a.md", "A", "The bridge opened in 1900.", 0, 26, 6, "train"),
    Chunk("b.md#0", "b.md", "B", "The tower opened in 1950.", 0, 25, 6, "test"),
]
TRAINED = QAPair(
    "q1",
    "When did the bridge open?",
    ("1900",),
    "a.md#0",
    "a.md",
    Evidence("1900", 21, 25),
    "factoid",
    "train",
    "imported",
)
HELDOUT = QAPair(
    "q2",
    "When did the tower open?",
    ("1950",),
    "b.md#0",
    "b.md",
    Evidence("1950", 20, 24),
    "factoid",
    "test",
    "imported",
)


def test_clean_splits_pass_and_say_what_was_compared() -> None:
    assert check_no_leakage([TRAINED], [HELDOUT], CHUNKS) == {
        "training_pairs": 1,
        "heldout_pairs": 1,
        "test_documents": 1,
    }


@pytest.mark.parametrize(
    ("leak", "why"),
    [
        (replace(HELDOUT, question="What else?"), "its split is test"),
        (replace(HELDOUT, split="train", question="What else?"), "b.md is a test document"),
        (
            replace(TRAINED, document_id=None, chunk_id="b.md#0"),
            "b.md#0 is a chunk of a test document",
        ),
        (replace(TRAINED, question="when did the TOWER open"), "asks the same as held-out q2"),
    ],
)
def test_a_leaking_pair_is_refused_by_name_with_the_remedy(leak: QAPair, why: str) -> None:
    with pytest.raises(DataError, match="1 of 2 training pairs leak") as error:
        check_no_leakage([TRAINED, leak], [HELDOUT], CHUNKS)
    assert why in str(error.value)
    assert "--force" in str(error.value)
    assert leak.id in str(error.value)


def test_documents_serve_as_well_as_chunks() -> None:
    document = Document("b.md", "B", "The tower opened in 1950.", "b.md", "test")
    with pytest.raises(DataError, match=r"b\.md is a test document"):
        check_no_leakage([replace(HELDOUT, split="train", question="?")], [], [document])


def test_only_the_first_leaks_are_named() -> None:
    leaks = [replace(HELDOUT, id=f"leak{n}") for n in range(5)]
    with pytest.raises(DataError) as error:
        check_no_leakage(leaks, [], CHUNKS)
    assert "leak2" in str(error.value) and "leak3" not in str(error.value)
    assert "and 2 more" in str(error.value)


def test_a_chunk_of_a_test_document_may_not_be_trained_on() -> None:
    check_chunks_allowed(["a.md#0"], CHUNKS, "negatives")
    with pytest.raises(DataError, match=r"1 negatives are chunks of test documents: b\.md#0"):
        check_chunks_allowed(["a.md#0", "b.md#0"], CHUNKS, "negatives")


def test_a_training_question_asked_of_a_test_document_too_is_left_out_and_kept_as_a_reject() -> (
    None
):
    twin = replace(TRAINED, id="q3", question="  When did the tower open?? ")
    kept, rejects = without_test_questions([TRAINED, twin], [HELDOUT])
    assert kept == [TRAINED]
    assert [(r.item, r.reason) for r in rejects] == [("q3", "asked of a test document too")]
    check_no_leakage(kept, [HELDOUT], CHUNKS)


@pytest.mark.parametrize(
    "hidden",
    [
        "When did the to\u00adwer open?",  # soft hyphen
        "When did the to\u200dwer open?",  # zero-width joiner
        "When did the t\u00f6wer \u00f3pen?",  # accents
        "When did the t\u043ewer \u043epen?",  # Cyrillic letters
        "\uff37hen did the \U0001d42dower open?",  # full width, mathematical bold
        "Open when did the tower?",  # another order
        "When exactly did the tower open?",  # one word more
        "WHEN DID THE TOWER, open",
        "When did the to-wer open?",
        "When did the to\u200bwer open?",
        "When dld the t0wer 0pen?",  # as a scanner reads it
    ],
)
def test_a_hidden_test_question_is_left_out(hidden: str) -> None:
    heldout = replace(HELDOUT, question="When did the tower open?")
    kept, rejects = without_test_questions([replace(TRAINED, question=hidden)], [heldout])
    assert kept == [] and [reject.reason for reject in rejects] == [TEST_QUESTION]
    kept, _ = without_test_questions([replace(TRAINED, question=heldout.question)], [heldout])
    assert kept == []


def test_other_forms_of_the_words_are_the_same_question() -> None:
    heldout = replace(HELDOUT, question="When did the tower of Salt House open?")
    hidden = replace(TRAINED, question="When was the tower of Salt House opened?")
    assert without_test_questions([hidden], [heldout])[0] == []


def test_another_question_of_the_same_form_is_kept() -> None:
    heldout = replace(HELDOUT, question="When did the tower of Salt House open?")
    other = replace(TRAINED, question="When did the tower of Port Sorrel open?")
    assert without_test_questions([other], [heldout]) == ([other], [])
    short = replace(TRAINED, question="Who keeps it now?")
    assert without_test_questions([short], [replace(HELDOUT, question="Who keeps it?")])[0]
