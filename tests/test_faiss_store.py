"""FAISS against exact search, and its errors."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from rag_ft.errors import ConfigError, DataError
from rag_ft.retrieval.stores import faiss_store
from rag_ft.retrieval.stores.faiss_store import FaissStore, build_faiss, exact_search


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    rng = np.random.default_rng(0)
    centres = rng.normal(size=(40, 16))
    found = centres[rng.integers(0, 40, 4000)] + 0.3 * rng.normal(size=(4000, 16))
    return (found / np.linalg.norm(found, axis=1, keepdims=True)).astype(np.float32)


def test_flat_search_equals_numpy(vectors: np.ndarray, tmp_path: Path) -> None:
    made = build_faiss(vectors, lambda: vectors[:1], "auto", tmp_path)
    assert (made["kind"], made["recall"]) == ("flat", 1.0)
    rows, scores = FaissStore(tmp_path, made).search(vectors[:7], 5)[3]
    np.testing.assert_array_equal(rows, exact_search(vectors, vectors[:7], 5)[3])
    np.testing.assert_allclose(scores, np.sort(vectors[3] @ vectors.T)[::-1][:5], atol=1e-5)


def test_inverted_lists_are_tuned_to_the_recall_and_reopened_with_it(
    vectors: np.ndarray, tmp_path: Path
) -> None:
    queries = vectors[::40]
    made = build_faiss(vectors, lambda: queries, "ivf", tmp_path)
    assert made["kind"] == "ivf" and made["recall"] >= 0.99 and made["nprobe"] >= 1
    found = FaissStore(tmp_path, made).search(queries, 10)
    wanted = exact_search(vectors, queries, 10)
    recall = np.mean(
        [len(set(rows) & set(w)) / 10 for (rows, _), w in zip(found, wanted, strict=True)]
    )
    assert recall >= 0.99


@pytest.mark.parametrize("kind", ["ivf_sq8", "ivf_pq"])
def test_smaller_vectors_are_scored_again_by_the_exact_ones(
    monkeypatch: pytest.MonkeyPatch, vectors: np.ndarray, tmp_path: Path, kind: str
) -> None:
    monkeypatch.setattr(faiss_store, "_LEAST_PQ", 1000)
    np.save(tmp_path / "vectors.npy", vectors)
    queries = vectors[::40]
    made = build_faiss(vectors, lambda: queries, kind, tmp_path)
    assert made["kind"] == kind and made["recall"] >= 0.99
    assert (tmp_path / "index.faiss").stat().st_size < 0.75 * vectors.nbytes
    store = FaissStore(tmp_path, made)
    found, wanted = store.search(queries, 10), exact_search(vectors, queries, 10)
    shares = [len(set(rows) & set(w)) / 10 for (rows, _), w in zip(found, wanted, strict=True)]
    assert np.mean(shares) >= 0.985
    for (rows, scores), query in zip(found, queries, strict=True):
        np.testing.assert_allclose(scores, vectors[rows] @ query, atol=1e-6)
    # Filters leave out rows before the best are chosen.
    allowed = np.arange(len(vectors)) % 7 == 0
    [(rows, _)] = store.search(queries[:1], 10, allowed)
    best = exact_search(vectors[::7], queries[:1], 10)[0] * 7
    assert len(set(rows) & set(best)) >= 9 and (rows % 7 == 0).all()


def test_a_kind_that_misses_the_recall_is_replaced(
    monkeypatch: pytest.MonkeyPatch, vectors: np.ndarray, tmp_path: Path
) -> None:
    monkeypatch.setattr(faiss_store, "_LEAST_PQ", 1000)
    monkeypatch.setattr(faiss_store, "_REFINED", {"ivf_sq8": 2, "ivf_pq": 1})
    noise = np.random.default_rng(3).normal(size=(3000, 16)).astype(np.float32)
    made = build_faiss(noise, lambda: noise[:50], "ivf_pq", tmp_path)
    assert made["kind"] in {"ivf_sq8", "ivf"} and made["recall"] >= 0.99
    # Too few vectors to learn codes from.
    assert build_faiss(vectors[:500], lambda: vectors[:9], "ivf_pq", tmp_path)["kind"] != "ivf_pq"


@pytest.mark.parametrize(
    ("limits", "kind"),
    [((4000, 9999), "flat"), ((1000, 4000), "ivf"), ((10, 20), "ivf_sq8")],
)
def test_auto_goes_up_a_ladder_by_size(
    monkeypatch: pytest.MonkeyPatch,
    vectors: np.ndarray,
    tmp_path: Path,
    limits: tuple[int, int],
    kind: str,
) -> None:
    ladder = dict(zip(("flat", "ivf"), limits, strict=True))
    monkeypatch.setattr(faiss_store, "LADDER", {**ladder, "ivf_sq8": 4000, "ivf_pq": 2**63})
    assert build_faiss(vectors, lambda: vectors[:20], "auto", tmp_path)["kind"] == kind
    assert build_faiss(vectors, lambda: vectors[:20], "flat", tmp_path)["kind"] == "flat"


def test_exact_search_is_the_same_over_blocks(
    monkeypatch: pytest.MonkeyPatch, vectors: np.ndarray
) -> None:
    whole = exact_search(vectors, vectors[:5], 10)
    monkeypatch.setattr(faiss_store, "_BLOCK_ROWS", 333)
    np.testing.assert_array_equal(exact_search(vectors, vectors[:5], 10), whole)


def test_asking_for_more_than_there_is_gives_all(tmp_path: Path) -> None:
    vectors = np.eye(3, dtype=np.float32)
    made = build_faiss(vectors, lambda: vectors, "flat", tmp_path)
    rows, _ = FaissStore(tmp_path, made).search(vectors[2:], 10)[0]
    assert list(rows) == [2, 0, 1]  # ties in chunk order


def test_without_faiss_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(ConfigError, match=r"pip install 'rag-ft\[cpu\]'"):
        faiss_store.load_faiss()


def test_a_damaged_faiss_file_is_one_line_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / faiss_store.FILE).write_bytes(b"no index")
    with pytest.raises(DataError, match="--force"):
        FaissStore(tmp_path, {"kind": "flat", "nprobe": 0, "recall": 1.0})


def test_data_of_another_store_is_one_line_with_the_remedy(tmp_path: Path) -> None:
    build_faiss(np.eye(3, dtype=np.float32), lambda: np.eye(3, dtype=np.float32), "flat", tmp_path)
    with pytest.raises(DataError, match="--force"):
        FaissStore(tmp_path, {"kind": "flat", "lists": 3})


@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_a_few_questions_take_one_thread_and_give_the_rows_that_many_threads_give(
    monkeypatch: pytest.MonkeyPatch, vectors: np.ndarray, tmp_path: Path, kind: str
) -> None:
    faiss = faiss_store.load_faiss()
    store = FaissStore(tmp_path, build_faiss(vectors, lambda: vectors[:40], kind, tmp_path))
    threads: list[int] = []

    class Watched:
        ntotal = store._index.ntotal

        def search(self, queries: np.ndarray, k: int) -> Any:
            threads.append(faiss.omp_get_max_threads())
            return index.search(queries, k)

    index = store._index
    monkeypatch.setattr(store, "_index", Watched())
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(2)
    try:
        few, many = store.search(vectors[:3], 10), store.search(vectors[:64], 10)
        assert threads == [1, 2] and faiss.omp_get_max_threads() == 2
        monkeypatch.setattr(faiss_store, "FEW_QUERIES", 0)
        again = store.search(vectors[:3], 10)
        assert threads == [1, 2, 2]
    finally:
        faiss.omp_set_num_threads(before)
    for (rows, scores), (same_rows, same_scores) in zip(few, again, strict=True):
        np.testing.assert_array_equal(rows, same_rows)
        np.testing.assert_array_equal(scores, same_scores)
    assert [list(rows) for rows, _ in few] == [list(rows) for rows, _ in many[:3]]


def test_short_memory_is_a_line_that_names_the_file(
    vectors: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = build_faiss(vectors, lambda: vectors[:1], "flat", tmp_path)
    short = psutil.virtual_memory()._replace(available=vectors.nbytes)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: short)
    # Opening maps the file; building holds all vectors and a block of them.
    FaissStore(tmp_path, made)
    (tmp_path / "new").mkdir()
    with pytest.raises(ConfigError, match=r"building .*/new/index.faiss \(FAISS flat\) needs"):
        build_faiss(vectors, lambda: vectors[:1], "flat", tmp_path / "new")
    assert not list((tmp_path / "new").iterdir())
