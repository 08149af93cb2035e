"""What a reranker is trained on: a question with its gold chunk and with what the retrievers take
for one, and how high each of these chunks should score."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np

from rag_ft.relevance import is_negative
from rag_ft.schema import Chunk, QAPair
from rag_ft.storage import content_hash
from rag_ft.training.retriever.dataset import TrainingRow

if TYPE_CHECKING:
    from datasets import Dataset

    from rag_ft.retrieval.retriever import Searcher

Labels = Literal["evidence", "lm", "both"]
# Chunks looked at from each retriever, and the first ones that may be trained on, of which
# negatives are drawn: what a reranker will be shown.
DEPTH, POOL = 100, 30
LEAST_SHARE = 1e-9  # its logarithm is finite


def mine_mistakes(
    pairs: Sequence[QAPair],
    retrievers: Sequence[Searcher],
    mode: str,
    chunks: Mapping[str, Chunk],
    num: int,
    seed: int,
) -> dict[str, tuple[str, ...]]:
    """`num` negatives of each pair, by pair id, drawn in equal parts from what each retriever ranks
    high; fewer where they do not find as many.

    A reranker that knows the mistakes of one retriever alone fails under another one, so those of
    the base count as much as those of the tuned one.

    Args:
        pairs: answerable, each with a chunk_id.
        retrievers: of the same index of chunks.
        mode: of their search.
        chunks: those that may be trained on; others are never drawn.
        num: negatives wanted of each pair.
        seed: of the draw, which depends on it and the pair alone.
    """
    questions, filters = [pair.question for pair in pairs], [pair.filters for pair in pairs]
    rankings = [one.search(questions, DEPTH, mode, filters) for one in retrievers]
    found = {}
    for number, pair in enumerate(pairs):
        rng, drawn = random.Random(content_hash(seed, pair.id)), list[str]()
        for turn, ranking in enumerate(rankings, 1):
            allowed = [i for i, _ in ranking[number] if i in chunks and i != pair.chunk_id]
            wrong = [i for i in allowed if is_negative(chunks[i], pair)]
            pool = [i for i in wrong[:POOL] if i not in drawn]
            share = num * turn // len(rankings) - len(drawn)
            drawn += rng.sample(pool, min(share, len(pool)))
        found[pair.id] = tuple(drawn)
    return found


def target(row: TrainingRow, labels: Labels, tau: float) -> np.ndarray:
    """The share (0-1) of each chunk of the row, together 1: all for the gold chunk, which is the
    first one, or as the language model likes them, softmax(score / tau), or half of each."""
    gold = np.eye(1, len(row.chunks))[0]
    if labels == "evidence":
        return gold
    scores = np.array([chunk.score for chunk in row.chunks]) / tau
    liked = np.exp(scores - scores.max())
    liked /= liked.sum()
    return liked if labels == "lm" else (gold + liked) / 2


def to_lists(rows: Sequence[TrainingRow], labels: Labels, tau: float) -> Dataset:
    """The columns question, chunks (texts) and label, as ListNetLoss reads them: the softmax of the
    label is the target."""
    from datasets import Dataset

    shares = [np.maximum(target(row, labels, tau), LEAST_SHARE) for row in rows]
    return Dataset.from_dict(
        {
            "question": [row.question for row in rows],
            "chunks": [[chunk.text for chunk in row.chunks] for row in rows],
            "label": [np.log(share).tolist() for share in shares],
        }
    )
