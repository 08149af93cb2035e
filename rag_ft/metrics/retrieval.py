"""How well a ranking finds the gold chunks of a question."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

RETRIEVAL_METRICS = ("recall@1", "recall@5", "recall@10", "mrr@10", "ndcg@10")


def score_ranking(ranked: Sequence[str], gold: Collection[str]) -> dict[str, float]:
    """RETRIEVAL_METRICS (0-1) of one question's chunk ids, best first.

    recall@k: 1.0 if any gold chunk is among the first k (each contains the evidence, so one is enough).
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


def _discount(rank: int) -> float:
    return 1 / math.log2(rank + 1)
