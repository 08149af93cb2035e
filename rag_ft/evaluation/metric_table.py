"""Every metric that is scored or reported. Only this table lists their names, labels and order."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from typing import Literal

from rag_ft.evaluation.metrics.ranking import ndcg, recall, reciprocal_rank
from rag_ft.evaluation.metrics.squad import contains, exact_match, token_f1

Family = Literal[
    "answer",  # of an answer against the accepted ones; compared between all systems
    "support",  # of an answer against what was shown; compared with base alone
    "similarity",  # of an answer against the accepted ones, on request; compared with base alone
    "abstention",  # of all questions together
    "citation",
    "context",
    "retrieval",  # of a ranking against the gold chunks
    "other",
]


@dataclass(frozen=True)
class Metric:
    """One row of the table.

    `unit`: "share" (0-1, shown as percent) or "seconds". `priority`: a table without room for every
    metric shows the lowest numbers. `score` is the function that computes the metric alone, where
    there is one: of (prediction, accepted answers) in the family answer, of (ranks of the gold
    chunks, number of gold chunks) in the family retrieval. metrics/rouge.py computes all ROUGE rows
    in one call.
    """

    name: str
    label: str
    family: Family
    score: Callable[..., float] | None = None
    priority: int = 99
    unit: Literal["share", "seconds"] = "share"
    higher_is_better: bool = True


METRICS = {
    metric.name: metric
    for metric in (
        Metric("em", "EM", "answer", exact_match, priority=3),
        Metric("f1", "F1", "answer", token_f1, priority=1),
        Metric("rouge1", "ROUGE-1", "answer"),
        Metric("rouge2", "ROUGE-2", "answer"),
        Metric("rougeL", "ROUGE-L", "answer", priority=7),
        Metric("rougeLsum", "ROUGE-Lsum", "answer"),
        Metric("contains", "contains", "answer", contains, priority=8),
        Metric("faithfulness", "faithfulness", "support"),
        Metric("faithfulness_judged", "judged faithful", "support"),
        Metric("similarity", "similarity", "similarity"),
        Metric("abstained", "abstained", "other"),
        Metric("abstention_precision", "abstention precision", "abstention"),
        Metric("abstention_recall", "abstention recall", "abstention"),
        Metric("abstention_f1", "abstention F1", "abstention", priority=4),
        Metric("citation_precision", "citation precision", "citation", priority=5),
        Metric("citation_recall", "citation recall", "citation", priority=6),
        Metric("citation_inferred", "citations inferred", "other"),
        Metric("evidence_shown", "evidence shown", "context"),
        Metric("recall@1", "recall@1", "retrieval", partial(recall, k=1), priority=10),
        Metric("recall@5", "recall@5", "retrieval", partial(recall, k=5), priority=2),
        Metric("recall@10", "recall@10", "retrieval", partial(recall, k=10), priority=11),
        Metric("mrr@10", "MRR@10", "retrieval", partial(reciprocal_rank, k=10), priority=9),
        Metric("ndcg@10", "nDCG@10", "retrieval", partial(ndcg, k=10), priority=12),
        Metric("seconds", "seconds", "other", unit="seconds", higher_is_better=False),
    )
}
LABELS = {name: metric.label for name, metric in METRICS.items()}


def in_family(*families: Family) -> tuple[str, ...]:
    """The metrics of these families, in the order of the table."""
    return tuple(name for name, metric in METRICS.items() if metric.family in families)


def foremost(candidates: Collection[str], room: int) -> list[str]:
    """The `room` candidates with the lowest priority numbers, in the order of the table."""
    chosen = sorted(candidates, key=lambda name: METRICS[name].priority)[:room]
    return [name for name in METRICS if name in chosen]


EXACT_MATCH = "em"
ABSTENTION_F1 = in_family("abstention")[-1]
# The verdict rests on one metric of answers and one of retrieval. RANK measures how high the gold
# chunk is ranked.
[DECIDING_ANSWER] = foremost(in_family("answer"), 1)
[DECIDING_RETRIEVAL] = foremost(in_family("retrieval"), 1)
RANK = "mrr@10"
FIRST = "recall@1"  # how often the best chunk is gold
