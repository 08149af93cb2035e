"""The vector stores that an index can use to find the nearest chunks of a question.

To add a store, write a file in `stores/` with what BuildStore and OpenStore describe, import it
here and add a line to STORES. vectors.npy stays beside the store's own files: training reads the
vectors from there. Each segment of an index has a store of its own (see segments.py).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rag_ft.errors import DataError
from rag_ft.retrieval.fusion import Ranking
from rag_ft.retrieval.stores.faiss_store import FaissStore, build_faiss

# What a store needs to open its files again: JSON values. `recall` (0..1, against exact search)
# is always among them.
StoreData = dict[str, Any]


class VectorStore(Protocol):
    """Finds the chunks whose vectors have the largest inner products with a question's vector."""

    def search(
        self, vectors: np.ndarray, k: int, allowed: np.ndarray | None = None
    ) -> list[Ranking]:
        """For every vector of float32 (n, dim) at most `k` rows and inner products, best first,
        ties by row. `allowed` (a boolean a row) leaves out the other rows; `k` rows are found
        wherever it allows so many."""
        ...


class BuildStore(Protocol):
    """Writes a store into the folder of a segment."""

    def __call__(
        self,
        vectors: np.ndarray,
        queries: Callable[[], np.ndarray],
        kind: str,
        folder: Path,
        seed: int,
    ) -> StoreData:
        """Writes the store of `vectors` (n, dim; may be memory-mapped), whose rows are the chunks.

        `queries` gives vectors like those of questions (m, dim) to tune on; `kind` is the value of
        retrieval.advanced.faiss.
        """
        ...


OpenStore = Callable[[Path, StoreData], VectorStore]

STORES: dict[str, tuple[BuildStore, OpenStore]] = {
    "faiss": (build_faiss, FaissStore),
}


def open_store(name: str, folder: Path, data: StoreData) -> VectorStore:
    """Opens the store that `name` and `data` of the manifest in `folder` describe.

    Raises:
        DataError: the store is unknown, or its files or data are missing or damaged.
        ConfigError: the library of the store is not installed.
    """
    if name not in STORES:
        raise DataError(
            f"the index in {folder} uses the vector store {name!r}, which this version does not "
            "have: run `rag-ft index CONFIG --force`"
        )
    _, open_files = STORES[name]
    return open_files(folder, data)
