"""Which questions are asked where there are more than are wanted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rag_ft.schema import QAPair
from rag_ft.storage import content_hash


def spread_over_documents(pairs: Sequence[QAPair], limit: int, seed: int) -> list[QAPair]:
    """`limit` pairs in their order: one of each document, then a second, and so on. The seed
    decides which."""
    turns: Counter[str | None] = Counter()
    order = []
    for pair in sorted(pairs, key=lambda p: content_hash(seed, p.id)):
        turns[pair.document_id] += 1
        order.append((turns[pair.document_id], content_hash(seed, pair.document_id), pair.id))
    kept = {pair_id for _, _, pair_id in sorted(order)[:limit]}
    return [pair for pair in pairs if pair.id in kept]
