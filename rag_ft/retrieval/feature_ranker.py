"""A LightGBM ranker over what both indexes say of the chunks that they find for a question.

It weighs the two scores by how they look together, with the scores of neighbouring chunks and of
the same document beside them, where the mixture has one weight for all questions.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rag_ft.errors import ConfigError, DataError
from rag_ft.retrieval.fusion import Candidates, Ranking, best_first, fuse, min_max

if TYPE_CHECKING:
    from rag_ft.retrieval.lexical import LexicalIndex

# The columns of `features`, in order.
FEATURES = (
    "dense",  # cosine
    "dense_share",  # min-max normalised over the candidates, 0-1
    "dense_rank",  # 1 / rank among the candidates
    "bm25",
    "bm25_share",
    "bm25_rank",
    "mixture",  # half and half, 0-1
    "mixture_rank",
    "overlap",  # share of the question's words in the chunk, weighted by idf, 0-1
    "rarest_word",  # highest idf of a word that question and chunk share
    "document_dense",  # best share of the document's candidates, 0-1
    "document_bm25",
    "document_mixture",
    "document_candidates",  # number of candidates from the document
    "rank_in_document",  # 1 / rank by mixture among them
    "dense_before",  # cosine of the chunk before in the document; its own where there is none
    "dense_after",
    "bm25_before",
    "bm25_after",
    "position",  # of the chunk in its document, 0-1
    "document_chunks",
    "question_words",
    "best_dense",  # of all candidates: how well the question is answered at all
    "best_bm25",
    "agreement",  # number of chunks among the first ten of both rankings
)


class ChunkPlaces:
    """Where each chunk stands in its document. Chunks of a document follow each other."""

    def __init__(self, chunk_ids: Sequence[str]) -> None:
        """`chunk_ids` in the order of the index; an id is the document's, "#" and a number."""
        names = [chunk_id.rpartition("#")[0] for chunk_id in chunk_ids]
        starts = [row for row, name in enumerate(names) if not row or name != names[row - 1]]
        self.first = np.array(starts, dtype=np.int64)
        self.sizes = np.diff([*starts, len(names)])

    def documents(self, rows: np.ndarray) -> np.ndarray:
        """The number of the document of each row."""
        return np.searchsorted(self.first, rows, side="right") - 1


def features(
    question: str,
    close: Callable[[np.ndarray], np.ndarray],
    found: Candidates,
    lexical: LexicalIndex,
    places: ChunkPlaces,
) -> tuple[np.ndarray, np.ndarray]:
    """The rows that either index found, and FEATURES of each: float32 (num_rows, num_features).

    `close` says how close chunks are to the question, by their rows; `found` is what both indexes
    found for it; `lexical` and `places` are of all chunks.
    """
    rows = np.union1d(found.dense[0], found.lexical[0]).astype(np.int64)
    documents = places.documents(rows)
    first, size = places.first[documents], places.sizes[documents]
    before, after = np.maximum(rows - 1, first), np.minimum(rows + 1, first + size - 1)

    # Both scores of all candidates and their neighbours, also where only one index found a chunk.
    every, place = np.unique(np.concatenate([rows, before, after]), return_inverse=True)
    all_dense = close(every)
    all_bm25, all_overlap, all_rarest = lexical.compare(question, every)
    own, left, right = np.split(place, 3)
    dense, bm25 = all_dense[own], all_bm25[own]

    dense_share, bm25_share = min_max(dense), min_max(bm25)
    mixed_rows, mixed_scores = fuse(*found, 0.5)
    mixture = mixed_scores[np.argsort(mixed_rows)]
    _, group, members = np.unique(documents, return_inverse=True, return_counts=True)
    first_ten = [set(ranking[0][:10].tolist()) for ranking in found]
    columns = {
        "dense": dense,
        "dense_share": dense_share,
        "dense_rank": 1 / _ranks(dense),
        "bm25": bm25,
        "bm25_share": bm25_share,
        "bm25_rank": 1 / _ranks(bm25),
        "mixture": mixture,
        "mixture_rank": 1 / _ranks(mixture),
        "overlap": all_overlap[own],
        "rarest_word": all_rarest[own],
        "document_dense": _best_of(dense_share, group),
        "document_bm25": _best_of(bm25_share, group),
        "document_mixture": _best_of(mixture, group),
        "document_candidates": members[group],
        "rank_in_document": 1 / _ranks(mixture, group),
        "dense_before": all_dense[left],
        "dense_after": all_dense[right],
        "bm25_before": all_bm25[left],
        "bm25_after": all_bm25[right],
        "position": (rows - first) / np.maximum(size - 1, 1),
        "document_chunks": size,
        "question_words": len(question.split()),
        "best_dense": dense.max(initial=0),
        "best_bm25": bm25.max(initial=0),
        "agreement": len(first_ten[0] & first_ten[1]),
    }
    # Values of the question stand in every row.
    every_row = [np.broadcast_to(columns[name], len(rows)) for name in FEATURES]
    return rows, np.column_stack(every_row).astype(np.float32)


class FeatureRanker:
    """A trained LightGBM model."""

    def __init__(self, path: Path) -> None:
        """Raises DataError where `path` is no model of these FEATURES, ConfigError where LightGBM
        cannot be loaded."""
        lightgbm = load_lightgbm()
        try:
            self._booster = lightgbm.Booster(model_file=str(path))
        except (OSError, lightgbm.basic.LightGBMError) as error:
            raise DataError(
                f"{path} is not a ranker ({error}): run `rag-ft train_retriever CONFIG --force`"
            ) from error
        if tuple(self._booster.feature_name()) != FEATURES:
            raise DataError(
                f"{path} was trained by another version: run `rag-ft train_retriever CONFIG "
                "--force`"
            )

    def rank(self, rows: np.ndarray, columns: np.ndarray) -> Ranking:
        """As `ranked_by`."""
        return ranked_by(self._booster, rows, columns)


def ranked_by(booster: Any, rows: np.ndarray, columns: np.ndarray) -> Ranking:
    """`rows` by the score, 0-1, of a lightgbm.Booster, best first; `columns` as `features` returns
    them."""
    if not len(rows):
        return rows, np.zeros(0)
    scores = np.asarray(booster.predict(columns, num_threads=1))
    return best_first(rows, 1 / (1 + np.exp(-scores)))


@functools.cache
def load_lightgbm() -> Any:
    """The module lightgbm.

    Raises:
        ConfigError: it cannot be loaded.
    """
    try:
        import lightgbm
    except (ImportError, OSError) as error:  # OSError: the OpenMP library is missing
        raise ConfigError(
            f"LightGBM cannot be loaded ({error}): repair it (macOS: brew install libomp, "
            "Debian: apt-get install libgomp1), or set retrieval.ranker=none"
        ) from error
    return lightgbm


def _ranks(scores: np.ndarray, group: np.ndarray | None = None) -> np.ndarray:
    """The rank from 1 of each score, highest first; within its group where there are groups."""
    keys = (-scores,) if group is None else (-scores, group)
    order = np.lexsort(keys)
    ranks = np.empty(len(scores))
    ranks[order] = np.arange(1, len(scores) + 1)
    if group is not None:
        # Groups follow each other in `order`: what stands before a group is taken off.
        _, starts, sizes = np.unique(group[order], return_index=True, return_counts=True)
        ranks[order] -= np.repeat(starts, sizes)
    return ranks


def _best_of(scores: np.ndarray, group: np.ndarray) -> np.ndarray:
    """For each place the highest score of its group."""
    best = np.full(group.max(initial=-1) + 1, -np.inf)
    np.maximum.at(best, group, scores)
    return best[group]
