"""Rates with Wilson's interval, and Cohen's kappa: how far people, and people and checks, agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np

from rag_ft.review.store import KEEPS
from rag_ft.schema import Review

NUM_RESAMPLES = 2000


@dataclass(frozen=True)
class Rate:
    """`num_good` of `num`, as a share (0-1) with its 95 % interval; None where `num` is 0."""

    name: str
    num_good: int
    num: int
    share: float | None
    low: float | None
    high: float | None


def rate(name: str, num_good: int, num: int) -> Rate:
    """A share with Wilson's interval, which holds for few and for extreme counts too."""
    if not num:
        return Rate(name, 0, 0, None, None, None)
    from scipy.stats import binomtest  # the import takes half a second

    found = binomtest(num_good, num).proportion_ci(method="wilson")
    return Rate(name, num_good, num, num_good / num, float(found.low), float(found.high))


def kappa(pairs: Sequence[tuple[bool, bool]], seed: int = 0) -> dict[str, Any] | None:
    """{kappa, ci95, agreed, num} of two raters' yes and no; None without a common item.

    kappa is None where both always say the same one thing: there is nothing to agree about. The
    interval is a percentile bootstrap over the items.
    """
    if not pairs:
        return None
    votes = np.array(pairs, dtype=bool)
    rng = np.random.default_rng(seed)
    # A resample is known by how often each of the four combinations occurs in it.
    cells = np.bincount(votes[:, 0] * 2 + votes[:, 1], minlength=4)
    drawn = rng.multinomial(len(votes), cells / len(votes), size=NUM_RESAMPLES)
    resampled = _kappas(drawn)
    found = float(_kappas(cells[None, :])[0])
    known = resampled[~np.isnan(resampled)]
    has_kappa = not np.isnan(found) and len(known) > 0
    low, high = np.percentile(known, [2.5, 97.5]) if has_kappa else (0.0, 0.0)
    return {
        "kappa": round(found, 4) if has_kappa else None,
        "ci95": [round(float(low), 4), round(float(high), 4)] if has_kappa else None,
        "agreed": round(float((votes[:, 0] == votes[:, 1]).mean()), 4),
        "num": len(votes),
    }


def _kappas(cells: np.ndarray) -> np.ndarray:
    """Cohen's kappa of each row of counts (no no, no yes, yes no, yes yes); NaN: undefined."""
    total = cells.sum(axis=1)
    agreed = (cells[:, 0] + cells[:, 3]) / total
    first = (cells[:, 2] + cells[:, 3]) / total
    second = (cells[:, 1] + cells[:, 3]) / total
    chance = first * second + (1 - first) * (1 - second)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(chance < 1, (agreed - chance) / (1 - chance), np.nan)


def votes_of(reviews: Mapping[str, Review]) -> dict[str, bool]:
    """{reviewer: whether they keep the pair}, without those who are unsure."""
    return {
        name: review.decision in KEEPS
        for name, review in reviews.items()
        if review.source != "serve" and review.decision in (*KEEPS, "reject")
    }


def reviewers_agreement(
    votes: Collection[Mapping[str, bool]], seed: int = 0
) -> list[dict[str, Any]]:
    """{reviewers, kappa, ci95, agreed, num} for each two reviewers with common pairs, those with
    the most first. `votes`: of each pair."""
    common: Counter[tuple[str, str]] = Counter()
    for of_pair in votes:
        common.update(combinations(sorted(of_pair), 2))
    found = []
    for first, second in (two for two, _ in common.most_common()):
        both = [(v[first], v[second]) for v in votes if first in v and second in v]
        found.append({"reviewers": [first, second], **(kappa(both, seed) or {})})
    return found
