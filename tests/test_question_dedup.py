"""The first of several equal questions stays; questions about different things are different."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from rag_ft.config import EncoderConfig
from rag_ft.generation.question_dedup import (
    CachedQueryEncoder,
    QuestionDeduplicator,
    same_names,
    without_paraphrases,
)
from rag_ft.retrieval.encoder import load_encoder
from rag_ft.schema import QAPair


def all_alike(questions: Sequence[str]) -> np.ndarray:
    return np.tile(np.array([1, 0], dtype=np.float32), (len(questions), 1))


def all_different(questions: Sequence[str]) -> np.ndarray:
    rng = np.random.default_rng(len(questions[0]))
    vectors = rng.normal(size=(len(questions), 64)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_equal_words_are_equal_whatever_case_and_punctuation() -> None:
    before = QuestionDeduplicator(all_different, 0.95)
    assert before.repeats(["Who leads the yard?", "who leads the Yard"]) == [
        None,
        "Who leads the yard?",
    ]
    assert before.repeats(["Who leads  the yard ?"]) == ["Who leads the yard?"]


def test_an_encoder_that_cannot_read_a_script_finds_no_repetitions_in_it() -> None:
    before = QuestionDeduplicator(all_alike, 0.95)
    questions = [
        "盐仓博物馆的门票多少钱",
        "谁是蓝灯博物馆的馆长",
        "蓝灯博物馆几点开门",
        "盐仓博物馆几点开门",
    ]
    assert before.repeats(questions) == [None] * 4
    assert before.repeats(["盐仓博物馆的门票多少钱呢？"]) == ["盐仓博物馆的门票多少钱"]


def test_similar_questions_repeat_within_a_batch_and_over_batches() -> None:
    before = QuestionDeduplicator(all_alike, 0.95)
    assert before.repeats(["Who leads the yard?", "Who is the head of the yard?"]) == [
        None,
        "Who leads the yard?",
    ]
    assert before.repeats(["Who heads the yard?"]) == ["Who leads the yard?"]


def test_questions_that_name_other_things_are_not_the_same() -> None:
    before = QuestionDeduplicator(all_alike, 0.95)
    questions = [
        "When does pump A-12 start?",
        "When does pump A-13 start?",
        "When does Pump A-12 begin?",
    ]
    assert before.repeats(questions) == [None, None, questions[0]]


@pytest.mark.parametrize(
    ("a", "b", "same"),
    [
        ("Who leads the Old Mill?", "What is the name of who leads the old mill?", True),
        ("Who leads the Old Mill?", "Who leads the Old Tower?", False),
        ("How much is 1 ticket?", "How much are 2 tickets?", False),
    ],
)
def test_names_and_numbers_decide(a: str, b: str, same: bool) -> None:
    assert same_names(a, b) is same


def test_many_questions_keep_their_first_even_when_the_store_grows() -> None:
    before = QuestionDeduplicator(all_different, 0.95)
    questions = [f"What is thing number {n}?" for n in range(700)]
    for start in range(0, 700, 64):
        assert not any(before.repeats(questions[start : start + 64]))
    assert before.repeats([questions[3], questions[699]]) == [questions[3], questions[699]]


def test_the_real_encoder_tells_paraphrases_from_other_questions(demo_encoder: str) -> None:
    from rag_ft.config import EncoderConfig
    from rag_ft.retrieval.encoder import load_encoder

    before = QuestionDeduplicator(
        load_encoder(EncoderConfig(model=demo_encoder)).encode_queries, 0.9
    )
    found = before.repeats(
        ["When does the museum open?", "When will the museum be opening?", "Who owns the museum?"]
    )
    assert [earlier is not None for earlier in found] == [False, True, False]


def test_a_question_is_encoded_once_while_it_is_recent(monkeypatch: pytest.MonkeyPatch) -> None:
    encoded: list[str] = []

    class Encoder:
        def encode_queries(self, questions: Sequence[str]) -> np.ndarray:
            encoded.extend(questions)
            return np.array([[float(question[1:])] for question in questions], dtype=np.float32)

    monkeypatch.setattr(CachedQueryEncoder, "MOST", 4)
    recent = CachedQueryEncoder(Encoder())
    assert recent.encode_queries(["q1", "q2", "q1"]).tolist() == [[1], [2], [1]]
    assert recent.encode_queries(["q2", "q3", "q4", "q5"]).tolist() == [[2], [3], [4], [5]]
    assert encoded == ["q1", "q2", "q3", "q4", "q5"]
    assert recent.encode_queries(["q5", "q1"]).tolist() == [[5], [1]]
    assert encoded[5:] == ["q1"]


def test_words_asked_before_are_not_encoded_again() -> None:
    encoded: list[str] = []
    before = QuestionDeduplicator(
        lambda questions: encoded.extend(questions) or all_different(questions), 0.95
    )
    before.repeats(["Who leads the yard?", "who leads the yard"])
    assert before.repeats(["WHO leads the yard?"]) == ["Who leads the yard?"]
    assert len(encoded) == 1


def test_the_question_found_is_the_same_in_every_process() -> None:
    """Of four words that are equally rare the first three in the alphabet are looked up."""
    before = QuestionDeduplicator(all_alike, 0.95)
    for ending in "efghijklmnopqrstuvwxyz":
        words = [letter + ending for letter in "abcd"]
        assert before.repeats([*reversed(words)]) == [None] * 4
        assert before.repeats([" ".join(words)], keep=False) == [words[2]]


def pair(name: str, question: str, split: str) -> QAPair:
    return QAPair(
        name,
        question,
        ("a",),
        None,
        "d",
        None,
        "factoid",
        split,
        "imported",  # type: ignore[arg-type]
    )


def test_a_train_question_that_is_a_test_question_in_other_words_is_left_out(
    demo_encoder: str,
) -> None:
    pairs = [
        pair("t1", "Who steers the Evening Launch?", "test"),
        pair("h1", "Who is the helmsman of the Evening Launch?", "train"),
        pair("t2", "What does a night at the Keeper Cottage cost?", "test"),
        pair("h2", "How much is one night in the Keeper Cottage?", "dev"),
        # Another thing, another question about it, and questions that name nothing.
        pair("o1", "Who steers the Morning Launch?", "train"),
        pair("o2", "Where was the Evening Launch painted?", "train"),
        pair("t3", "what does it cost?", "test"),
        pair("o3", "how much does it cost?", "train"),
        # Questions of one split may be alike.
        pair("t4", "Who is at the helm of the Evening Launch?", "test"),
    ]
    encoder = load_encoder(EncoderConfig())
    kept, rejects = without_paraphrases(pairs, encoder, 0.7)
    assert [p.id for p in kept] == ["t1", "t2", "o1", "o2", "t3", "o3", "t4"]
    assert [(r.item, r.reason) for r in rejects] == [
        ("h1", "asked of a test document in other words"),
        ("h2", "asked of a test document in other words"),
    ]
    assert rejects[0].detail.endswith("the Evening Launch? | Who steers the Evening Launch?")
    assert without_paraphrases(pairs, encoder, 0.999) == (pairs, [])
    assert without_paraphrases(pairs[1:2], encoder, 0.7) == (pairs[1:2], [])
