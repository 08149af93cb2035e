"""Measures of one ranking. `ranks` are those of its gold chunks (1 is best), `num_gold` counts
those there are."""

from __future__ import annotations

import math
from collections.abc import Sequence


def recall(ranks: Sequence[int], num_gold: int, k: int) -> float:
    """1.0 if any gold chunk is among the first k: overlapping chunks hold the same evidence, one is
    enough."""
    return float(any(rank <= k for rank in ranks))


def reciprocal_rank(ranks: Sequence[int], num_gold: int, k: int) -> float:
    """1 / rank of the first gold chunk, 0 where it is below k."""
    return 1 / min(ranks) if ranks and min(ranks) <= k else 0.0


def ndcg(ranks: Sequence[int], num_gold: int, k: int) -> float:
    """Discounted gain with binary relevance (0-1); the ideal ranking begins with all gold
    chunks."""
    ideal = sum(_discount(rank) for rank in range(1, min(num_gold, k) + 1))
    return sum(_discount(rank) for rank in ranks if rank <= k) / ideal if ideal else 0.0


def _discount(rank: int) -> float:
    return 1 / math.log2(rank + 1)
