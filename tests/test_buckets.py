"""Buckets give the same bytes for any number of workers and shards."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from rag_ft.chunk_store import ChunkStore
from rag_ft.cli import main
from rag_ft.config import Config, RetrievalConfig
from rag_ft.retrieval import buckets
from rag_ft.retrieval.buckets import BUCKETS, encode_in_processes, encode_shard, open_buckets
from rag_ft.retrieval.encoder import Encoder, load_encoder
from rag_ft.retrieval.index_builder import build_index
from rag_ft.retrieval.index_files import open_vectors
from rag_ft.run_dir import RunDir
from rag_ft.schema import Chunk
from rag_ft.storage import write_jsonl

MakeRun = Callable[..., tuple[Config, RunDir]]
SETTINGS = RetrievalConfig()


@pytest.fixture(autouse=True)
def small_buckets(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(buckets, "CHUNKS_PER_BUCKET", 25)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def encoder(make_run: MakeRun) -> Encoder:
    return load_encoder(make_run([])[0].encoder)


@pytest.fixture
def store(tmp_path: Path) -> ChunkStore:
    texts = [f"mill {n % 97} stands at the river {'x' * (n % 7)}" for n in range(120)]
    write_jsonl(
        tmp_path / "chunks.jsonl",
        [Chunk(f"d#{n}", "d", "", t, 0, len(t), 9, "train") for n, t in enumerate(texts)],
    )
    return ChunkStore(tmp_path / "chunks.jsonl")


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def test_the_index_is_the_same_bytes_for_any_number_of_shards(
    store: ChunkStore, encoder: Encoder, tmp_path: Path
) -> None:
    found = []
    for number in (1, 3, 7):
        folder = tmp_path / str(number)
        for shard in reversed(range(number)):
            encode_shard(folder, store, encoder, SETTINGS, 0, (shard, number))
        counts = build_index(folder, store, encoder, SETTINGS, 0)
        assert counts["num_encoded"] == 0 and not (folder / BUCKETS).exists()
        found.append(files_of(folder))
    assert found[0] == found[1] == found[2]
    build_index(tmp_path / "plain", store, encoder, SETTINGS, 0)
    np.testing.assert_allclose(
        open_vectors(tmp_path / "3")[:], open_vectors(tmp_path / "plain")[:], atol=1e-5
    )


def test_a_killed_shard_goes_on_with_its_next_bucket(
    store: ChunkStore, encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    encode_shard(tmp_path / "whole", store, encoder, SETTINGS, 0, (0, 1))
    calls: list[int] = []
    real = Encoder.encode_chunks

    def fragile(self: Encoder, texts: Sequence[str]) -> np.ndarray:
        calls.append(len(texts))
        if len(calls) == 3:
            raise Killed
        return real(self, texts)

    monkeypatch.setattr(Encoder, "encode_chunks", fragile)
    with pytest.raises(Killed):
        encode_shard(tmp_path / "killed", store, encoder, SETTINGS, 0, (0, 1))
    assert encode_shard(tmp_path / "killed", store, encoder, SETTINGS, 0, (0, 1)) == 3
    assert encode_shard(tmp_path / "killed", store, encoder, SETTINGS, 0, (0, 1)) == 0
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")
    found = open_buckets(tmp_path / "killed" / BUCKETS, encoder.fingerprint)
    assert sum(bucket.num_rows for bucket in found) == 120
    assert open_buckets(tmp_path / "killed" / BUCKETS, "another encoder") == []


def test_buckets_hold_only_texts_that_the_index_lacks(
    store: ChunkStore, encoder: Encoder, tmp_path: Path
) -> None:
    build_index(tmp_path / "index", store, encoder, SETTINGS, 0)
    new = Chunk("d#120", "d", "", "a tower of its own", 0, 18, 9, "train")
    write_jsonl(store.path, [*store, new])
    grown = ChunkStore(store.path)
    assert encode_shard(tmp_path / "index", grown, encoder, SETTINGS, 0, (0, 1)) == 1
    [bucket] = open_buckets(tmp_path / "index" / BUCKETS, encoder.fingerprint)
    assert bucket.num_rows == 1


@pytest.mark.slow
def test_processes_give_the_bytes_of_shards(
    store: ChunkStore,
    make_run: MakeRun,
    encoder: Encoder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Processes that are spawned have the real size of a bucket.
    monkeypatch.setattr(buckets, "CHUNKS_PER_BUCKET", 8192)
    config, _ = make_run([])
    for number in (1, 2):
        encode_in_processes(tmp_path / str(number), store, config.encoder, SETTINGS, 0, number)
    encode_shard(tmp_path / "shard", store, encoder, SETTINGS, 0, (0, 1))
    found = [files_of(tmp_path / name) for name in ("1", "2", "shard")]
    assert found[0] and found[0] == found[1] == found[2]


@pytest.mark.slow
def test_shards_are_merged_by_the_command(
    tmp_path: Path, tiny_encoder_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    for n in range(12):
        (folder / f"{n}.md").write_text(" ".join(f"word{n}x{i}." for i in range(60)))
    config = tmp_path / "c.yaml"
    values = {
        "run": {"dir": str(tmp_path / "run")},
        "ingest": {"sources": [str(folder)]},
        "encoder": {"model": str(tiny_encoder_dir)},
    }
    config.write_text(yaml.safe_dump(values))
    assert main(["index", str(config), "--shard", "0/2"]) == 1
    assert "ingest, which has not finished" in capsys.readouterr().err
    main(["ingest", str(config)])
    for bad in ("2/2", "x", "-1/2"):
        assert main(["index", str(config), f"--shard={bad}"]) == 1
        assert "write I/N with I from 0" in capsys.readouterr().err
    for shard in ("0/2", "1/2"):
        assert main(["index", str(config), "--shard", shard]) == 0
    assert main(["merge-shards", str(config)]) == 0
    done = json.loads((tmp_path / "run" / "index.done.json").read_text())
    assert done["counts"]["num_encoded"] == 0 and done["counts"]["num_chunks"] > 12
