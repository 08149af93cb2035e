"""Retrieval metrics against hand-computed values and ir-measures."""

from __future__ import annotations

import random

import pytest

from rag_ft.metrics.retrieval import (
    RETRIEVAL_METRICS,
    evidence_shown,
    gold_chunk_ids,
    score_ranking,
)
from rag_ft.records import Chunk, Evidence, QAPair


def pair(start: int, end: int, kind: str = "factoid", chunk_id: str | None = "d#0") -> QAPair:
    evidence = Evidence("x" * (end - start), start, end) if end > start else None
    return QAPair("q", "?", ("x",), chunk_id, "d", evidence, kind, "test", "imported")  # type: ignore[arg-type]


def chunk(number: int, start: int, end: int, document: str = "d") -> Chunk:
    return Chunk(f"{document}#{number}", document, "", "x" * (end - start), start, end, 1, "test")


CHUNKS = [chunk(0, 0, 100), chunk(1, 80, 180), chunk(2, 160, 260)]


def test_chunks_that_hold_the_whole_evidence_are_gold() -> None:
    assert gold_chunk_ids(pair(10, 20), CHUNKS) == {"d#0"}
    assert gold_chunk_ids(pair(85, 95), CHUNKS) == {"d#0", "d#1"}
    assert gold_chunk_ids(pair(90, 110), CHUNKS) == {"d#1"}


def test_where_no_chunk_holds_the_evidence_those_that_overlap_it_are_gold() -> None:
    assert gold_chunk_ids(pair(50, 190), CHUNKS) == {"d#0", "d#1", "d#2"}
    assert gold_chunk_ids(pair(100, 180), CHUNKS[:1]) == set()  # touching is not overlapping


def test_chunks_of_other_documents_are_never_gold() -> None:
    assert gold_chunk_ids(pair(10, 20), [chunk(0, 0, 100, "other")]) == set()


def test_without_evidence_the_own_chunk_is_gold_unless_there_is_nothing_to_find() -> None:
    assert gold_chunk_ids(pair(0, 0), CHUNKS) == {"d#0"}
    assert gold_chunk_ids(pair(0, 0, "unanswerable"), CHUNKS) == set()
    assert gold_chunk_ids(pair(0, 0, chunk_id=None), CHUNKS) == set()


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


def test_evidence_shown_is_the_share_of_its_characters_in_the_context() -> None:
    assert evidence_shown(pair(50, 150), CHUNKS[:1]) == 0.5
    assert evidence_shown(pair(50, 150), CHUNKS[:2]) == 1.0
    assert evidence_shown(pair(90, 170), [CHUNKS[2], CHUNKS[0]]) == pytest.approx(20 / 80)
    assert evidence_shown(pair(0, 0), CHUNKS) is None
