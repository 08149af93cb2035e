"""Hard negatives: chunks that look right to the retriever and are not.

Positive-aware: a chunk nearly as close as the positive is more likely an unmarked answer than a mistake, so a negative
must stay clearly below the positive.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence, Set
from itertools import chain, islice
from typing import Protocol

import numpy as np

from rag_ft.relevance import is_negative
from rag_ft.schema import Chunk, QAPair
from rag_ft.storage import content_hash

DEPTH = 100  # chunks looked at from each side, dense and BM25
POOL = 10  # the hardest allowed ones, of which `num_negatives` are drawn


class Searcher(Protocol):
    """What mining needs of a Retriever."""

    @property
    def vectors(self) -> np.ndarray: ...

    @property
    def row_of(self) -> dict[str, int]: ...

    def search(
        self, questions: Sequence[str], k: int, mode: str | None = None
    ) -> list[list[tuple[str, float]]]: ...

    @property
    def encoder(self) -> Encodes: ...


class Encodes(Protocol):
    def encode_queries(self, questions: Sequence[str]) -> np.ndarray: ...


def mine_negatives(
    pairs: Sequence[QAPair],
    retriever: Searcher,
    chunks: Mapping[str, Chunk],
    num: int,
    margin: float,
    seed: int,
) -> dict[str, tuple[str, ...]]:
    """`num` negatives of each pair, by pair id; fewer only where the corpus holds too few chunks.

    Chunks that the round trip of generation found before the gold chunk (`hard_chunk_ids`) come first, then a seeded
    draw from the hardest allowed ones of the dense and the BM25 ranking, then chunks drawn at random. Allowed is a
    chunk that scores (cosine) below (1 - margin) x the positive and is a negative by `is_negative`.

    Args:
        pairs: answerable, each with a chunk_id among `chunks`.
        retriever: its encoder scores, both its sides propose.
        chunks: those that may be trained on; others are never proposed.
        num: negatives wanted of each pair.
        margin: 0-1, relative to the positive's score.
        seed: of the draw, which depends on it and the pair alone.
    """
    if not pairs or not num:
        return {pair.id: () for pair in pairs}
    questions = [pair.question for pair in pairs]
    proposed = [retriever.search(questions, DEPTH, mode) for mode in ("dense", "lexical")]
    vectors = retriever.encoder.encode_queries(questions)
    found, everything = {}, sorted(chunks)
    for i, pair in enumerate(pairs):
        ids = dict.fromkeys(
            [*pair.hard_chunk_ids, *(chunk_id for side in proposed for chunk_id, _ in side[i])]
        )
        candidates = [chunks[chunk_id] for chunk_id in ids if chunk_id in chunks]
        scores = _cosines(vectors[i], [pair.chunk_id or "", *(c.id for c in candidates)], retriever)
        limit = (1 - margin) * scores[0] if scores[0] > 0 else scores[0]
        allowed = {
            c.id: s
            for c, s in zip(candidates, scores[1:], strict=True)
            if s < limit and is_negative(c, pair)
        }
        rng = random.Random(content_hash(seed, pair.id))
        mined = _draw(allowed, pair, num, rng)
        others = (
            chunks[chunk_id] for chunk_id in rng.sample(everything, min(DEPTH, len(everything)))
        )
        easy = (c.id for c in others if c.id not in mined and is_negative(c, pair))
        found[pair.id] = tuple(islice(chain(mined, easy), num))
    return found


def _cosines(question: np.ndarray, chunk_ids: Sequence[str], retriever: Searcher) -> np.ndarray:
    rows = [retriever.row_of[chunk_id] for chunk_id in chunk_ids]
    return np.asarray(retriever.vectors[rows] @ question)


def _draw(allowed: Mapping[str, float], pair: QAPair, num: int, rng: random.Random) -> list[str]:
    first = [chunk_id for chunk_id in pair.hard_chunk_ids if chunk_id in allowed][:num]
    rest: Set[str] = allowed.keys() - set(first)
    hardest = sorted(rest, key=lambda chunk_id: (-allowed[chunk_id], chunk_id))[:POOL]
    return [*first, *rng.sample(hardest, min(num - len(first), len(hardest)))]
