"""How the rankings of one encoder are served: the share of BM25, and whether the feature ranker
orders the mixture.

The ranker is judged by cross-validation over documents against the mixture that it would replace.
Its scores must come from an encoder that was not trained on the question: those of a tuned encoder
on its own training questions look better than they will ever be again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rag_ft.config import RetrievalConfig
from rag_ft.errors import ConfigError
from rag_ft.evaluation.metric_table import DECIDING_RETRIEVAL, LABELS, METRICS
from rag_ft.relevance import gold_by_pair
from rag_ft.retrieval.feature_ranker import FEATURES, load_lightgbm, ranked_by
from rag_ft.retrieval.fusion import Ranking, fuse
from rag_ft.retrieval.reranker import Reranker
from rag_ft.retrieval.retriever import Retriever
from rag_ft.schema import QAPair
from rag_ft.storage import content_hash
from rag_ft.training.retriever.dataset import Pairs
from rag_ft.training.retriever.fusion_choice import (
    FusionChoice,
    Ranked,
    choose_weight,
    deciding,
    describe_gain,
    gain_of,
    rank_questions,
    rank_score,
)
from rag_ft.training.retriever.rerank_choice import Asked, choose_reranking

# With fewer questions or documents nothing certain is learned.
MIN_QUESTIONS, MIN_DOCUMENTS = 100, 4
NUM_FOLDS, NUM_TREES = 5, 200
# Small trees: of 4 to 31 leaves, 7 ranked best on documents held out.
SETTINGS = {
    "objective": "lambdarank",
    "num_leaves": 7,
    "learning_rate": 0.03,
    "min_data_in_leaf": 50,
    "feature_fraction": 0.5,
    "bagging_fraction": 0.8,
    "bagging_freq": 1,
    "lambdarank_truncation_level": 10,
    "deterministic": True,
    "force_row_wise": True,
    "num_threads": 1,
    "verbosity": -1,
}


@dataclass(frozen=True)
class RankerChoice:
    """Whether the ranker is served, and why. `gain` and `ci95`: its mrr@10 (0-1) over that of the
    mixture, on documents that it was not trained on; None where it was not trained. `held_out`: for
    each question {"served": recall, "served_mrr"} of the ranker that did not see it, and `orders`
    its ranking of the candidates."""

    served: bool
    reason: str
    gain: float | None = None
    ci95: list[float] | None = None
    held_out: dict[str, dict[str, float]] | None = None
    orders: dict[str, Ranking] | None = None


def choose_fusion(
    retriever: Retriever,
    retrieval: RetrievalConfig,
    pairs: Pairs,
    unseen: Sequence[Ranked],
    others: Sequence[Ranked],
    path: Path,
    seed: int,
    reranker: Reranker | None = None,
) -> tuple[FusionChoice, RankerChoice]:
    """How the encoder's ranking and BM25 are mixed, and ordered, in what is served.

    Dev pairs and the train questions `unseen` decide, those that people asked alone where they are
    enough. Clozes decide nothing: they share their words with a chunk as no question does.

    Args:
        retriever: the encoder over its index.
        retrieval: what the configuration sets.
        pairs: of train and dev.
        unseen: train questions as this encoder, or one like it, ranks them that was not trained on
            them.
        others: train questions as another encoder ranks them, which a ranker may learn from too.
        path: where a ranker that is served is written.
        seed: of the ranker.
        reranker: scores the first chunks again, where the configuration names one.
    """
    if retrieval.mode != "hybrid":
        return unmixed(retrieval), RankerChoice(False, "nothing is mixed")
    dev = [] if pairs.clozed else rank_questions(retriever, pairs.dev, pairs.gold)
    questions = [*dev, *unseen]
    choice = choose_weight(deciding(questions))
    if (weight := retrieval.advanced.lexical_weight) is not None:
        choice = FusionChoice(weight, "set by retrieval.advanced.lexical_weight")
    ranker, forced = RankerChoice(False, "retrieval.ranker is none"), retrieval.ranker == "lightgbm"
    if retrieval.ranker != "none":
        try:
            ranker = choose_ranker(questions, others, choice.lexical_weight, path, forced, seed)
        except ConfigError as error:  # LightGBM cannot be loaded; only who asked for it needs it
            if forced:
                raise
            ranker = RankerChoice(False, str(error))
    if reranker:
        orders = ranker.orders if ranker.served and ranker.orders else {}
        choice = with_reranker(choice, reranker, retriever.chunk_ids, deciding(questions), orders)
    choice = replace(
        choice,
        encoder=retriever.encoder.fingerprint,
        ranker=path.name if ranker.served else None,
        ranker_reason=ranker.reason,
        ranker_gain=ranker.gain,
        ranker_ci95=ranker.ci95,
    )
    return choice, ranker


def with_reranker(
    choice: FusionChoice,
    reranker: Reranker,
    chunk_ids: Sequence[str],
    judged: Sequence[Ranked],
    orders: Mapping[str, Ranking],
) -> FusionChoice:
    """The choice with how the reranker is served. `orders` are those of the feature ranker by
    question; without one the mixture is reordered."""
    asked = []
    for question in judged:
        order = orders.get(question.id) or fuse(*question.candidates, choice.lexical_weight)
        asked.append(Asked(question.question, order, question.gold, question.document))
    found = choose_reranking(reranker, chunk_ids, asked)
    return replace(
        choice,
        reranker=reranker.name if found.weight else None,
        rerank_weight=found.weight,
        rerank_depth=found.depth,
        rerank_reason=found.reason,
    )


def unmixed(retrieval: RetrievalConfig) -> FusionChoice:
    """The choice where one index alone is served."""
    return FusionChoice(reason=f"retrieval.mode is {retrieval.mode}: nothing is mixed")


def rank_train(
    retriever: Retriever, retrieval: RetrievalConfig, pairs: Pairs, asked: Sequence[QAPair]
) -> list[Ranked]:
    """The train pairs `asked` as the retriever ranks them; none where nothing is mixed."""
    if retrieval.mode != "hybrid":
        return []
    return rank_questions(retriever, asked, gold_by_pair(asked, pairs.chunks.values()))


def choose_ranker(
    questions: Sequence[Ranked],
    others: Sequence[Ranked],
    lexical_weight: float,
    path: Path,
    forced: bool,
    seed: int,
) -> RankerChoice:
    """Whether a ranker is served in place of the mixture; one that is stands in `path`.

    Args:
        questions: it is trained on them, and judged by those of them that decide, by turns.
        others: questions that it is trained on only. They share no document with `questions`.
        lexical_weight: of the mixture.
        path: where the model is written.
        forced: serves it whatever the gain.
        seed: of the training.
    """
    judged = deciding(questions)
    num_documents = len({question.document for question in judged})
    num_questions = len(questions) + len(others)
    if num_questions < MIN_QUESTIONS or num_documents < MIN_DOCUMENTS:
        return RankerChoice(
            False,
            f"{num_questions} questions, {num_documents} documents to judge by: a ranker needs "
            f"{MIN_QUESTIONS} and {MIN_DOCUMENTS}",
        )
    # Recall and mrr@10 of each question, by the ranker that did not see it and by the mixture.
    recall = METRICS[DECIDING_RETRIEVAL].score
    assert recall is not None
    orders = cross_validated(questions, others, seed)
    scores = np.zeros((len(questions), 2, 2))
    for number, (question, (rows, _)) in enumerate(zip(questions, orders, strict=True)):
        mixed, _ = fuse(*question.candidates, lexical_weight)
        for way, order in enumerate((rows, mixed)):
            ranks = [rank for rank, row in enumerate(order.tolist(), 1) if row in question.gold]
            scores[number, way] = recall(ranks, 1), rank_score(order, question.gold)

    decides = np.isin([question.id for question in questions], [question.id for question in judged])
    deltas = (scores[:, 0] - scores[:, 1])[decides]
    gain = gain_of(deltas[:, 1], [question.document for question in judged])
    certain = bool(gain.ci95 and gain.ci95[0] > 0 and deltas[:, 0].sum() >= 0)
    change = f"{LABELS[DECIDING_RETRIEVAL]} {100 * deltas[:, 0].mean():+.1f}"
    reason = f"{describe_gain(gain)}, {change} over the mixture on {len(judged)} questions"
    if certain or forced:
        path.parent.mkdir(parents=True, exist_ok=True)
        train_ranker([*questions, *others], seed).save_model(path)
    else:
        reason += ": not certain, so the mixture stays"
    return RankerChoice(
        served=certain or forced,
        reason=reason,
        gain=round(gain.value, 4),
        ci95=gain.interval(4),
        held_out={
            question.id: {"served": float(found), "served_mrr": float(mrr)}
            for question, (found, mrr) in zip(questions, scores[:, 0], strict=True)
        },
        orders={question.id: order for question, order in zip(questions, orders, strict=True)},
    )


def cross_validated(
    questions: Sequence[Ranked], others: Sequence[Ranked], seed: int
) -> list[Ranking]:
    """The candidates of each question, best first, by a ranker that was trained on `others` and on
    `questions` without those about its document."""
    documents = sorted({q.document for q in questions}, key=lambda name: content_hash(seed, name))
    fold_of = {name: number % NUM_FOLDS for number, name in enumerate(documents)}
    orders: list[Ranking] = [(np.empty(0, dtype=np.int64), np.empty(0))] * len(questions)
    for fold in sorted(set(fold_of.values())):
        kept = [question for question in questions if fold_of[question.document] != fold]
        ranker = train_ranker([*kept, *others], seed)
        for number, question in enumerate(questions):
            if fold_of[question.document] == fold:
                orders[number] = ranked_by(ranker, *question.features)
    return orders


def train_ranker(questions: Sequence[Ranked], seed: int) -> Any:
    """A lightgbm.Booster over FEATURES of the questions' candidates: gold chunks come first."""
    lightgbm = load_lightgbm()
    chosen = [question for question in questions if len(question.features[0])]
    labels = [np.isin(question.features[0], list(question.gold)) for question in chosen]
    data = lightgbm.Dataset(
        np.concatenate([question.features[1] for question in chosen]),
        np.concatenate(labels).astype(np.int32),
        group=[len(label) for label in labels],
        feature_name=list(FEATURES),
    )
    return lightgbm.train({**SETTINGS, "seed": seed}, data, NUM_TREES)
