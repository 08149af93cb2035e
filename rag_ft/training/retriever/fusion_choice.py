"""Which share of BM25 is served: chosen among eleven on dev questions, only where its gain over
half and half is certain.

A fixed half ruins an encoder that was tuned well, and gives away what BM25 knows where the encoder
is weak. A choice by the best mean alone would follow the luck of few questions, so the lower bound
of the gain decides, with documents resampled.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, NamedTuple

import numpy as np

from rag_ft.evaluation.metric_table import LABELS, RANK
from rag_ft.evaluation.metrics.ranking import reciprocal_rank
from rag_ft.evaluation.statistics import ROUNDING, Estimate, bootstrap
from rag_ft.retrieval.fusion import DEFAULT_LEXICAL_WEIGHT, Candidates, fuse
from rag_ft.retrieval.retriever import Retriever
from rag_ft.schema import QAPair
from rag_ft.storage import content_hash
from rag_ft.training.dev_split import enough

WEIGHTS = tuple(n / 10 for n in range(11))
RANK_DEPTH = 10  # of mrr@10
# More questions choose no better, and what a ranker looks at takes 20 kB for each of them.
MAX_QUESTIONS = 3000
# Over 20 random halvings of COVID-QA the best weight lost more than a point of recall@5 in two, the
# nearest one with this share of its gain in one, with the higher mean; on NQ neither lost.
KEPT_GAIN = 0.8
NUM_RESAMPLES = 2000


class Ranked(NamedTuple):
    """A question with what both indexes found, the rows of its gold chunks, its document, and what
    a feature ranker looks at: rows of candidates and their columns."""

    id: str
    candidates: Candidates
    gold: frozenset[int]
    document: str
    features: tuple[np.ndarray, np.ndarray]
    question: str = ""
    by_people: bool = False


@dataclass(frozen=True)
class FusionChoice:
    """A row of fusion.json.

    `mrr` are the means of mrr@10 (0-1) of WEIGHTS; `gain` and `ci95` those of the candidate over
    half and half, in mrr@10, None where it is that or nothing was measured. `encoder` is the
    fingerprint of the encoder that it holds for. `ranker` is the file of the feature ranker, where
    one is served, with the reason, and its gain over the mixture; `rerank_weight` the share of the
    score of `reranker` (as the configuration names it) in the order of the first `rerank_depth`
    chunks.
    """

    lexical_weight: float = DEFAULT_LEXICAL_WEIGHT
    reason: str = "no questions to choose by"
    num_questions: int = 0
    mrr: list[float] = field(default_factory=list)
    gain: float | None = None
    ci95: list[float] | None = None
    encoder: str = ""
    ranker: str | None = None
    ranker_reason: str = ""
    ranker_gain: float | None = None
    ranker_ci95: list[float] | None = None
    reranker: str | None = None
    rerank_weight: float = 0.0
    rerank_depth: int = 0
    rerank_reason: str = ""

    def row(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def rank_questions(
    retriever: Retriever, pairs: Sequence[QAPair], gold: Mapping[str, Collection[str]]
) -> list[Ranked]:
    """What both indexes find for the questions of `pairs`; `gold`: chunk ids by pair id. Pairs
    without a gold chunk are left out; of more than MAX_QUESTIONS a fixed choice is taken."""
    located = [pair for pair in pairs if gold.get(pair.id)]
    if len(located) > MAX_QUESTIONS:
        chosen = {
            pair.id for pair in sorted(located, key=lambda p: content_hash(p.id))[:MAX_QUESTIONS]
        }
        located = [pair for pair in located if pair.id in chosen]
    if not located:
        return []
    vectors, found = retriever.candidates(
        [pair.question for pair in located], [pair.filters for pair in located]
    )
    rows = retriever.row_of
    return [
        Ranked(
            pair.id,
            candidates,
            frozenset(rows[i] for i in gold[pair.id] if i in rows),
            pair.document_id or pair.id,
            retriever.features(pair.question, vector, candidates),
            pair.question,
            pair.origin != "generated",
        )
        for pair, vector, candidates in zip(located, vectors, found, strict=True)
    ]


def deciding(questions: Sequence[Ranked]) -> list[Ranked]:
    """The questions that people asked, where these are enough to choose by; otherwise all.

    A language model asks in other words than people do, and other rankings are best for it.
    """
    asked = [question for question in questions if question.by_people]
    return asked if enough([question.document for question in asked]) else list(questions)


def choose_weight(questions: Sequence[Ranked]) -> FusionChoice:
    """The share of BM25 nearest to half and half that brings at least KEPT_GAIN of the best
    weight's gain in mrr@10, where the lower bound of its own gain is above 0; else half and half.

    The best weight itself is an extreme of noisy means, and on other questions often one step too
    far.
    """
    if not questions:
        return FusionChoice()
    table = np.array([_scores_by_weight(question) for question in questions])
    means, half = table.mean(axis=0), WEIGHTS.index(DEFAULT_LEXICAL_WEIGHT)
    documents = [question.document for question in questions]
    choice = FusionChoice(
        reason=f"half and half is best on {len(questions)} questions",
        num_questions=len(questions),
        mrr=[round(float(mean), 4) for mean in means],
    )
    if means.max() - means[half] < ROUNDING:
        return choice

    found, gain = nearest_certain(table, half, documents)
    weight = WEIGHTS[int(means.argmax()) if found == half else found]
    stays = ": not certain, so half and half stays" if found == half else ""
    return replace(
        choice,
        lexical_weight=WEIGHTS[found],
        reason=f"BM25 {weight:g}: {describe_gain(gain)} on {len(questions)} questions{stays}",
        gain=round(gain.value, 4),
        ci95=gain.interval(4),
    )


def nearest_certain(
    table: np.ndarray, start: int, documents: Sequence[str]
) -> tuple[int, Estimate]:
    """(column, its gain over the column `start`): the nearest column with at least KEPT_GAIN of the
    best column's gain, where the lower bound of its own is above 0; else `start`, with the gain of
    the best. `table` has the scores (num_questions, num_columns)."""
    means = table.mean(axis=0)
    wanted = KEPT_GAIN * (means.max() - means[start]) - ROUNDING
    able = [n for n in range(table.shape[1]) if n != start and means[n] - means[start] >= wanted]
    for number in sorted(able, key=lambda n: (abs(n - start), -means[n])):
        gain = gain_of(table[:, number] - table[:, start], documents)
        if gain.ci95 and gain.ci95[0] > 0:
            return number, gain
    best = int(means.argmax())
    return start, gain_of(table[:, best] - table[:, start], documents)


def gain_of(deltas: np.ndarray, documents: Sequence[str]) -> Estimate:
    """The mean of `deltas` (num_questions,), with an interval from resampled documents."""
    _, groups = np.unique(np.array(documents), return_inverse=True)
    column = deltas.astype(float)[:, None]
    return bootstrap(column, np.ones_like(column), groups, NUM_RESAMPLES)[0]


def describe_gain(gain: Estimate) -> str:
    """ "MRR@10 +3.1 points [+1.2, +5.0]"."""
    return f"{LABELS[RANK]} {gain.as_points()}"


def rank_score(rows: np.ndarray, gold: Collection[int]) -> float:
    """mrr@10 (0-1) of one ranking of rows, best first."""
    ranks = [rank for rank, row in enumerate(rows[:RANK_DEPTH].tolist(), 1) if row in gold]
    return reciprocal_rank(ranks, len(gold), k=RANK_DEPTH)


def _scores_by_weight(question: Ranked) -> list[float]:
    return [rank_score(fuse(*question.candidates, w)[0], question.gold) for w in WEIGHTS]
