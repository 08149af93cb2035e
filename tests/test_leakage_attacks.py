"""Test documents and questions that are hidden in many ways: nothing of them is trained on."""

from __future__ import annotations

from pathlib import Path

import pytest
from break_leakage import documents, made_up_questions, pair, questions
from leakage_attacks import DOCUMENT_ATTACKS, QUESTION_ATTACKS

from rag_ft.training.leakage import without_test_questions


def test_no_part_of_a_hidden_test_document_is_trained_on_and_no_other_is_left_out(
    tiny_encoder_dir: Path,
) -> None:
    found = documents(str(tiny_encoder_dir), seed=1, chunk_tokens=120)
    assert len(DOCUMENT_ATTACKS) >= 28
    assert found["trained_on"] == {}
    assert found["chunks_left_out"] > 100 and found["other_chunks_left_out"] == 0


def test_no_hidden_test_question_is_trained_on_and_no_other_is_left_out() -> None:
    found = questions(made_up_questions(200, 1), seed=1)
    assert len(QUESTION_ATTACKS) >= 17
    assert found["trained_on"] == {}
    assert found["other_questions_left_out"] == [] and found["questions"] == 100


@pytest.mark.parametrize(
    ("asked", "hidden"),
    [
        ("What's the height of the old tower?", "What is the height of the old tower?"),
        ("Why doesn't the ferry sail on Sundays?", "Why does not the ferry sail on Sundays?"),
        ("Who can't use the slipway at night?", "Who cannot use the slipway at night?"),
        ("Why won’t the bell be rung in March?", "Why will not the bell be rung in March?"),
    ],
)
def test_contractions_are_the_same_question(asked: str, hidden: str) -> None:
    assert without_test_questions([pair("a", hidden, "train")], [pair("b", asked, "test")])[0] == []


def test_questions_about_other_things_are_no_hidden_ones() -> None:
    asked = [pair("t", "When was the tower of Salt House opened to guests?", "test")]
    others = [
        "When was the tower of Gull Cottage opened to guests?",
        "Who opened the tower of Salt House to guests?",
        "Where is the tower of Salt House?",
    ]
    kept, rejects = without_test_questions([pair(q, q, "train") for q in others], asked)
    assert [k.question for k in kept] == others and rejects == []
