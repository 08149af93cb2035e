"""Rankings of chunks, and the mixture of a dense and a lexical one."""

from __future__ import annotations

import numpy as np

Ranking = tuple[np.ndarray, np.ndarray]  # rows of chunks and their scores, best first


def best_first(rows: np.ndarray, scores: np.ndarray) -> Ranking:
    """The ranking of `rows` (n,) by `scores` (n,), highest score first, ties by row."""
    order = np.lexsort((rows, -scores))
    return rows[order], scores[order]


def fuse(dense: Ranking, lexical: Ranking, lexical_weight: float) -> Ranking:
    """The union of both rankings, scored by (1 - w) x dense + w x lexical, 0..1.

    The scores of each ranking are min-max normalised to 0..1 first (all equal: 1). A chunk that
    one ranking lacks has 0 there. Best first, ties by row.
    """
    rows = np.union1d(dense[0], lexical[0])
    mixed = np.zeros(len(rows))
    for (found, scores), weight in ((dense, 1 - lexical_weight), (lexical, lexical_weight)):
        if len(found) == 0:
            continue
        low, high = float(scores.min()), float(scores.max())
        # A ranking whose scores are all equal has no scale: every chunk counts as its best.
        normalised = np.ones(len(scores))
        if high > low:
            normalised = (scores.astype(np.float64) - low) / (high - low)
        mixed[np.searchsorted(rows, found)] += weight * normalised
    return best_first(rows, mixed)
