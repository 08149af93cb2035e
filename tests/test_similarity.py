"""similarity: the best cosine with an accepted answer."""

from __future__ import annotations

from typing import Any

import numpy as np
from test_evaluate import question
from test_judge import ABSTAIN, PAIR, answered

from rag_ft.config import Config
from rag_ft.evaluation.extras.similarity import similarity_scores
from rag_ft.evaluation.systems import Ask
from rag_ft.retrieval.encoder import load_encoder
from rag_ft.schema import Prediction


class Letters:
    """Counts of letters as vectors: anagrams are the same."""

    def encode_chunks(self, texts: Any) -> np.ndarray:
        counts = np.array(
            [[text.lower().count(c) for c in "abcdefghijklmnopqrstuvwxyz"] for text in texts], float
        )
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)


def test_similarity_is_the_best_cosine_and_abstaining_scores_as_everywhere() -> None:
    rows = answered(("base", "Moen Karl"), ("tuned", ABSTAIN), ("oracle_base", "xyz"))
    withheld = (
        Ask(PAIR, "withheld_base", "base", (), ()),
        Prediction(PAIR.id, "withheld_base", ABSTAIN, (), (), 0.1),
    )
    found = similarity_scores(Letters(), [*rows, withheld], ABSTAIN.__eq__)
    assert {s.system: s.value for s in found} == {
        "base": 1.0,
        "tuned": 0.0,
        "oracle_base": 0.0,
        "withheld_base": 1.0,
    }


def test_other_words_for_the_same_are_nearer_than_something_else(demo_encoder: str) -> None:
    encoder = load_encoder(Config().encoder)
    pair = question("pier", "When?", "in the spring of the following year")
    rows = [
        (Ask(pair, text, "base", (), pair.answers), Prediction(pair.id, text, text, (), (), 0.1))
        for text in ("the next year, in springtime", "a small railway")
    ]
    same, other = (score.value for score in similarity_scores(encoder, rows, ABSTAIN.__eq__))
    assert same > other + 0.3
