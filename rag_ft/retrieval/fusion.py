"""Rankings of chunks, the mixture of a dense and a lexical one, and fusion.json, which says how a
run mixes them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rag_ft.config import RetrievalConfig
from rag_ft.errors import DataError

Ranking = tuple[np.ndarray, np.ndarray]  # rows of chunks and their scores, best first
DEFAULT_LEXICAL_WEIGHT = 0.5


class Candidates(NamedTuple):
    """What both indexes find for one question."""

    dense: Ranking
    lexical: Ranking


@dataclass(frozen=True)
class Fusion:
    """How dense and lexical ranking become one: the share of BM25 (0-1), the file of the feature
    ranker that orders the mixture where there is one, and the share (0-1) of a reranker's score in
    the order of the first `rerank_depth` chunks, with the model that it was chosen for."""

    lexical_weight: float = DEFAULT_LEXICAL_WEIGHT
    ranker: Path | None = None
    rerank_weight: float = 0.0
    rerank_depth: int = 0
    reranker: str | None = None


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
        mixed[np.searchsorted(rows, found)] += weight * min_max(scores)
    return best_first(rows, mixed)


def min_max(scores: np.ndarray) -> np.ndarray:
    """The scores (n,) moved and stretched to 0..1. Equal scores have no scale: each becomes 1."""
    if len(scores) == 0:
        return np.zeros(0)
    low, high = float(scores.min()), float(scores.max())
    if high == low:
        return np.ones(len(scores))
    stretched: np.ndarray = (scores.astype(np.float64) - low) / (high - low)
    return stretched


def read_choice(path: Path, encoder: str, weight: str, stage: str) -> dict[str, Any]:
    """The row of fusion.json or reranking.json that holds for the encoder with this fingerprint;
    empty where there is none. `weight` names the share in it, `stage` what writes the file.

    Raises:
        DataError: the file is damaged.
    """
    try:
        rows = json.loads(path.read_text(encoding="utf-8")).values()
        row: dict[str, Any] = next((r for r in rows if r and r["encoder"] == encoder), {})
        if row and not 0 <= float(row[weight]) <= 1:
            raise ValueError(f"{weight} must be 0-1")
        return row
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataError(
            f"{path} is damaged ({error}): run `rag-ft {stage} CONFIG --force`"
        ) from error


def set_fusion(
    retrieval: RetrievalConfig, row: Mapping[str, Any] | None = None, folder: Path = Path()
) -> Fusion:
    """The fusion that the configuration sets; what it leaves open comes from `row` of fusion.json
    in the run `folder`, or is half and half."""
    row, weight = row or {}, retrieval.advanced.lexical_weight
    if weight is None:
        weight = row.get("lexical_weight", DEFAULT_LEXICAL_WEIGHT)
    ranker = row.get("ranker") if retrieval.ranker != "none" else None
    share, depth = float(row.get("rerank_weight", 0)), int(row.get("rerank_depth", 0))
    return Fusion(weight, folder / ranker if ranker else None, share, depth, row.get("reranker"))
