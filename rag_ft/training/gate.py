"""The gate: a tuned encoder is served only if it does not find less than the base on documents it was not tuned on.

Not less is a matter of the dev questions at hand, so few of them tell little: a true loss of 2 points passes with 0.37,
0.27, 0.13 and 0.02 at 20, 60, 200 and 600 questions, a true gain of 5 with 0.79, 0.96, 1 and 1 (benchmarks/gate.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from rag_ft.evaluation.metric_table import DECIDING_RETRIEVAL, LABELS, RANK
from rag_ft.metrics.retrieval import score_ranking
from rag_ft.metrics.significance import bootstrap
from rag_ft.records import QAPair

ALPHAS = (0.75, 0.5, 0.25)  # shares of the tuning kept, tried where all of it is worse than none
NUM_RESAMPLES = 2000


class Searches(Protocol):
    def search(
        self, questions: Sequence[str], k: int, mode: str | None = None
    ) -> list[list[tuple[str, float]]]: ...


@dataclass(frozen=True)
class DevScores:
    """Per dev question: recall@5 of what is served (retrieval.mode) and of the encoder alone, 0 or 1; and mrr@10 of
    what is served, which decides between equal recalls."""

    served: np.ndarray
    dense: np.ndarray
    served_mrr: np.ndarray

    @property
    def summary(self) -> dict[str, float]:
        """Shares 0-1, rounded to four digits."""
        values = {
            "served_recall": self.served,
            "dense_recall": self.dense,
            "served_mrr": self.served_mrr,
        }
        return {
            f"dev_{name}": round(float(v.mean()), 4) if len(v) else 0.0
            for name, v in values.items()
        }

    def above(self, other: DevScores) -> bool:
        """Whether more questions are served than by `other`, or as many and ranked higher."""
        return not other.not_below(self)

    def not_below(self, other: DevScores) -> bool:
        """Whether as many questions are served as by `other`; among equals, whether they rank no lower."""
        if self.served.sum() != other.served.sum():
            return bool(self.served.sum() > other.served.sum())
        return bool(self.served_mrr.sum() >= other.served_mrr.sum() - 1e-9)


@dataclass(frozen=True)
class Verdict:
    """`alpha` is the share of the tuning that is kept: 1 all, 0 none (the base encoder stays)."""

    alpha: float
    scores: DevScores
    reason: str

    @property
    def shipped(self) -> bool:
        return self.alpha > 0


def measure(
    retriever: Searches, pairs: Sequence[QAPair], gold: Mapping[str, set[str]]
) -> DevScores:
    """What the retriever finds of the pairs' gold chunks."""
    questions = [pair.question for pair in pairs]
    served = _scores(retriever.search(questions, 10), pairs, gold)
    dense = _scores(retriever.search(questions, 10, "dense"), pairs, gold)
    return DevScores(served[:, 0], dense[:, 0], served[:, 1])


def judge(
    base: DevScores, candidates: Iterable[tuple[float, DevScores]], pairs: Sequence[QAPair]
) -> Verdict:
    """The first candidate that is not below the base, else the base.

    Args:
        base: scores of the untuned encoder.
        candidates: (alpha, scores), alpha 1 first; drawn one by one, so that the costly ones need not be made.
        pairs: the dev pairs, in the order of the scores; documents are what is resampled.
    """
    if not pairs:
        return Verdict(0.0, base, "no dev questions to judge by")
    said = ""
    for alpha, scores in candidates:
        change = describe_change(base, scores, pairs)
        if scores.not_below(base):
            return Verdict(alpha, scores, f"{change}{said}")
        said = said or f"; all of the tuning was worse than the base: {change}"
    return Verdict(0.0, base, f"the base stays{said}")


def describe_change(base: DevScores, tuned: DevScores, pairs: Sequence[QAPair]) -> str:
    """ "dev recall@5 +12.3 points [8.0, 16.1] on 88 questions": what is served, paired bootstrap over documents."""
    if not pairs:
        return "no dev questions to measure by"
    documents = {
        name: i for i, name in enumerate(sorted({pair.document_id or pair.id for pair in pairs}))
    }
    groups = np.array([documents[pair.document_id or pair.id] for pair in pairs])
    deltas = (tuned.served - base.served)[:, None]
    estimate = bootstrap(deltas, np.ones_like(deltas), groups, NUM_RESAMPLES)[0]
    interval = (
        f" [{100 * estimate.ci95[0]:+.1f}, {100 * estimate.ci95[1]:+.1f}]" if estimate.ci95 else ""
    )
    change = f"{100 * estimate.value:+.1f} points{interval}"
    return f"dev {LABELS[DECIDING_RETRIEVAL]} {change} on {len(pairs)} questions"


def _scores(
    rankings: Sequence[Sequence[tuple[str, float]]],
    pairs: Sequence[QAPair],
    gold: Mapping[str, set[str]],
) -> np.ndarray:
    """(num_pairs, 2): recall@5 and mrr@10."""
    found = [
        score_ranking([c for c, _ in ranked], gold[pair.id])
        for ranked, pair in zip(rankings, pairs, strict=True)
    ]
    return np.array([[row[DECIDING_RETRIEVAL], row[RANK]] for row in found], dtype=float).reshape(
        -1, 2
    )
