"""Retrieval metrics against hand-computed values and ir-measures."""

from __future__ import annotations

import random

import pytest

from rag_ft.evaluation.metrics.retrieval import RETRIEVAL_METRICS, score_ranking


def test_scores_of_a_hand_computed_ranking() -> None:
    # gold at ranks 2 and 4: DCG = 1/log2(3) + 1/log2(5) = 0.63093 + 0.43068, ideal = 1 + 0.63093
    scores = score_ranking(["x", "a", "y", "b"], {"a", "b"})
    expected = {
        "recall@1": 0,
        "recall@5": 1,
        "recall@10": 1,
        "mrr@10": 0.5,
        "ndcg@10": (0.63093 + 0.43068) / 1.63093,
    }
    assert scores == pytest.approx(expected, abs=1e-4)


def test_nothing_found_scores_zero() -> None:
    assert score_ranking([], {"a"}) == dict.fromkeys(RETRIEVAL_METRICS, 0.0)
    assert score_ranking([str(n) for n in range(10)] + ["a"], {"a"}) == dict.fromkeys(
        RETRIEVAL_METRICS, 0.0
    )


def test_scores_agree_with_ir_measures() -> None:
    ir_measures = pytest.importorskip("ir_measures")
    from ir_measures import RR, Success, nDCG

    measures = {"recall@1": Success @ 1, "recall@5": Success @ 5, "recall@10": Success @ 10, "mrr@10": RR @ 10,
                "ndcg@10": nDCG @ 10}  # fmt: skip
    rng, ours, qrels, run = random.Random(3), {}, [], []
    ids = [f"c{n}" for n in range(40)]
    for number in range(200):
        ranked, gold = rng.sample(ids, 20), rng.sample(ids, rng.randint(1, 12))
        ours[str(number)] = score_ranking(ranked, gold)
        qrels += [ir_measures.Qrel(str(number), i, 1) for i in gold]
        run += [
            ir_measures.ScoredDoc(str(number), i, 1.0 / rank) for rank, i in enumerate(ranked, 1)
        ]
    for name, measure in measures.items():
        theirs = {
            found.query_id: found.value for found in ir_measures.iter_calc([measure], qrels, run)
        }
        assert theirs == pytest.approx({number: scores[name] for number, scores in ours.items()}), (
            name
        )
