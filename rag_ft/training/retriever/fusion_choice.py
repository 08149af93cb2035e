"""Which share of BM25 is served: the best of eleven on dev questions, only where its gain over half
and half is certain.

A fixed half ruins an encoder that was tuned well, and gives away what BM25 knows where the encoder
is weak. A choice by the best mean alone would follow the luck of few questions, so the lower bound
of the gain decides, with documents resampled.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from rag_ft.config import RetrievalConfig
from rag_ft.evaluation.metric_table import LABELS, RANK
from rag_ft.evaluation.metrics.ranking import reciprocal_rank
from rag_ft.evaluation.statistics import Estimate, bootstrap
from rag_ft.relevance import gold_by_pair
from rag_ft.retrieval.fusion import DEFAULT_LEXICAL_WEIGHT, Candidates, fuse
from rag_ft.retrieval.retriever import Retriever
from rag_ft.schema import QAPair
from rag_ft.training.retriever.dataset import Pairs

WEIGHTS = tuple(n / 10 for n in range(11))
# With fewer dev questions hardly any gain is certain: train questions join, ranked by an encoder
# that was not trained on them.
ENOUGH_QUESTIONS = 60
RANK_DEPTH = 10  # of mrr@10
NUM_RESAMPLES = 2000


class Ranked(NamedTuple):
    """A question with what both indexes found, the rows of its gold chunks, and its document."""

    candidates: Candidates
    gold: frozenset[int]
    document: str


@dataclass(frozen=True)
class FusionChoice:
    """A row of fusion.json.

    `mrr` are the means of mrr@10 (0-1) of WEIGHTS; `gain` and `ci95` those of the best weight over
    half and half, in mrr@10, None where it is that or nothing was measured. `encoder` is the
    fingerprint of the encoder that it holds for.
    """

    lexical_weight: float = DEFAULT_LEXICAL_WEIGHT
    reason: str = "no questions to choose by"
    num_questions: int = 0
    mrr: list[float] = field(default_factory=list)
    gain: float | None = None
    ci95: list[float] | None = None
    encoder: str = ""

    def row(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def choose_fusion(
    retriever: Retriever, retrieval: RetrievalConfig, pairs: Pairs, seen: bool
) -> FusionChoice:
    """How the retriever's ranking and BM25 are mixed in what is served.

    Dev pairs decide; where they are fewer than ENOUGH_QUESTIONS, train pairs too, unless the
    encoder has `seen` them in training. Clozes decide nothing: they share their words with a chunk
    as no question does.
    """
    if retrieval.mode != "hybrid":
        return FusionChoice(reason=f"retrieval.mode is {retrieval.mode}: nothing is mixed")
    if retrieval.advanced.lexical_weight is not None:
        weight = retrieval.advanced.lexical_weight
        return FusionChoice(weight, "set by retrieval.advanced.lexical_weight")
    dev = [] if pairs.clozed else rank_questions(retriever, pairs.dev, pairs.gold)
    if not seen and len(dev) < ENOUGH_QUESTIONS:
        gold = gold_by_pair(pairs.train, pairs.chunks.values())
        dev += rank_questions(retriever, pairs.train, gold)
    return replace(choose_weight(dev), encoder=retriever.encoder.fingerprint)


def rank_questions(
    retriever: Retriever, pairs: Sequence[QAPair], gold: Mapping[str, Collection[str]]
) -> list[Ranked]:
    """What both indexes find for the questions of `pairs`; `gold`: chunk ids by pair id. Pairs
    without a gold chunk are left out."""
    located = [pair for pair in pairs if gold.get(pair.id)]
    _, found = retriever.candidates([pair.question for pair in located])
    rows = retriever.row_of
    return [
        Ranked(
            candidates,
            frozenset(rows[i] for i in gold[pair.id] if i in rows),
            pair.document_id or pair.id,
        )
        for candidates, pair in zip(found, located, strict=True)
    ]


def choose_weight(questions: Sequence[Ranked]) -> FusionChoice:
    """The share of BM25 with the highest mrr@10, where the lower bound of its gain over half and
    half is above 0; else half and half."""
    if not questions:
        return FusionChoice()
    table = np.array([_scores_by_weight(question) for question in questions])
    means = table.mean(axis=0)
    # Of equally good weights the one nearest to half and half.
    best = max(
        range(len(WEIGHTS)),
        key=lambda n: (round(means[n], 9), -abs(WEIGHTS[n] - DEFAULT_LEXICAL_WEIGHT)),
    )
    half = WEIGHTS.index(DEFAULT_LEXICAL_WEIGHT)
    mrr = [round(float(mean), 4) for mean in means]
    where = f"on {len(questions)} questions"
    if best == half:
        return FusionChoice(
            reason=f"half and half is best {where}", num_questions=len(table), mrr=mrr
        )

    gain = gain_of(table[:, best] - table[:, half], [question.document for question in questions])
    certain = bool(gain.ci95 and gain.ci95[0] > 0)
    stays = "" if certain else ": not certain, so half and half stays"
    return FusionChoice(
        lexical_weight=WEIGHTS[best] if certain else DEFAULT_LEXICAL_WEIGHT,
        reason=f"BM25 {WEIGHTS[best]:g}: {describe_gain(gain)} {where}{stays}",
        num_questions=len(table),
        mrr=mrr,
        gain=round(gain.value, 4),
        ci95=[round(bound, 4) for bound in gain.ci95] if gain.ci95 else None,
    )


def gain_of(deltas: np.ndarray, documents: Sequence[str]) -> Estimate:
    """The mean of `deltas` (num_questions,), with an interval from resampled documents."""
    _, groups = np.unique(np.array(documents), return_inverse=True)
    column = deltas.astype(float)[:, None]
    return bootstrap(column, np.ones_like(column), groups, NUM_RESAMPLES)[0]


def describe_gain(gain: Estimate) -> str:
    """ "MRR@10 +3.1 points [+1.2, +5.0]"."""
    interval = ""
    if gain.ci95:
        interval = f" [{100 * gain.ci95[0]:+.1f}, {100 * gain.ci95[1]:+.1f}]"
    return f"{LABELS[RANK]} {100 * gain.value:+.1f} points{interval}"


def rank_score(rows: np.ndarray, gold: Collection[int]) -> float:
    """mrr@10 (0-1) of one ranking of rows, best first."""
    ranks = [rank for rank, row in enumerate(rows[:RANK_DEPTH].tolist(), 1) if row in gold]
    return reciprocal_rank(ranks, len(gold), k=RANK_DEPTH)


def _scores_by_weight(question: Ranked) -> list[float]:
    return [rank_score(fuse(*question.candidates, w)[0], question.gold) for w in WEIGHTS]
