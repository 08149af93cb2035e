"""Vectors -> nearest chunks: exact FAISS up to 200,000 vectors, above it inverted lists tuned to recall 0.99."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rag_ft.errors import ConfigError, DataError

logger = logging.getLogger(__name__)
FLAT_LIMIT = 200_000
LEAST_RECALL = 0.99
_ADD_ROWS = 65_536
_TRAIN_ROWS_PER_LIST = 64
_LIST_ROWS = 39  # FAISS warns below so many training vectors a list


@dataclass(frozen=True)
class FaissKind:
    """What was built: `nprobe` lists are read for a question (0 for flat); `recall` is against exact search."""

    kind: Literal["flat", "ivf"]
    nprobe: int
    recall: float


def build_faiss(
    vectors: np.ndarray, queries: Callable[[], np.ndarray], wanted: str, path: Path, seed: int = 0
) -> FaissKind:
    """Builds the inner-product index of `vectors` (n, dim; may be memory-mapped) and writes it to `path`.

    `wanted` is auto, flat or ivf. For ivf `queries` gives real, question-like vectors (m, dim), on which the number
    of lists to read is raised until recall@10 against exact search reaches 0.99.

    Raises:
        ConfigError: FAISS is not installed.
    """
    faiss = load_faiss()
    if wanted == "flat" or (wanted == "auto" and len(vectors) <= FLAT_LIMIT):
        index, made = faiss.IndexFlatIP(vectors.shape[1]), FaissKind("flat", 0, 1.0)
        _add(index, vectors)
    else:
        index = _train_ivf(faiss, vectors, seed)
        _add(index, vectors)
        made = _tune(index, vectors, queries())
        index.nprobe = made.nprobe
    faiss.write_index(index, str(path))
    return made


class FaissIndex:
    """A written index, memory-mapped without a GPU, else copied to all GPUs where they have room for it."""

    def __init__(self, path: Path, made: FaissKind) -> None:
        """Raises ConfigError without FAISS, DataError where the file is missing or damaged."""
        faiss = load_faiss()
        try:
            index = faiss.read_index(
                str(path), 0 if faiss.get_num_gpus() else faiss.IO_FLAG_MMAP_IFC
            )
        except (RuntimeError, OSError) as error:
            raise DataError(
                f"{path} is not a FAISS index: run `rag-ft index CONFIG --force`"
            ) from error
        if made.kind == "ivf":
            index.nprobe = made.nprobe
        self._index = _to_gpus(faiss, index, path)

    def search(self, queries: np.ndarray, k: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """For every query (n, dim) the rows and inner products of its best chunks, best first, ties by row."""
        scores, rows = self._index.search(
            np.ascontiguousarray(queries, dtype=np.float32), min(k, self._index.ntotal)
        )
        return [_in_order(r, s) for r, s in zip(rows, scores, strict=True)]


def load_faiss() -> Any:
    """The faiss module. Raises ConfigError with the remedy where it is missing or cannot start."""
    try:
        import faiss
    except (ImportError, RuntimeError) as error:
        raise ConfigError(
            f"FAISS cannot be loaded ({error}): pip install 'rag-ft[cpu]', or 'rag-ft[gpu]' beside CUDA, never both"
        ) from error
    return faiss


def exact_search(vectors: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    """Rows (m, k) of the best inner products, best first, reading `vectors` block by block."""
    best_scores = np.full((len(queries), 0), -np.inf, dtype=np.float32)
    best_rows = np.empty((len(queries), 0), dtype=np.int64)
    for start, block in _blocks(vectors):
        scores = np.concatenate([best_scores, queries @ block.T], axis=1)
        rows = np.concatenate(
            [best_rows, np.broadcast_to(start + np.arange(len(block)), (len(queries), len(block)))],
            axis=1,
        )
        keep = np.argpartition(-scores, min(k, scores.shape[1]) - 1, axis=1)[:, :k]
        best_scores, best_rows = (
            np.take_along_axis(scores, keep, 1),
            np.take_along_axis(rows, keep, 1),
        )
    return np.take_along_axis(best_rows, np.argsort(-best_scores, axis=1, kind="stable"), 1)


def _train_ivf(faiss: Any, vectors: np.ndarray, seed: int) -> Any:
    num_lists = max(1, min(int(4 * math.sqrt(len(vectors))), len(vectors) // _LIST_ROWS))
    index = faiss.IndexIVFFlat(
        faiss.IndexFlatIP(vectors.shape[1]), vectors.shape[1], num_lists, faiss.METRIC_INNER_PRODUCT
    )
    index.cp.seed = seed + 1
    index.cp.min_points_per_centroid = 1
    num_train = min(len(vectors), num_lists * _TRAIN_ROWS_PER_LIST)
    rows = np.sort(np.random.default_rng(seed).choice(len(vectors), num_train, replace=False))
    index.train(np.ascontiguousarray(vectors[rows]))
    return index


def _add(index: Any, vectors: np.ndarray) -> None:
    for _, block in _blocks(vectors):
        index.add(block)


def _blocks(vectors: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    for start in range(0, len(vectors), _ADD_ROWS):
        yield start, np.ascontiguousarray(vectors[start : start + _ADD_ROWS])


def _tune(index: Any, vectors: np.ndarray, queries: np.ndarray) -> FaissKind:
    """Doubles nprobe until recall is reached; reading all lists is exact."""
    k = min(10, len(vectors))
    wanted = exact_search(vectors, queries, k)
    nprobe = 1
    while True:
        index.nprobe = nprobe = min(nprobe, index.nlist)
        found = index.search(queries, k)[1]
        recall = float(
            np.mean([len(np.intersect1d(f, w)) / k for f, w in zip(found, wanted, strict=True)])
        )
        if recall >= LEAST_RECALL or nprobe == index.nlist:
            logger.info(
                "IVF of %d lists reads %d of them: recall@%d %.3f", index.nlist, nprobe, k, recall
            )
            return FaissKind("ivf", nprobe, round(recall, 4))
        nprobe *= 2


def _to_gpus(faiss: Any, index: Any, path: Path) -> Any:
    """Only with room to spare: a vLLM server or an encoder may hold most of the memory."""
    if faiss.get_num_gpus() == 0:
        return index
    import torch

    needed = 2 * path.stat().st_size + 3 * 2**30
    free = (
        min(torch.cuda.mem_get_info(i)[0] for i in range(torch.cuda.device_count()))
        if torch.cuda.is_available()
        else 0
    )
    return faiss.index_cpu_to_all_gpus(index) if free > needed else index


def _in_order(rows: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    found = rows >= 0  # IVF gives -1 where its lists held fewer
    rows, scores = rows[found], scores[found]
    order = np.lexsort((rows, -scores))
    return rows[order], scores[order]
