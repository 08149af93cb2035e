"""Which encoder is served: the tuned one only if it finds no less than the base on dev documents.

With few dev questions the choice is uncertain. A true loss of 2 points passes with probability
0.37, 0.27, 0.13 and 0.02 at 20, 60, 200 and 600 questions, a true gain of 5 points with 0.79, 0.96,
1 and 1 (benchmarks/gate.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import numpy as np

from rag_ft.evaluation.metric_table import DECIDING_RETRIEVAL, LABELS, RANK
from rag_ft.evaluation.metrics.retrieval import score_ranking
from rag_ft.evaluation.statistics import ROUNDING
from rag_ft.schema import QAPair
from rag_ft.training.retriever.fusion_choice import FusionChoice, Ranked, gain_of

if TYPE_CHECKING:
    from rag_ft.retrieval.retriever import Searcher

# Shares of the weight change that are tried where all of it is worse than none (WiSE-FT).
INTERPOLATIONS = (0.75, 0.5, 0.25)


@dataclass(frozen=True)
class DevScores:
    """Scores of the dev questions, each of shape (num_questions,).

    `served` is recall (DECIDING_RETRIEVAL, 0 or 1) of what is served (retrieval.mode), `dense` that
    of dense retrieval alone. `served_mrr` is mrr@10 of what is served, which decides between equal
    recalls. `fusion` is how the encoder's ranking and BM25 are mixed in what is served.
    """

    served: np.ndarray
    dense: np.ndarray
    served_mrr: np.ndarray
    fusion: FusionChoice = field(default_factory=FusionChoice)

    @property
    def summary(self) -> dict[str, float]:
        """The means, 0-1, rounded to four digits: {"dev_served_recall", "dev_dense_recall",
        "dev_served_mrr"}; 0 without dev questions."""
        columns = {
            "dev_served_recall": self.served,
            "dev_dense_recall": self.dense,
            "dev_served_mrr": self.served_mrr,
        }
        means = {
            name: float(values.mean()) if len(values) else 0.0 for name, values in columns.items()
        }
        return {name: round(mean, 4) for name, mean in means.items()}

    def above(self, other: DevScores) -> bool:
        """Whether recall is higher than that of `other`, or equal with a higher mrr@10."""
        return not other.not_below(self)

    def not_below(self, other: DevScores) -> bool:
        """Whether recall is higher than that of `other`, or equal with no lower mrr@10."""
        if self.served.sum() != other.served.sum():
            return bool(self.served.sum() > other.served.sum())
        # Sums of equal ranks may differ by rounding.
        return bool(self.served_mrr.sum() >= other.served_mrr.sum() - ROUNDING)


@dataclass(frozen=True)
class Selection:
    """The encoder that is served: base + `interpolation` x (tuned - base). 1 is the tuned encoder,
    0 the base."""

    interpolation: float
    scores: DevScores
    reason: str

    @property
    def shipped(self) -> bool:
        """Whether the base encoder is replaced."""
        return self.interpolation > 0


def measure(
    retriever: Searcher, pairs: Sequence[QAPair], gold: Mapping[str, set[str]]
) -> DevScores:
    """How well the retriever finds the gold chunks of the pairs; `gold`: their ids by pair id."""
    questions, filters = [pair.question for pair in pairs], [pair.filters for pair in pairs]
    served, dense = (
        [
            [chunk_id for chunk_id, _ in hits]
            for hits in retriever.search(questions, 10, mode, filters)
        ]
        for mode in (None, "dense")
    )
    return _scores(served, dense, [gold[pair.id] for pair in pairs])


def measure_ranked(questions: Sequence[Ranked], orders: Sequence[np.ndarray]) -> DevScores:
    """As `measure`, of questions that are ranked already; `orders` are the rows that are served for
    each."""

    def names(rankings: Iterable[Iterable[int]]) -> list[list[str]]:
        return [[str(row) for row in ranking] for ranking in rankings]

    dense = names(question.candidates.dense[0][:10] for question in questions)
    gold = [set(rows) for rows in names(question.gold for question in questions)]
    return _scores(names(order[:10] for order in orders), dense, gold)


def _scores(
    served: Sequence[list[str]], dense: Sequence[list[str]], gold: Sequence[set[str]]
) -> DevScores:
    served_rows, dense_rows = (
        [score_ranking(ranking, own) for ranking, own in zip(rankings, gold, strict=True)]
        for rankings in (served, dense)
    )
    return DevScores(
        np.array([row[DECIDING_RETRIEVAL] for row in served_rows], float),
        np.array([row[DECIDING_RETRIEVAL] for row in dense_rows], float),
        np.array([row[RANK] for row in served_rows], float),
    )


def with_ranker(scores: DevScores, rows: Sequence[Mapping[str, float]]) -> DevScores:
    """The scores with those of a feature ranker as what is served: {"served", "served_mrr"} of each
    dev question."""
    served, mrr = (
        np.array([row[name] for row in rows], float) for name in ("served", "served_mrr")
    )
    return replace(scores, served=served, served_mrr=mrr)


def select_encoder(
    base: DevScores, candidates: Iterable[tuple[float, DevScores]], pairs: Sequence[QAPair]
) -> Selection:
    """The first candidate that is not below the base, else the base.

    Args:
        base: scores of the untuned encoder.
        candidates: (interpolation, scores), the tuned encoder (1) first. They are drawn one by one,
            so that costly candidates are made only when needed.
        pairs: the dev pairs, in the order of the scores; documents are what is resampled.
    """
    if not pairs:
        return Selection(0.0, base, "no dev questions to judge by")
    rejected = ""
    for interpolation, scores in candidates:
        change = describe_change(base, scores, pairs)
        if scores.not_below(base):
            return Selection(interpolation, scores, f"{change}{rejected}")
        # The reason names the change of the whole tuning alone, which comes first.
        rejected = rejected or f"; all of the tuning was worse than the base: {change}"
    return Selection(0.0, base, f"the base stays{rejected}")


def describe_change(base: DevScores, tuned: DevScores, pairs: Sequence[QAPair]) -> str:
    """ "dev recall@5 +12.3 points [+8.0, +16.1] on 88 questions": of what is served, with a paired
    bootstrap over documents."""
    if not pairs:
        return "no dev questions to measure by"
    # Questions about one document are not independent: documents are what is resampled.
    documents = [pair.document_id or pair.id for pair in pairs]
    change = gain_of(tuned.served - base.served, documents)
    return f"dev {LABELS[DECIDING_RETRIEVAL]} {change.as_points()} on {len(pairs)} questions"
