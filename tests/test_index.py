"""The index stage: its files, and that a killed build goes on to the same bytes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from rag_ft.config import Config
from rag_ft.errors import DataError
from rag_ft.retrieval import index_builder as build
from rag_ft.retrieval.encoder import Encoder, load_encoder
from rag_ft.retrieval.retriever import build_index
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


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


class KilledError(Exception):
    """Stands for a kill signal."""


class Fragile(Encoder):
    """Encodes so many blocks, then dies, as a killed process would."""

    def __init__(self, encoder: Encoder, blocks: int) -> None:
        super().__init__(encoder.sentence_transformer, encoder._config, encoder.folder)
        self.blocks = blocks

    @property
    def block_size(self) -> int:
        return 10

    def encode_chunks(self, texts: Sequence[str]) -> np.ndarray:
        if self.blocks == 0:
            raise KilledError
        self.blocks -= 1
        return super().encode_chunks(texts)


@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_the_stage_writes_the_public_files(make_run: MakeRun, kind: str) -> None:
    config, run_dir = make_run([], retrieval__advanced__faiss=kind)
    chunks = some_chunks(120)
    write_jsonl(run_dir.chunks, chunks)
    counts = index.run(Session(config, run_dir))
    assert counts == {
        "num_chunks": 120,
        "dim": 32,
        "num_cut_chunks": 0,
        "faiss_recall": counts["faiss_recall"],
    }
    assert counts["faiss_recall"] >= 0.99
    names = {p.name for p in run_dir.index.iterdir()}
    assert names == {"vectors.npy", "chunk_ids.json", "index.faiss", "lexical", "manifest.json"}
    vectors = np.load(run_dir.index / "vectors.npy", allow_pickle=False)
    assert vectors.shape == (120, 32) and vectors.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert json.loads((run_dir.index / "chunk_ids.json").read_text()) == [c.id for c in chunks]
    manifest = json.loads((run_dir.index / "manifest.json").read_text())
    assert manifest["num_chunks"] == 120 and manifest["dim"] == 32 and manifest["faiss"] == kind


@pytest.mark.parametrize("blocks", [0, 1, 3])
def test_a_killed_build_goes_on_to_the_same_bytes_and_encodes_nothing_twice(
    make_run: MakeRun, tmp_path: Path, blocks: int
) -> None:
    config, _ = make_run([])
    encoder = load_encoder(config.encoder)
    build_index(config, tmp_path / "whole", some_chunks(47), Fragile(encoder, 99))
    with pytest.raises(KilledError):
        build_index(config, tmp_path / "killed", some_chunks(47), Fragile(encoder, blocks))
    assert not (tmp_path / "killed" / "manifest.json").exists()
    second = Fragile(encoder, 99)
    build_index(config, tmp_path / "killed", some_chunks(47), second)
    assert 99 - second.blocks == 5 - blocks
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")


def test_half_a_block_written_by_a_killed_build_is_written_over(
    make_run: MakeRun, tmp_path: Path
) -> None:
    config, _ = make_run([])
    encoder = load_encoder(config.encoder)
    build_index(config, tmp_path / "whole", some_chunks(47), Fragile(encoder, 99))
    with pytest.raises(KilledError):
        build_index(config, tmp_path / "killed", some_chunks(47), Fragile(encoder, 2))
    with (tmp_path / "killed" / "vectors.npy.tmp").open("ab") as out:
        out.write(b"half a block" * 500)
    with (tmp_path / "killed" / "progress.jsonl").open("a") as out:
        out.write('{"key": "torn')
    build_index(config, tmp_path / "killed", some_chunks(47), Fragile(encoder, 99))
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")


def test_a_build_killed_after_the_vectors_encodes_nothing_again(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, _ = make_run([])
    encoder = load_encoder(config.encoder)
    build_index(config, tmp_path / "whole", some_chunks(30), Fragile(encoder, 99))

    def die(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(build, "build_faiss", die)
        with pytest.raises(KilledError):
            build_index(config, tmp_path / "killed", some_chunks(30), Fragile(encoder, 99))
    build_index(config, tmp_path / "killed", some_chunks(30), Fragile(encoder, 0))
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")


def test_changed_chunks_are_encoded_again(make_run: MakeRun, tmp_path: Path) -> None:
    config, _ = make_run([])
    encoder = load_encoder(config.encoder)
    changed = [*some_chunks(20), *some_chunks(47, "tower")[20:]]
    build_index(config, tmp_path / "whole", changed, Fragile(encoder, 99))
    with pytest.raises(KilledError):
        build_index(config, tmp_path / "killed", some_chunks(47), Fragile(encoder, 4))
    second = Fragile(encoder, 99)
    build_index(config, tmp_path / "killed", changed, second)
    assert 99 - second.blocks == 3
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")


def test_an_index_is_replaced_whole(make_run: MakeRun, tmp_path: Path) -> None:
    config, _ = make_run([])
    encoder = load_encoder(config.encoder)
    build_index(config, tmp_path / "fresh", some_chunks(12), encoder)
    build_index(config, tmp_path / "reused", some_chunks(40, "tower"), encoder)
    build_index(config, tmp_path / "reused", some_chunks(12), encoder)
    assert files_of(tmp_path / "reused") == files_of(tmp_path / "fresh")


def test_chunks_longer_than_the_encoder_reads_are_counted(make_run: MakeRun) -> None:
    config, run_dir = make_run(
        [], encoder__advanced__max_tokens=16, retrieval__advanced__with_title=False
    )
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
