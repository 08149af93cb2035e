"""A vector store needs a build, an open, and a line in STORES."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rag_ft.config import Config
from rag_ft.errors import DataError
from rag_ft.retrieval.encoder import load_encoder
from rag_ft.retrieval.fusion import Ranking, best_first
from rag_ft.retrieval.index_builder import adopt_index, build_index
from rag_ft.retrieval.index_files import read_manifest
from rag_ft.retrieval.retriever import Retriever
from rag_ft.retrieval.vector_store import STORES, open_store
from rag_ft.run_dir import RunDir
from rag_ft.schema import Chunk

TEXTS = ["the mill at the river", "who painted the tower?", "the ferry leaves at noon"]


class TransposedStore:
    """Exact search by numpy over its own file."""

    def __init__(self, folder: Path, data: dict[str, Any]) -> None:
        self.columns = np.load(folder / data["file"])

    def search(
        self, vectors: np.ndarray, k: int, allowed: np.ndarray | None = None
    ) -> list[Ranking]:
        scores = vectors @ self.columns
        kept = np.arange(scores.shape[1]) if allowed is None else np.flatnonzero(allowed)
        ranked = [best_first(kept, row[kept]) for row in scores]
        return [(rows[:k], best[:k]) for rows, best in ranked]


def build_transposed(
    vectors: np.ndarray,
    queries: Callable[[], np.ndarray],
    kind: str,
    folder: Path,
    seed: int,
) -> dict[str, Any]:
    np.save(folder / "columns.npy", np.ascontiguousarray(vectors.T))
    return {"file": "columns.npy", "recall": 1.0}


def test_a_store_that_is_added_to_the_table_is_built_adopted_and_searched(
    make_run: Callable[..., tuple[Config, RunDir]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(STORES, "transposed", (build_transposed, TransposedStore))
    config, _ = make_run([])
    settings, encoder = config.retrieval, load_encoder(config.encoder)
    chunks = [Chunk(f"d#{n}", "d", "", t, 0, len(t), 5, "test") for n, t in enumerate(TEXTS)]
    build_index(tmp_path / "faiss", chunks, encoder, settings, 0)
    own = tmp_path / "own"
    counts = build_index(own, chunks, encoder, settings, 0, store="transposed")
    assert counts["transposed_recall"] == 1.0
    [segment] = (own / "segments").iterdir()
    assert not (segment / "index.faiss").exists() and (segment / "vectors.npy").exists()
    adopt_index(own, tmp_path / "adopted", encoder)

    found = []
    for name in ("faiss", "own", "adopted"):
        folder = tmp_path / name
        retriever = Retriever(folder, read_manifest(folder), encoder, settings)
        [hits] = retriever.search(["the ferry at noon"], 3, "dense")
        found.append(hits)
    assert [chunk_id for chunk_id, _ in found[0]] == [chunk_id for chunk_id, _ in found[1]]
    np.testing.assert_allclose([s for _, s in found[0]], [s for _, s in found[1]], atol=1e-6)
    assert found[1] == found[2]


def test_an_unknown_store_is_one_line_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"vector store 'other', which this version .*--force"):
        open_store("other", tmp_path, {})
