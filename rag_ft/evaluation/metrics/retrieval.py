"""How well a ranking finds the gold chunks of a question."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rag_ft.evaluation.metric_table import METRICS, in_family

RETRIEVAL_METRICS = {name: METRICS[name].score for name in in_family("retrieval")}


def score_ranking(ranked: Sequence[str], gold: Collection[str]) -> dict[str, float]:
    """RETRIEVAL_METRICS (0-1) of one question's chunk ids, best first; see metrics/ranking.py."""
    ranks = [rank for rank, chunk_id in enumerate(ranked, 1) if chunk_id in gold]
    return {name: score(ranks, len(gold)) for name, score in RETRIEVAL_METRICS.items() if score}
