"""Hard negatives: chunks that look right to the retriever and do not contain the answer.

The mining is positive-aware (NV-Retriever, Moreira et al. 2024): a chunk nearly as close as the
positive is more likely an unmarked answer than a mistake, so a negative must score clearly below
the positive.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING

from rag_ft.relevance import is_negative
from rag_ft.retrieval.metadata_filter import group_by_filter
from rag_ft.schema import Chunk, QAPair
from rag_ft.storage import content_hash

if TYPE_CHECKING:
    from rag_ft.retrieval.retriever import Retriever

DEPTH = 100  # chunks looked at from each ranking, dense and BM25
POOL = 10  # the hardest allowed chunks, of which `num` are drawn
# Random chunks tried for each pair. The second number is used where the first chunks all contain
# the answer, as with an answer like "1".
RANDOM_TRIES = (DEPTH, 2000)


def mine_negatives(
    pairs: Sequence[QAPair],
    retriever: Retriever,
    chunks: Mapping[str, Chunk],
    num: int,
    margin: float,
    seed: int,
) -> dict[str, tuple[str, ...]]:
    """`num` negatives of each pair, by pair id; fewer where hardly any chunk is a negative of it.

    Chunks that the round trip of generation found before the gold chunk come first, then a seeded
    draw from the hardest allowed ones of the dense and the BM25 ranking, then random negatives. A
    chunk is allowed if it is a negative and scores (cosine) below (1 - margin) x the positive. A
    pair with filters gets only chunks that they allow.

    Args:
        pairs: answerable, each with a chunk_id among `chunks`.
        retriever: its encoder scores, both its rankings propose.
        chunks: those that may be trained on; others are never proposed.
        num: negatives wanted of each pair.
        margin: 0-1, relative to the positive's score.
        seed: of the draw, which depends on it and the pair alone.
    """
    if not pairs or not num:
        return {pair.id: () for pair in pairs}
    found = dict[str, tuple[str, ...]]()
    for wanted, places in group_by_filter([pair.filters for pair in pairs]).items():
        group, allowed = [pairs[place] for place in places], chunks
        if wanted is not None:
            rows = retriever.allowed(wanted)
            allowed = {i: chunk for i, chunk in chunks.items() if rows[retriever.row_of[i]]}
        found |= _mine(group, retriever, allowed, num, margin, seed)
    return found


def _mine(
    pairs: Sequence[QAPair],
    retriever: Retriever,
    chunks: Mapping[str, Chunk],
    num: int,
    margin: float,
    seed: int,
) -> dict[str, tuple[str, ...]]:
    """As `mine_negatives`, of pairs with the same filters, which allow all of `chunks`."""
    questions, filters = [pair.question for pair in pairs], [pair.filters for pair in pairs]
    rankings = [retriever.search(questions, DEPTH, mode, filters) for mode in ("dense", "lexical")]
    vectors = retriever.encoder.encode_queries(questions)
    everything, found = sorted(chunks), dict[str, tuple[str, ...]]()
    for i, pair in enumerate(pairs):
        rng = random.Random(content_hash(seed, pair.id))

        # What the round trip and both rankings propose, without chunks of dev and test documents.
        ranked = (chunk_id for ranking in rankings for chunk_id, _ in ranking[i])
        proposed = dict.fromkeys([*pair.hard_chunk_ids, *ranked])
        candidates = [chunks[chunk_id] for chunk_id in proposed if chunk_id in chunks]

        # Negatives that score clearly below the positive, which stands first.
        ids = [pair.chunk_id or "", *(chunk.id for chunk in candidates)]
        rows = [retriever.row_of[chunk_id] for chunk_id in ids]
        positive, *scores = retriever.vectors[rows] @ vectors[i]
        limit = (1 - margin) * positive if positive > 0 else positive
        allowed = {}
        for chunk, score in zip(candidates, scores, strict=True):
            if score < limit and is_negative(chunk, pair):
                allowed[chunk.id] = score

        # Those of the round trip, then a draw from the hardest.
        drawn = [chunk_id for chunk_id in pair.hard_chunk_ids if chunk_id in allowed][:num]
        rest = sorted(allowed.keys() - set(drawn), key=lambda name: (-allowed[name], name))
        drawn += rng.sample(rest[:POOL], min(num - len(drawn), len(rest[:POOL])))

        # Where too few are hard enough, random negatives.
        for tries in RANDOM_TRIES:
            if len(drawn) < num:
                names = rng.sample(everything, min(tries, len(everything)))
                others = (n for n in names if n not in drawn and is_negative(chunks[n], pair))
                drawn = [*drawn, *islice(others, num - len(drawn))]
        found[pair.id] = tuple(drawn)
    return found
