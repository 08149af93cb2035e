"""Rankings of chunks, the mixture of a dense and a lexical one, and fusion.json, which says how a
run mixes them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rag_ft.errors import DataError

Ranking = tuple[np.ndarray, np.ndarray]  # rows of chunks and their scores, best first
DEFAULT_LEXICAL_WEIGHT = 0.5


class Candidates(NamedTuple):
    """What both indexes find for one question."""

    dense: Ranking
    lexical: Ranking


@dataclass(frozen=True)
class Fusion:
    """How dense and lexical ranking become one: the share of BM25 (0-1)."""

    lexical_weight: float = DEFAULT_LEXICAL_WEIGHT


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


def read_fusion(path: Path, encoder: str) -> dict[str, Any]:
    """The row of fusion.json that holds for the encoder with this fingerprint; empty where there is
    none.

    Raises:
        DataError: the file is damaged.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8")).values()
        row: dict[str, Any] = next((r for r in rows if r and r["encoder"] == encoder), {})
        if row and not 0 <= float(row["lexical_weight"]) <= 1:
            raise ValueError("lexical_weight must be 0-1")
        return row
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            f"{path} is damaged ({error}): run `rag-ft train_retriever CONFIG --force`"
        ) from error
