"""How well a ranking finds the chunks that prove an answer."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence

from rag_ft.records import Chunk, QAPair

RETRIEVAL_METRICS = ("recall@1", "recall@5", "recall@10", "mrr@10", "ndcg@10")


def gold_chunk_ids(pair: QAPair, chunks_of_document: Iterable[Chunk]) -> set[str]:
    """The chunks that hold the whole evidence span; where none does, those that overlap it.

    Without an evidence span the pair's own chunk, if it is answerable and has one; else the empty set.
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
    """RETRIEVAL_METRICS (0-1) of one question's chunk ids, best first.

    recall@k: 1.0 if any gold chunk is among the first k (overlapping chunks prove the same, one is enough).
    mrr@10: 1 / rank of the first gold chunk. ndcg@10: binary gain, ideal over all gold chunks.
    """
    ranks = [rank for rank, chunk_id in enumerate(ranked[:10], 1) if chunk_id in gold]
    first = ranks[0] if ranks else math.inf
    ideal = sum(_discount(rank) for rank in range(1, min(len(gold), 10) + 1))
    return {
        "recall@1": float(first <= 1),
        "recall@5": float(first <= 5),
        "recall@10": float(first <= 10),
        "mrr@10": 1 / first,
        "ndcg@10": sum(map(_discount, ranks)) / ideal if ideal else 0.0,
    }


def evidence_shown(pair: QAPair, shown: Iterable[Chunk]) -> float | None:
    """Share (0-1) of the evidence span's characters that the shown chunks cover; None without a span."""
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


def _discount(rank: int) -> float:
    return 1 / math.log2(rank + 1)
