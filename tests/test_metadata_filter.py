"""Filters: what they mean, and that search with them is the full ranking without the rest."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rag_ft.config import Config
from rag_ft.errors import DataError
from rag_ft.retrieval.metadata_filter import (
    DocumentTable,
    Filter,
    group_by_filter,
    parse_filters,
)
from rag_ft.retrieval.retriever import Retriever, open_retriever
from rag_ft.retrieval.stores.faiss_store import FaissStore, build_faiss, exact_search
from rag_ft.run_dir import RunDir
from rag_ft.schema import Chunk, Document
from rag_ft.session import Session
from rag_ft.stages import index, ingest
from rag_ft.storage import write_jsonl

WORDS = ["mill", "river", "ferry", "tower", "bell", "harbour", "oak", "rye", "stone", "lamp"]
FILTERS: list[dict[str, Any]] = [
    {"customer": "acme"},
    {"customer": ["acme", "bolt"], "year": 2021},
    {"id": "acme/*"},
    {"source": "*documents.jsonl", "customer": "b*"},
    {"source": "*", "open": True},
    {"tags": ["new", "old"]},
    {"document_id": ["cask/2", "acme/*"], "year": ["2020", 2021.0]},
    {"customer": "nobody"},
    {"no such field": "x"},
]


def document(name: str = "acme/1", source: str = "in/a.md", **metadata: Any) -> Document:
    return Document(name, "", "text", source, "train", metadata)


def matches(filters: Any, found: Document) -> bool:
    wanted = parse_filters(filters)
    assert wanted is not None
    return wanted.matches(found)


@pytest.fixture(scope="module")
def documents() -> list[dict[str, Any]]:
    rng = random.Random(0)
    rows = []
    for n in range(60):
        customer = ["acme", "bolt", "cask"][n % 3]
        metadata = {"customer": customer, "year": 2020 + n % 2, "open": n % 5 == 0}
        text = " ".join(rng.choices(WORDS, k=12)) + f" number {n}."
        rows.append({"id": f"{customer}/{n}", "title": "", "text": text, "metadata": metadata})
    rows[0]["metadata"]["tags"] = ["new", "blue"]
    return rows


@pytest.fixture
def searched(
    make_run: Callable[..., tuple[Config, RunDir]], documents: list[dict[str, Any]]
) -> tuple[Retriever, RunDir]:
    config, run_dir = make_run(documents, retrieval__advanced__candidates=20)
    ingest.run(Session(config, run_dir))
    index.run(Session(config, run_dir))
    return open_retriever(run_dir, config.retrieval, config.encoder), run_dir


def test_every_field_must_match_and_one_value_of_a_list() -> None:
    found = document(customer="acme", year=2024, ratio=0.5, draft=False, tags=["a", "b"])
    assert matches({"customer": "acme", "year": [2023, 2024]}, found)
    assert not matches({"customer": "acme", "year": 2023}, found)
    assert matches({"year": "2024"}, found) and matches({"year": 2024.0}, found)
    assert matches({"draft": False}, found) and matches({"draft": "false"}, found)
    assert matches({"ratio": 0.5}, found) and matches({"tags": "b"}, found)
    assert not matches({"customer": "Acme"}, found) and not matches({"draft": 0}, found)


def test_a_star_at_the_end_is_a_prefix_and_elsewhere_a_star() -> None:
    found = document("manuals/pump.md", "/data/manuals/pump.md", mark="a*b")
    assert matches({"id": "manuals/*"}, found) and matches({"document_id": "manuals/p*"}, found)
    assert matches({"source": ["nowhere", "/data/*"]}, found) and matches({"mark": "*"}, found)
    assert not matches({"id": "manual"}, found) and not matches({"id": "*.md"}, found)
    assert matches({"mark": "a*b"}, found)


def test_a_field_that_a_document_lacks_or_that_is_empty_matches_nothing() -> None:
    found = document(empty=None, nested={"a": "b"})
    for field in ("other", "empty", "nested"):
        assert not matches({field: "*"}, found)


def test_metadata_cannot_stand_in_for_a_documents_own_fields() -> None:
    assert not matches({"id": "acme/1"}, document("bolt/1", id="acme/1"))
    assert not matches({"source": "acme"}, document(source="bolt", **{"source_": "acme"}))


@pytest.mark.parametrize(
    "bad",
    ["acme", ["acme"], 3, {"": "x"}, {1: "x"}, {"a": None}, {"a": {}}, {"a": []}, {"a": [["b"]]}],
)
def test_a_malformed_filter_is_one_line(bad: Any) -> None:
    with pytest.raises(DataError, match=r"^filters") as error:
        parse_filters(bad)
    assert "\n" not in str(error.value)


def test_filters_of_the_same_meaning_are_one() -> None:
    same = [{"a": "1", "b": ["x", "y*"]}, {"b": ["y*", "x"], "a": 1}]
    assert group_by_filter([same[0], {}, same[1]]) == {
        parse_filters(same[0]): [0, 2],
        None: [1],
    }
    assert parse_filters(None) is None and parse_filters({}) is None


def test_the_table_of_documents_agrees_with_the_filter(searched: tuple[Retriever, RunDir]) -> None:
    from rag_ft.storage import read_jsonl

    _, run_dir = searched
    by_id = {found.id: found for found in read_jsonl(run_dir.documents, Document)}
    chunks = list(read_jsonl(run_dir.chunks, Chunk))
    table = DocumentTable(run_dir.documents, run_dir.chunks)
    for filters in FILTERS:
        wanted = parse_filters(filters)
        assert isinstance(wanted, Filter)
        expected = [wanted.matches(by_id[chunk.document_id]) for chunk in chunks]
        assert table.allowed(wanted).tolist() == expected, filters
        assert table.allowed(wanted) is table.allowed(wanted)


def test_a_chunk_whose_document_is_missing_is_never_allowed(
    searched: tuple[Retriever, RunDir],
) -> None:
    _, run_dir = searched
    write_jsonl(run_dir.documents, [document("acme/0", customer="acme")])
    wanted = parse_filters({"id": "*"})
    assert isinstance(wanted, Filter)
    allowed = DocumentTable(run_dir.documents, run_dir.chunks).allowed(wanted)
    assert allowed.sum() == 1 and allowed[0]


@pytest.mark.parametrize("filters", FILTERS, ids=str)
def test_search_with_filters_is_the_full_ranking_without_the_rest(
    searched: tuple[Retriever, RunDir], filters: dict[str, Any]
) -> None:
    retriever, _ = searched
    wanted = parse_filters(filters)
    assert isinstance(wanted, Filter)
    allowed = retriever.allowed(wanted)
    questions = ["the mill at the river", "who rang the bell in the harbour?", "rye"]
    asked = [filters, {}, filters]
    for mode in ("dense", "lexical"):
        full = retriever.search(questions, 60, mode)
        found = retriever.search(questions, 7, mode, asked)
        for n in (0, 2):
            kept = [hit for hit in full[n] if allowed[retriever.row_of[hit[0]]]][:7]
            assert [name for name, _ in found[n]] == [name for name, _ in kept], mode
            np.testing.assert_allclose([s for _, s in found[n]], [s for _, s in kept], atol=1e-6)
        assert [name for name, _ in found[1]] == [name for name, _ in full[1][:7]]
    for hits in retriever.search(questions, 25, "hybrid", [filters] * 3):
        assert len(hits) == min(25, allowed.sum())
        assert all(allowed[retriever.row_of[name]] for name, _ in hits)


def test_no_filters_are_the_same_as_empty_ones(searched: tuple[Retriever, RunDir]) -> None:
    retriever, _ = searched
    questions = ["the mill at the river", "rye"]
    assert retriever.search(questions, 9) == retriever.search(questions, 9, filters=[{}, {}])
    with pytest.raises(ValueError, match="1 filters for 2 questions"):
        retriever.search(questions, 9, filters=[{}])


def test_documents_that_are_missing_or_of_other_chunks_are_an_error(
    searched: tuple[Retriever, RunDir],
) -> None:
    retriever, run_dir = searched
    bare = Retriever(retriever.folder, retriever.manifest, retriever.encoder, retriever._config)
    assert bare.search(["rye"], 2)
    with pytest.raises(DataError, match="without documents"):
        bare.search(["rye"], 2, filters=[{"customer": "acme"}])
    lines = run_dir.chunks.read_bytes().splitlines(keepends=True)
    run_dir.chunks.write_bytes(b"".join(lines[:-1]))
    with pytest.raises(DataError, match="from other chunks"):
        retriever.search(["rye"], 2, filters=[{"customer": "acme"}])


@pytest.mark.parametrize("kind", ["flat", "ivf"])
@pytest.mark.parametrize("share", [0.0, 0.002, 0.05, 0.6])
def test_faiss_finds_k_allowed_rows_wherever_there_are_so_many(
    tmp_path: Path, kind: str, share: float
) -> None:
    rng = np.random.default_rng(1)
    vectors = rng.standard_normal((3000, 16)).astype(np.float32)
    # Of one direction: the lists that a question reads first may hold none of them.
    allowed = (
        vectors[:, 0] > np.quantile(vectors[:, 0], 1 - share) if share else np.zeros(3000, bool)
    )
    store = FaissStore(tmp_path, build_faiss(vectors, lambda: vectors[:40], kind, tmp_path))
    queries = -vectors[allowed][:5] if share else vectors[:5]
    exact = np.flatnonzero(allowed)[exact_search(vectors[allowed], queries, 10)] if share else []
    found = store.search(queries, 10, allowed)
    assert all(len(rows) == min(10, allowed.sum()) and allowed[rows].all() for rows, _ in found)
    if share:
        shares = [
            len(np.intersect1d(r, e)) / len(e) for (r, _), e in zip(found, exact, strict=True)
        ]
        assert min(shares) == 1 if kind == "flat" else np.mean(shares) > 0.9
