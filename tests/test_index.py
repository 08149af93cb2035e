"""The index stage: its files and its counts."""

from __future__ import annotations

import json
from collections.abc import Callable

import numpy as np
import pytest

from rag_ft.config import Config
from rag_ft.errors import DataError
from rag_ft.run_dir import RunDir
from rag_ft.schema import Chunk
from rag_ft.session import Session
from rag_ft.stages import index
from rag_ft.storage import write_jsonl

MakeRun = Callable[..., tuple[Config, RunDir]]


def some_chunks(number: int, word: str = "mill") -> list[Chunk]:
    texts = [f"{word} {n} stands at the river {'x' * (n % 7)}" for n in range(number)]
    return [
        Chunk(f"d#{n}", "d", "Places", text, 0, len(text), 9, "train")
        for n, text in enumerate(texts)
    ]


@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_the_stage_writes_the_public_files(make_run: MakeRun, kind: str) -> None:
    config, run_dir = make_run([], retrieval__advanced__faiss=kind)
    chunks = some_chunks(120)
    write_jsonl(run_dir.chunks, chunks)
    counts = index.run(Session(config, run_dir))
    assert counts == {
        "num_chunks": 120,
        "num_encoded": 120,
        "num_segments": 1,
        "dim": 32,
        "num_cut_chunks": 0,
        "faiss_recall": counts["faiss_recall"],
    }
    assert counts["faiss_recall"] >= 0.99
    names = {p.name for p in run_dir.index.iterdir()}
    expected = {"segments", "rows.npy", "chunk_ids.json", "lexical", "manifest.json"}
    assert names == expected | {"vectors.npy"}
    manifest = json.loads((run_dir.index / "manifest.json").read_text())
    [segment] = manifest["segments"]
    folder = run_dir.index / "segments" / segment["name"]
    files = {p.name for p in folder.iterdir()}
    assert files == {"vectors.npy", "keys.npy", "index.faiss", "segment.json"}
    assert (run_dir.index / "vectors.npy").samefile(folder / "vectors.npy")
    vectors = np.load(folder / "vectors.npy", allow_pickle=False)
    assert vectors.shape == (120, 32) and vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert json.loads((run_dir.index / "chunk_ids.json").read_text()) == [c.id for c in chunks]
    assert manifest["num_chunks"] == 120 and manifest["dim"] == 32
    assert manifest["store"] == "faiss" and segment["data"]["kind"] == kind
    assert segment["data"]["recall"] == counts["faiss_recall"]


def test_chunks_longer_than_the_encoder_reads_are_counted(make_run: MakeRun) -> None:
    config, run_dir = make_run([], encoder__advanced__max_tokens=16, retrieval__context="none")
    texts = ["short", "long " * 40]
    write_jsonl(
        run_dir.chunks,
        [Chunk(f"d#{n}", "d", "", t, 0, len(t), 1, "train") for n, t in enumerate(texts)],
    )
    assert index.run(Session(config, run_dir))["num_cut_chunks"] == 1


def test_missing_and_empty_chunks_are_one_line_with_the_remedy(make_run: MakeRun) -> None:
    config, run_dir = make_run([])
    with pytest.raises(DataError, match="run the stage that writes it first"):
        index.run(Session(config, run_dir))
    write_jsonl(run_dir.chunks, [])
    with pytest.raises(DataError, match="no chunks to index"):
        index.run(Session(config, run_dir))
