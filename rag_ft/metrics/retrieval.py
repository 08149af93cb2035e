"""How well a ranking finds the chunks that prove an answer."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from rag_ft.evaluation.metric_table import METRICS, in_family
from rag_ft.records import Chunk, QAPair

RETRIEVAL_METRICS = {name: METRICS[name].score for name in in_family("retrieval")}


def gold_chunk_ids(pair: QAPair, chunks_of_document: Iterable[Chunk]) -> set[str]:
    """The chunks that hold the whole evidence span; where none does, those that overlap it.

    Without an evidence span the pair's own chunk, if it is answerable and has one; else the empty
    set.
    """
    if pair.evidence is None:
        return {pair.chunk_id} if pair.chunk_id and pair.answerable else set()
    start, end = pair.evidence.start, pair.evidence.end
    overlapping = [
        c
        for c in chunks_of_document
        if c.document_id == pair.document_id and c.start < end and c.end > start
    ]
    whole = {c.id for c in overlapping if c.start <= start and c.end >= end}
    return whole or {c.id for c in overlapping}


def score_ranking(ranked: Sequence[str], gold: Collection[str]) -> dict[str, float]:
    """RETRIEVAL_METRICS (0-1) of one question's chunk ids, best first; see metrics/ranking.py."""
    ranks = [rank for rank, chunk_id in enumerate(ranked, 1) if chunk_id in gold]
    return {name: score(ranks, len(gold)) for name, score in RETRIEVAL_METRICS.items() if score}


def evidence_shown(pair: QAPair, shown: Iterable[Chunk]) -> float | None:
    """Share (0-1) of the evidence span's characters that the shown chunks cover; None without a
    span."""
    if pair.evidence is None or pair.evidence.end <= pair.evidence.start:
        return None
    start, end = pair.evidence.start, pair.evidence.end
    spans = sorted(
        (max(c.start, start), min(c.end, end)) for c in shown if c.document_id == pair.document_id
    )
    covered, reached = 0, start
    for left, right in spans:
        if right > max(left, reached):
            covered += right - max(left, reached)
            reached = right
    return covered / (end - start)
