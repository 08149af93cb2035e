"""Builds an index; a killed build continues to the same bytes."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from rag_ft.config import Config, RetrievalConfig
from rag_ft.config_advanced import RetrievalAdvanced
from rag_ft.errors import ConfigError, DataError
from rag_ft.retrieval import index_builder
from rag_ft.retrieval.encoder import Encoder, load_encoder
from rag_ft.retrieval.index_builder import adopt_index, build_index
from rag_ft.retrieval.index_files import read_manifest
from rag_ft.retrieval.vector_store import STORES
from rag_ft.run_dir import RunDir
from rag_ft.schema import Chunk

MakeRun = Callable[..., tuple[Config, RunDir]]
SETTINGS = RetrievalConfig()


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


@pytest.mark.parametrize("blocks", [0, 1, 3])
def test_a_killed_build_goes_on_to_the_same_bytes_and_encodes_nothing_twice(
    make_run: MakeRun, tmp_path: Path, blocks: int
) -> None:
    config, _ = make_run([])
    encoder = load_encoder(config.encoder)
    build_index(tmp_path / "whole", some_chunks(47), Fragile(encoder, 99), SETTINGS, 0)
    with pytest.raises(KilledError):
        build_index(tmp_path / "killed", some_chunks(47), Fragile(encoder, blocks), SETTINGS, 0)
    assert not (tmp_path / "killed" / "manifest.json").exists()
    second = Fragile(encoder, 99)
    build_index(tmp_path / "killed", some_chunks(47), second, SETTINGS, 0)
    assert 99 - second.blocks == 5 - blocks
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")


def test_half_a_block_written_by_a_killed_build_is_written_over(
    make_run: MakeRun, tmp_path: Path
) -> None:
    config, _ = make_run([])
    encoder = load_encoder(config.encoder)
    build_index(tmp_path / "whole", some_chunks(47), Fragile(encoder, 99), SETTINGS, 0)
    with pytest.raises(KilledError):
        build_index(tmp_path / "killed", some_chunks(47), Fragile(encoder, 2), SETTINGS, 0)
    with (tmp_path / "killed" / "vectors.npy.tmp").open("ab") as out:
        out.write(b"half a block" * 500)
    with (tmp_path / "killed" / "progress.jsonl").open("a") as out:
        out.write('{"key": "torn')
    build_index(tmp_path / "killed", some_chunks(47), Fragile(encoder, 99), SETTINGS, 0)
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")


def test_a_build_killed_after_the_vectors_encodes_nothing_again(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, _ = make_run([])
    encoder = load_encoder(config.encoder)
    build_index(tmp_path / "whole", some_chunks(30), Fragile(encoder, 99), SETTINGS, 0)

    def die(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setitem(STORES, "faiss", (die, STORES["faiss"][1]))
        with pytest.raises(KilledError):
            build_index(tmp_path / "killed", some_chunks(30), Fragile(encoder, 99), SETTINGS, 0)
    build_index(tmp_path / "killed", some_chunks(30), Fragile(encoder, 0), SETTINGS, 0)
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")


def test_changed_chunks_are_encoded_again(make_run: MakeRun, tmp_path: Path) -> None:
    config, _ = make_run([])
    encoder = load_encoder(config.encoder)
    changed = [*some_chunks(20), *some_chunks(47, "tower")[20:]]
    build_index(tmp_path / "whole", changed, Fragile(encoder, 99), SETTINGS, 0)
    with pytest.raises(KilledError):
        build_index(tmp_path / "killed", some_chunks(47), Fragile(encoder, 4), SETTINGS, 0)
    second = Fragile(encoder, 99)
    build_index(tmp_path / "killed", changed, second, SETTINGS, 0)
    assert 99 - second.blocks == 3
    assert files_of(tmp_path / "killed") == files_of(tmp_path / "whole")


def test_an_index_is_replaced_whole(make_run: MakeRun, tmp_path: Path) -> None:
    config, _ = make_run([])
    encoder = load_encoder(config.encoder)
    build_index(tmp_path / "fresh", some_chunks(12), encoder, SETTINGS, 0)
    build_index(tmp_path / "reused", some_chunks(40, "tower"), encoder, SETTINGS, 0)
    build_index(tmp_path / "reused", some_chunks(12), encoder, SETTINGS, 0)
    assert files_of(tmp_path / "reused") == files_of(tmp_path / "fresh")


def test_an_index_of_an_earlier_version_is_one_line_with_the_remedy(
    make_run: MakeRun, tmp_path: Path
) -> None:
    config, _ = make_run([])
    encoder = load_encoder(config.encoder)
    build_index(tmp_path, some_chunks(3), encoder, SETTINGS, 0)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    del manifest["store"], manifest["segments"]
    manifest |= {"faiss": "flat", "nprobe": 0, "recall": 1.0}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(DataError, match="made by an earlier version: rebuild it with") as error:
        read_manifest(tmp_path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("text", ["{", "3", '["encoder"]', '{"encoder": "x"}'])
def test_a_damaged_manifest_is_one_line_with_the_remedy(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(DataError, match=r"manifest\.json is damaged: run .* --force"):
        read_manifest(tmp_path)


def test_vectors_of_another_length_are_not_adopted(make_run: MakeRun, tmp_path: Path) -> None:
    class Wider(Fragile):
        dim = 64  # type: ignore[assignment]

    config, _ = make_run([])
    encoder = load_encoder(config.encoder)
    build_index(tmp_path / "base", some_chunks(3), encoder, SETTINGS, 0)
    with pytest.raises(ConfigError, match=r"32 numbers, those of the encoder 64: run"):
        adopt_index(tmp_path / "base", tmp_path / "tuned", Wider(encoder, 99))
    assert not (tmp_path / "tuned").exists()


def test_a_store_is_tuned_on_first_sentences_spread_evenly_over_the_corpus(
    make_run: MakeRun, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    class Asked(Fragile):
        def encode_queries(self, questions: Sequence[str]) -> np.ndarray:
            asked.extend(questions)
            return super().encode_queries(questions)

    monkeypatch.setattr(index_builder, "_NUM_TUNING_QUERIES", 6)
    config, _ = make_run([])
    ivf = RetrievalConfig(advanced=RetrievalAdvanced(faiss="ivf"))
    encoder = Asked(load_encoder(config.encoder), 99)
    texts = [f"Sentence {n}. And more" for n in range(95)]
    chunks = [Chunk(f"d#{n}", "d", "", t, 0, len(t), 9, "train") for n, t in enumerate(texts)]
    build_index(tmp_path, chunks, encoder, ivf, 0)
    numbers = [int(sentence.removeprefix("Sentence ").removesuffix(".")) for sentence in asked]
    assert 6 <= len(numbers) <= 12 and numbers[0] == 0 and numbers[-1] > 75
    assert len({later - earlier for earlier, later in pairwise(numbers)}) == 1
