"""Measures of one ranking (0-1): `ranks` are the ranks of its gold chunks (1 is best), `num_gold`
is the number of gold chunks that exist."""

from __future__ import annotations

import math
from collections.abc import Sequence


def recall(ranks: Sequence[int], num_gold: int, k: int) -> float:
    """1.0 if any gold chunk is among the first k: gold chunks overlap and contain the same
    evidence, so one is enough."""
    return float(any(rank <= k for rank in ranks))


def reciprocal_rank(ranks: Sequence[int], num_gold: int, k: int) -> float:
    """1 / rank of the first gold chunk, 0 where it is below k."""
    return 1 / min(ranks) if ranks and min(ranks) <= k else 0.0


def ndcg(ranks: Sequence[int], num_gold: int, k: int) -> float:
    """Discounted gain with binary relevance, as a share of the ideal ranking's, which begins with
    all gold chunks (Järvelin and Kekäläinen 2002)."""
    ideal = sum(_discount(rank) for rank in range(1, min(num_gold, k) + 1))
    return sum(_discount(rank) for rank in ranks if rank <= k) / ideal if ideal else 0.0


def _discount(rank: int) -> float:
    return 1 / math.log2(rank + 1)
