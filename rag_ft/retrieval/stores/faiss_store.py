"""FAISS: exact search of up to 200,000 vectors, inverted lists with a recall of 0.99 above."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rag_ft.errors import ConfigError, DataError, first_line
from rag_ft.retrieval.fusion import Ranking, best_first

logger = logging.getLogger(__name__)
FILE = "index.faiss"
FLAT_LIMIT = 200_000
LEAST_RECALL = 0.99
# From this number of queries on several threads share the work well.
FEW_QUERIES = 4
_BLOCK_ROWS = 65_536
_TRAIN_ROWS_PER_LIST = 64
# FAISS warns where a list has fewer training vectors.
_LIST_ROWS = 39


@dataclass(frozen=True)
class FaissKind:
    """What was built. A search reads `nprobe` inverted lists (0 for flat); `recall` is recall@10
    against exact search, 0..1."""

    kind: Literal["flat", "ivf"]
    nprobe: int
    recall: float


def build_faiss(
    vectors: np.ndarray,
    queries: Callable[[], np.ndarray],
    kind: str,
    folder: Path,
    seed: int = 0,
) -> dict[str, Any]:
    """Builds the inner-product index of `vectors` (n, dim; may be memory-mapped), writes it to
    `folder`/index.faiss and returns the fields of FaissKind.

    `kind` is auto, flat or ivf. For ivf, `queries` gives vectors like those of questions (m, dim),
    on which the number of lists to read is raised until recall@10 reaches 0.99.

    Raises:
        ConfigError: FAISS is not installed.
    """
    faiss = load_faiss()
    num_vectors, dim = vectors.shape
    flat = kind == "flat" or (kind == "auto" and num_vectors <= FLAT_LIMIT)
    index = faiss.IndexFlatIP(dim)
    if not flat:
        num_lists = max(1, min(int(4 * math.sqrt(num_vectors)), num_vectors // _LIST_ROWS))
        index = faiss.IndexIVFFlat(index, dim, num_lists, faiss.METRIC_INNER_PRODUCT)
        index.cp.seed = seed + 1
        index.cp.min_points_per_centroid = 1
        # The lists' centres are learnt on a sample: all vectors would take hours, not minutes.
        num_train = min(num_vectors, num_lists * _TRAIN_ROWS_PER_LIST)
        sample = np.random.default_rng(seed).choice(num_vectors, num_train, replace=False)
        index.train(np.ascontiguousarray(vectors[np.sort(sample)]))

    # Block by block, since `vectors` may be larger than memory.
    for _, block in _blocks(vectors):
        index.add(block)
    made = FaissKind("flat", 0, 1.0) if flat else _tune_nprobe(index, vectors, queries())
    faiss.write_index(index, str(folder / FILE))
    return asdict(made)


class FaissStore:
    """A written index: memory-mapped without a GPU, else copied to all GPUs if they have room."""

    def __init__(self, folder: Path, data: dict[str, Any]) -> None:
        """`data` is what `build_faiss` returned.

        Raises:
            ConfigError: FAISS is not installed.
            DataError: the file or `data` is missing or damaged.
        """
        self._faiss = faiss = load_faiss()
        path, num_gpus = folder / FILE, faiss.get_num_gpus()
        self._path, self._on_gpu = path, False
        try:
            self._made = made = FaissKind(**data)
            index = faiss.read_index(str(path), 0 if num_gpus else faiss.IO_FLAG_MMAP_IFC)
        except (RuntimeError, OSError, TypeError) as error:
            raise DataError(
                f"{path} is not a FAISS index: run `rag-ft index CONFIG --force`"
            ) from error
        if made.kind == "ivf":
            index.nprobe = made.nprobe
        if num_gpus:
            import torch

            # Only with room to spare: a vLLM server or an encoder may hold most of the memory.
            needed, free = 2 * path.stat().st_size + 3 * 2**30, 0
            if torch.cuda.is_available():
                devices = range(torch.cuda.device_count())
                free = min(torch.cuda.mem_get_info(device)[0] for device in devices)
            if free > needed:
                index = faiss.index_cpu_to_all_gpus(index)
                self._on_gpu = True
        self._index = index

    def search(
        self, vectors: np.ndarray, k: int, allowed: np.ndarray | None = None
    ) -> list[Ranking]:
        """For every vector of (n, dim) at most `k` rows and inner products, best first, ties by
        row; only rows that `allowed` (a boolean a row) allows."""
        vectors, k = np.ascontiguousarray(vectors, dtype=np.float32), min(k, self._index.ntotal)
        # The threads of FAISS spin while they wait: over 100,000 vectors one question takes 20 ms
        # of CPU time with one thread and 50 ms with two, and the answer comes no later.
        num_threads = self._faiss.omp_get_max_threads()
        self._faiss.omp_set_num_threads(1 if len(vectors) < FEW_QUERIES else num_threads)
        try:
            if allowed is None:
                scores, rows = self._index.search(vectors, k)
            else:
                scores, rows = self._search_allowed(vectors, k, allowed)
        finally:
            self._faiss.omp_set_num_threads(num_threads)
        # FAISS fills up with row -1 where the lists it read hold fewer than k vectors.
        return [best_first(r[r >= 0], s[r >= 0]) for r, s in zip(rows, scores, strict=True)]

    def _search_allowed(
        self, vectors: np.ndarray, k: int, allowed: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """(scores, rows) as FAISS gives them, of allowed rows alone."""
        faiss, num_allowed = self._faiss, int(np.count_nonzero(allowed))
        k = min(k, num_allowed)
        if k == 0:
            return np.empty((len(vectors), 0)), np.empty((len(vectors), 0), dtype=np.int64)
        bits = np.packbits(allowed, bitorder="little")
        selector = faiss.IDSelectorBitmap(len(allowed), faiss.swig_ptr(bits))
        if self._made.kind == "flat":
            parameters = faiss.SearchParameters(sel=selector)
            scores, rows = self._on_cpu.search(vectors, k, params=parameters)
            return scores, rows

        # As many more lists as rows are left out: then about as many allowed rows are compared as
        # without filters. Where one question still finds too few, all lists are read.
        num_lists = self._on_cpu.nlist
        nprobe = min(num_lists, math.ceil(self._made.nprobe * len(allowed) / num_allowed))
        for lists in (nprobe, num_lists):
            parameters = faiss.SearchParametersIVF(sel=selector, nprobe=lists)
            scores, rows = self._on_cpu.search(vectors, k, params=parameters)
            if rows.min() >= 0:
                break
        return scores, rows

    @functools.cached_property
    def _on_cpu(self) -> Any:
        """The index for searches with filters, which GPUs do not have."""
        if not self._on_gpu:
            return self._index
        return self._faiss.read_index(str(self._path), self._faiss.IO_FLAG_MMAP_IFC)


def load_faiss() -> Any:
    """The faiss module. Raises ConfigError with the remedy where it is missing or cannot start."""
    try:
        import faiss
    except (ImportError, RuntimeError) as error:
        raise ConfigError(
            f"FAISS cannot be loaded ({first_line(error)}): pip install 'rag-ft[cpu]', or "
            "'rag-ft[gpu]' beside CUDA, never both"
        ) from error
    return faiss


def exact_search(vectors: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    """Rows (m, k) of the largest inner products of `vectors` (n, dim) with `queries` (m, dim),
    best first. Reads `vectors` block by block."""
    best_scores = np.full((len(queries), 0), -np.inf, dtype=np.float32)
    best_rows = np.empty((len(queries), 0), dtype=np.int64)
    for start, block in _blocks(vectors):
        block_rows = np.broadcast_to(start + np.arange(len(block)), (len(queries), len(block)))
        scores = np.concatenate([best_scores, queries @ block.T], axis=1)
        rows = np.concatenate([best_rows, block_rows], axis=1)
        # Keep the best k of all blocks so far, in no order yet.
        keep = np.argpartition(-scores, min(k, scores.shape[1]) - 1, axis=1)[:, :k]
        best_scores = np.take_along_axis(scores, keep, 1)
        best_rows = np.take_along_axis(rows, keep, 1)
    return np.take_along_axis(best_rows, np.argsort(-best_scores, axis=1, kind="stable"), 1)


def _blocks(vectors: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    for start in range(0, len(vectors), _BLOCK_ROWS):
        yield start, np.ascontiguousarray(vectors[start : start + _BLOCK_ROWS])


def _tune_nprobe(index: Any, vectors: np.ndarray, queries: np.ndarray) -> FaissKind:
    """Doubles the number of lists that a search reads until recall@10 is reached, and sets it in
    `index`. Reading all lists is exact."""
    k = min(10, len(vectors))
    wanted = exact_search(vectors, queries, k)
    nprobe = 1
    while True:
        index.nprobe = nprobe = min(nprobe, index.nlist)
        found = index.search(queries, k)[1]
        shares = [len(np.intersect1d(f, w)) / k for f, w in zip(found, wanted, strict=True)]
        recall = float(np.mean(shares))
        if recall >= LEAST_RECALL or nprobe == index.nlist:
            logger.info(
                "FAISS reads %d of %d inverted lists: recall@%d is %.3f",
                nprobe,
                index.nlist,
                k,
                recall,
            )
            return FaissKind("ivf", nprobe, round(recall, 4))
        nprobe *= 2
