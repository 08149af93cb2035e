"""The served index as files for vector stores and search engines: read back, they are the index."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rag_ft.cli import main
from rag_ft.commands.export import export
from rag_ft.config import Config
from rag_ft.errors import ConfigError, DataError
from rag_ft.integrations import vector_stores
from rag_ft.pipeline import run_stage
from rag_ft.retrieval.index_files import open_vectors
from rag_ft.run_dir import RunDir
from rag_ft.schema import Chunk
from rag_ft.storage import read_jsonl

DOCUMENTS = [
    {"id": "a.md", "title": "Boats", "text": "Ola sails “Heron”.", "metadata": {"year": 1901}},
    {"id": "b" * 600, "title": "Towers", "text": "Moe built it.", "metadata": {"tags": ["old"]}},
    {"id": "c.md", "title": "Mühlen", "text": "Die Mühle mahlt Salz."},
]


@pytest.fixture
def indexed(make_run: Callable[..., Any]) -> tuple[Config, RunDir]:
    config, run_dir = make_run(DOCUMENTS)
    for stage in ("ingest", "index"):
        run_stage(stage, config)
    return config, run_dir


def wanted(run_dir: RunDir) -> list[tuple[Chunk, np.ndarray]]:
    chunks = list(read_jsonl(run_dir.chunks, Chunk))
    assert len(chunks) == 3
    return list(zip(chunks, open_vectors(run_dir.index)[:], strict=True))


def lines(folder: Path, pattern: str) -> list[Any]:
    files = sorted(folder.glob(pattern))
    return [json.loads(line) for f in files for line in f.read_text("utf-8").splitlines()]


def assert_same(row: dict[str, Any], chunk: Chunk) -> None:
    assert {name: row[name] for name in ("id", "document_id", "title", "text", "split")} == {
        name: getattr(chunk, name) for name in ("id", "document_id", "title", "text", "split")
    }
    assert (row["start"], row["end"], row["page"]) == (chunk.start, chunk.end, None)
    assert list(row["headings"]) == list(chunk.headings)


def test_parquet_holds_vectors_texts_and_metadata(
    indexed: tuple[Config, RunDir], tmp_path: Path
) -> None:
    from pyarrow import parquet

    config, run_dir = indexed
    target = tmp_path / "index.parquet"
    assert export(config, "parquet", str(target)) == {"rows": 3}
    table = parquet.read_table(target)
    assert str(table.schema.field("vector").type).startswith("fixed_size_list<")
    about = json.loads(table.schema.metadata[b"rag_ft"])
    assert about["encoder"] == str(config.encoder.model) and about["fingerprint"]
    for row, (chunk, vector) in zip(table.to_pylist(), wanted(run_dir), strict=True):
        assert_same(row, chunk)
        np.testing.assert_array_equal(np.array(row["vector"], np.float32), vector)
    found = [json.loads(text) for text in table["metadata"].to_pylist()]
    assert found[0]["year"] == 1901 and found[1]["tags"] == ["old"]


def test_qdrant_requests_hold_points_with_stable_ids(
    indexed: tuple[Config, RunDir], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run_dir = indexed
    monkeypatch.setattr(vector_stores, "ROWS_PER_FILE", 2)
    for name in ("one", "other"):
        assert export(config, "qdrant", str(tmp_path / name)) == {"rows": 3}
    [collection] = lines(tmp_path / "one", "collection.json")
    expected = wanted(run_dir)
    assert collection["vectors"] == {"size": len(expected[0][1]), "distance": "Dot"}
    parts = lines(tmp_path / "one", "points-*.json")
    assert [len(part["points"]) for part in parts] == [2, 1]
    points = [point for part in parts for point in part["points"]]
    for point, (chunk, vector) in zip(points, expected, strict=True):
        assert str(uuid.UUID(point["id"])) == point["id"]
        assert_same(point["payload"], chunk)
        np.testing.assert_array_equal(np.array(point["vector"], np.float32), vector)
    assert points[0]["payload"]["metadata"]["year"] == 1901
    assert lines(tmp_path / "other", "points-*.json") == parts, "a later export replaces points"


@pytest.mark.parametrize("name", ["elasticsearch", "opensearch"])
def test_bulk_requests_hold_an_action_and_a_document_a_chunk(
    indexed: tuple[Config, RunDir], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    config, run_dir = indexed
    monkeypatch.setattr(vector_stores, "ROWS_PER_FILE", 2)
    assert export(config, name, str(tmp_path / "made")) == {"rows": 3}
    [index] = lines(tmp_path / "made", "index.json")
    expected = wanted(run_dir)
    known = index["mappings"]["properties"]
    size = {"elasticsearch": "dims", "opensearch": "dimension"}[name]
    assert known["vector"][size] == len(expected[0][1])
    sizes = [len(f.read_bytes().splitlines()) for f in sorted(tmp_path.glob("made/bulk-*"))]
    assert sizes == [4, 2]
    found = lines(tmp_path / "made", "bulk-*.ndjson")
    for action, row, (chunk, vector) in zip(found[::2], found[1::2], expected, strict=True):
        own = action["index"]["_id"]
        assert own == chunk.id or (len(chunk.id) > 512 and len(own) == 36)
        assert_same(row, chunk)
        assert row.keys() == known.keys()
        np.testing.assert_array_equal(np.array(row["vector"], np.float32), vector)


def test_without_an_index_nothing_is_written(make_run: Callable[..., Any], tmp_path: Path) -> None:
    config, _ = make_run(DOCUMENTS)
    run_stage("ingest", config)
    with pytest.raises(DataError, match="run `rag-ft index CONFIG`"):
        export(config, "qdrant", str(tmp_path / "made"))
    with pytest.raises(ConfigError, match=r"choose from .*squad.*parquet, qdrant"):
        export(config, "nothing", str(tmp_path / "made"))
    assert not (tmp_path / "made").exists()
    assert main(["export", "nowhere.yaml", "--format", "parquet", "--to", "x"]) == 1
