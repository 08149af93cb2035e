"""How a reranker is served: how many of the first chunks it scores, and how much its score weighs
in their order. Dev questions choose both, only where the gain is certain.

Rerankers often lower a mixture that was tuned well: their score is one beside the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np

from rag_ft.retrieval.fusion import Ranking
from rag_ft.retrieval.reranker import Reranker, rerank
from rag_ft.storage import content_hash
from rag_ft.training.retriever.fusion_choice import (
    WEIGHTS,
    describe_gain,
    nearest_certain,
    rank_score,
)

# Numbers of chunks that are tried, up to reranker.advanced.depth.
DEPTHS = (5, 10, 20, 50, 100)
# A cross-encoder of six layers reads 20 chunks of so many questions in two to five minutes.
MAX_QUESTIONS = 300


class Asked(NamedTuple):
    """A question with its ranking before it is reranked, the rows of its gold chunks, and its
    document. `now` is the mrr@10 of what is served today, where that is another ranking."""

    question: str
    order: Ranking
    gold: frozenset[int]
    document: str
    now: float | None = None


@dataclass(frozen=True)
class RerankChoice:
    """A row of reranking.json: the share of the reranker's score (0: it is left out) in the order
    of the first `depth` chunks. `gain` and `ci95`, in mrr@10 (0-1), are those of the best candidate
    over what is served without it. `encoder` is the fingerprint of the encoder that it holds
    for."""

    weight: float = 0.0
    depth: int = 0
    reason: str = "no dev questions to choose by"
    num_questions: int = 0
    gain: float | None = None
    ci95: list[float] | None = None
    encoder: str = ""

    def row(self) -> dict[str, Any]:
        """As JSON."""
        return asdict(self)


def choose_reranking(
    reranker: Reranker, chunk_ids: Sequence[str], questions: Sequence[Asked]
) -> RerankChoice:
    """The fewest chunks, and then the smallest share, with most of the best gain, where that is
    certain; else none.

    `chunk_ids` are those of the rows. Of more than MAX_QUESTIONS a fixed choice is scored.
    """
    asked = sorted(questions, key=lambda q: content_hash(q.question, q.document))[:MAX_QUESTIONS]
    if not asked:
        return RerankChoice()
    most = reranker.depth
    depths = sorted({depth for depth in DEPTHS if depth < most} | {most})
    ways = [(0, 0.0), *((depth, weight) for depth in depths for weight in WEIGHTS[1:])]
    table = np.zeros((len(asked), len(ways)))
    for number, (question, order, gold, _, now) in enumerate(asked):
        scores = reranker.scores(question, [chunk_ids[row] for row in order[0][:most]])
        table[number] = [
            rank_score(rerank(order, scores[:depth], weight)[0] if depth else order[0], gold)
            for depth, weight in ways
        ]
        if now is not None:
            table[number, 0] = now

    found, gain = nearest_certain(table, 0, [question.document for question in asked])
    depth, weight = ways[found or int(table.mean(axis=0).argmax())]
    reason = f"{describe_gain(gain)} with {weight:g} of the reranker in the first {depth}, on "
    reason += f"{len(asked)} questions"
    if not weight:
        reason = f"no share of the reranker brings a gain on {len(asked)} questions"
    elif not found:
        reason += ": not certain, so it is left out"
    return RerankChoice(
        weight=ways[found][1],
        depth=ways[found][0],
        reason=reason,
        num_questions=len(asked),
        gain=round(gain.value, 4),
        ci95=gain.interval(4),
    )
