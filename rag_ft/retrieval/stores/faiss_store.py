"""FAISS: exact search of few vectors, and inverted lists of smaller and smaller vectors for more,
with a recall of 0.99 each."""

from __future__ import annotations

import functools
import logging
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rag_ft.errors import ConfigError, DataError, first_line
from rag_ft.hardware import GIB, check_memory
from rag_ft.retrieval.fusion import Ranking, best_first

logger = logging.getLogger(__name__)
FILE = "index.faiss"
# The ladder of kinds: the largest number of vectors for which `auto` takes each one. Flat: a
# question reads all vectors. ivf reads those of some lists. ivf_sq8 holds a byte a number and
# ivf_pq a byte for four numbers in memory; both read the best vectors again from vectors.npy.
LADDER = {"flat": 30_000, "ivf": 2_000_000, "ivf_sq8": 20_000_000, "ivf_pq": 2**63}
# Candidates whose vectors are read again, for each chunk that is asked for.
_REFINED = {"ivf_sq8": 2, "ivf_pq": 8}
# Address space of the library and of the buffers of its algebra (200 MB with one thread,
# 328 with two, measured). Where it is missing the process ends with a segmentation fault.
_LIBRARY_BYTES = 400 * 2**20
# How many times smaller than float32 the vectors are in memory.
_SMALLER = {"ivf_sq8": 4, "ivf_pq": 16}
# Below it the codes of ivf_pq cannot be learnt.
_LEAST_PQ = 10_000
LEAST_RECALL = 0.99
_MORE_LISTS = 1.3  # times as many lists are read in the next try
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

    kind: Literal["flat", "ivf", "ivf_sq8", "ivf_pq"]
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

    `kind` is auto or a name of LADDER. For the kinds with lists, `queries` gives vectors like those
    of questions (m, dim), on which the number of lists to read is raised until recall@10 is surely
    0.99. Where reading all lists does not reach it, the kind before it in LADDER is built.

    Raises:
        ConfigError: FAISS is not installed, or memory is short.
    """
    faiss = load_faiss()
    chosen = next(name for name, limit in LADDER.items() if len(vectors) <= limit)
    chosen = chosen if kind == "auto" else kind
    if chosen == "ivf_pq" and len(vectors) < _LEAST_PQ:
        chosen = "ivf_sq8"
    kinds, asked = list(LADDER), queries() if chosen != "flat" else vectors[:0]
    while True:
        block = 4 * min(len(vectors), _BLOCK_ROWS) * vectors.shape[1]
        held = 4 * vectors.size // _SMALLER.get(chosen, 1)
        check_memory(f"building {folder / FILE} (FAISS {chosen})", held + block)
        index = _filled(chosen, vectors, seed)
        made = FaissKind("flat", 0, 1.0)
        if chosen != "flat":
            made = _tuned(chosen, index, vectors, asked)
        if made.recall >= LEAST_RECALL:
            break
        chosen, lower = kinds[kinds.index(chosen) - 1], chosen
        logger.warning("FAISS %s: recall@10 is %.3f; %s is built", lower, made.recall, chosen)
    faiss.write_index(index, str(folder / FILE))
    return asdict(made)


def _filled(kind: str, vectors: np.ndarray, seed: int) -> Any:
    """An index of this kind over all vectors."""
    faiss = load_faiss()
    num_vectors, dim = vectors.shape
    index = faiss.IndexFlatIP(dim)
    if kind != "flat":
        num_lists = max(1, min(int(4 * math.sqrt(num_vectors)), num_vectors // _LIST_ROWS))
        space = (index, dim, num_lists)
        product = faiss.METRIC_INNER_PRODUCT
        if kind == "ivf":
            index = faiss.IndexIVFFlat(*space, product)
        elif kind == "ivf_sq8":
            index = faiss.IndexIVFScalarQuantizer(*space, faiss.ScalarQuantizer.QT_8bit, product)
        else:
            num_codes = next(n for n in range(max(1, dim // 4), 0, -1) if dim % n == 0)
            index = faiss.IndexIVFPQ(*space, num_codes, 8, product)
        index.cp.seed = seed + 1
        index.cp.min_points_per_centroid = 1
        # The lists' centres are learnt on a sample: all vectors would take hours, not minutes.
        num_train = min(num_vectors, max(num_lists * _TRAIN_ROWS_PER_LIST, _LEAST_PQ))
        sample = np.random.default_rng(seed).choice(num_vectors, num_train, replace=False)
        index.train(np.ascontiguousarray(vectors[np.sort(sample)]))

    # Block by block, since `vectors` may be larger than memory.
    for _, block in _blocks(vectors):
        index.add(block)
    return index


def _tuned(kind: str, index: Any, vectors: np.ndarray, queries: np.ndarray) -> FaissKind:
    """Raises the number of lists that a search reads until the 95 % interval of recall@10 begins at
    LEAST_RECALL, and sets it in `index`. Reading all lists is exact, but for the smaller vectors of
    some kinds."""
    k = min(10, len(vectors))
    wanted = exact_search(vectors, queries, k)
    nprobe = 1
    while True:
        index.nprobe = nprobe = min(nprobe, index.nlist)
        found = index.search(queries, min(k * _REFINED.get(kind, 1), len(vectors)))[1]
        if kind in _REFINED:
            found = _refined(vectors, queries, found, k)[1]
        shares = [len(np.intersect1d(f, w)) / k for f, w in zip(found, wanted, strict=True)]
        recall = float(np.mean(shares))
        bound = recall - 1.96 * float(np.std(shares)) / math.sqrt(len(shares))
        if bound >= LEAST_RECALL or nprobe == index.nlist:
            told = "FAISS reads %d of %d inverted lists: recall@%d is %.3f"
            logger.info(told, nprobe, index.nlist, k, recall)
            return FaissKind(kind, nprobe, round(recall, 4))  # type: ignore[arg-type]
        nprobe = math.ceil(_MORE_LISTS * nprobe)


def _refined(
    vectors: np.ndarray, queries: np.ndarray, rows: np.ndarray, k: int
) -> tuple[np.ndarray, np.ndarray]:
    """(scores, rows) as FAISS gives them, of the best `k` of the `rows` (m, n) found for each
    question by their exact inner products. Missing rows are -1."""
    scores = np.full(rows.shape, -np.inf, dtype=np.float32)
    for place, (query, found) in enumerate(zip(queries, rows, strict=True)):
        there = found >= 0
        scores[place, there] = np.asarray(vectors[found[there]]) @ query
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(scores, best, 1), np.take_along_axis(rows, best, 1)


class FaissStore:
    """A written index: memory-mapped without a GPU, else copied to all GPUs if they have room."""

    def __init__(self, folder: Path, data: dict[str, Any]) -> None:
        """`data` is what `build_faiss` returned.

        Raises:
            ConfigError: FAISS is not installed, or memory is short.
            DataError: the file or `data` is missing or damaged.
        """
        self._faiss = faiss = load_faiss()
        path, num_gpus = folder / FILE, faiss.get_num_gpus()
        self._path, self._on_gpu = path, False
        try:
            size = path.stat().st_size
            # Where vectors are mapped they take address space alone.
            check_memory(f"opening {path}", size if num_gpus else 0, 0 if num_gpus else size)
            self._made = made = FaissKind(**data)
            index = faiss.read_index(str(path), 0 if num_gpus else faiss.IO_FLAG_MMAP_IFC)
        except (RuntimeError, OSError, TypeError) as error:
            raise DataError(
                f"{path} is not a FAISS index: run `rag-ft index CONFIG --force`"
            ) from error
        if made.kind != "flat":
            index.nprobe = made.nprobe
        if num_gpus:
            import torch

            # Only with room to spare: a vLLM server or an encoder may hold most of the memory.
            needed, free = 2 * path.stat().st_size + 3 * GIB, 0
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
            depth = min(k * _REFINED.get(self._made.kind, 1), self._index.ntotal)
            if allowed is None:
                scores, rows = self._index.search(vectors, depth)
            else:
                scores, rows = self._search_allowed(vectors, depth, allowed)
            if self._made.kind in _REFINED:
                scores, rows = _refined(self._vectors, vectors, rows, k)
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
    def _vectors(self) -> np.ndarray:
        found: np.ndarray = np.load(self._path.with_name("vectors.npy"), mmap_mode="r")
        return found

    @functools.cached_property
    def _on_cpu(self) -> Any:
        """The index for searches with filters, which GPUs do not have."""
        if not self._on_gpu:
            return self._index
        return self._faiss.read_index(str(self._path), self._faiss.IO_FLAG_MMAP_IFC)


def load_faiss() -> Any:
    """The faiss module. Raises ConfigError with the remedy where it is missing or cannot start, or
    memory is short."""
    if "faiss" not in sys.modules:
        check_memory("loading FAISS", 0, _LIBRARY_BYTES)
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
    faiss = load_faiss()
    product, scores, rows = faiss.METRIC_INNER_PRODUCT, [], []
    for start, block in _blocks(vectors):
        best, places = faiss.knn(queries, block, min(k, len(block)), metric=product)
        scores.append(best)
        rows.append(start + places)
    order = np.argsort(-np.concatenate(scores, axis=1), axis=1, kind="stable")[:, :k]
    return np.take_along_axis(np.concatenate(rows, axis=1), order, 1)


def _blocks(vectors: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    for start in range(0, len(vectors), _BLOCK_ROWS):
        yield start, np.ascontiguousarray(vectors[start : start + _BLOCK_ROWS])
