"""An index that grows finds what a new one finds, and encodes only what is new."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from rag_ft.config import Config, RetrievalConfig
from rag_ft.config_advanced import RetrievalAdvanced
from rag_ft.retrieval import index_builder
from rag_ft.retrieval.encoder import Encoder, load_encoder
from rag_ft.retrieval.index_builder import adopt_index, build_index
from rag_ft.retrieval.index_files import open_vectors, read_manifest
from rag_ft.retrieval.retriever import Retriever
from rag_ft.retrieval.segments import TextKeys
from rag_ft.run_dir import RunDir
from rag_ft.schema import Chunk

MakeRun = Callable[..., tuple[Config, RunDir]]
SETTINGS = RetrievalConfig()
QUESTIONS = ["which mill stands at the river?", "tower 7", "who built harbour 3", "zzz"]


class Counting(Encoder):
    """Counts the chunks that it encodes."""

    def __init__(self, encoder: Encoder) -> None:
        super().__init__(encoder.sentence_transformer, encoder._config, encoder.folder)
        self.texts: list[str] = []

    @property
    def block_size(self) -> int:
        return 16

    def encode_chunks(self, texts: Sequence[str]) -> np.ndarray:
        self.texts += texts
        return super().encode_chunks(texts)


@pytest.fixture
def encoder(make_run: MakeRun) -> Counting:
    return Counting(load_encoder(make_run([])[0].encoder))


def chunks_of(*names: str) -> list[Chunk]:
    texts = [f"{name} stands at the river" for name in names]
    return [Chunk(f"d#{n}", "d", "", t, 0, len(t), 9, "train") for n, t in enumerate(texts)]


def names_of(word: str, number: int) -> list[str]:
    return [f"{word} {n}" for n in range(number)]


def hits(folder: Path, encoder: Encoder, settings: RetrievalConfig = SETTINGS) -> dict:
    retriever = Retriever(folder, read_manifest(folder), encoder, settings)
    modes = ["dense", "lexical", "hybrid"]
    return retriever.search_modes(QUESTIONS, 20, modes)


def assert_same(grown: Path, fresh: Path, encoder: Encoder) -> None:
    """The same ids, rankings and vectors."""
    assert (grown / "chunk_ids.json").read_text() == (fresh / "chunk_ids.json").read_text()
    np.testing.assert_allclose(open_vectors(grown)[:], open_vectors(fresh)[:], atol=1e-5)
    found, wanted = hits(grown, encoder), hits(fresh, encoder)
    for mode, rankings in wanted.items():
        for mine, theirs in zip(found[mode], rankings, strict=True):
            np.testing.assert_allclose([s for _, s in mine], [s for _, s in theirs], atol=1e-5)
            # Where two scores are equal but for rounding, their order may differ.
            assert sorted(i for i, _ in mine[:19]) == sorted(i for i, _ in theirs[:19])


def test_a_grown_index_equals_a_new_one_and_encodes_only_new_texts(
    encoder: Counting, tmp_path: Path
) -> None:
    before = names_of("mill", 300)
    build_index(tmp_path / "grown", chunks_of(*before), encoder, SETTINGS, 0)
    # One is changed, three are added, two are gone.
    after = [*before[:5], "tower 7", *before[6:200], "harbour 3", *before[202:], "inn 1", "inn 2"]
    encoder.texts.clear()
    counts = build_index(tmp_path / "grown", chunks_of(*after), encoder, SETTINGS, 0)
    new = ["tower 7", "harbour 3", "inn 1", "inn 2"]
    assert encoder.texts == [f"{name} stands at the river" for name in new]
    assert counts["num_encoded"] == 4 and counts["num_segments"] == 2
    build_index(tmp_path / "fresh", chunks_of(*after), encoder, SETTINGS, 0)
    assert_same(tmp_path / "grown", tmp_path / "fresh", encoder)


def test_what_is_deleted_is_never_found_also_with_filters(
    encoder: Counting, tmp_path: Path
) -> None:
    before = names_of("mill", 100)
    build_index(tmp_path, chunks_of(*before), encoder, SETTINGS, 0)
    counts = build_index(tmp_path, chunks_of(*before[5:]), encoder, SETTINGS, 0)
    assert counts["num_chunks"] == 95 and counts["num_segments"] == 1
    retriever = Retriever(tmp_path, read_manifest(tmp_path), encoder, SETTINGS)
    [found] = retriever.search(["mill 3 stands at the river"], 100, "dense")
    assert len(found) == 95 and len({i for i, _ in found}) == 95
    allowed = np.zeros(95, dtype=bool)
    allowed[[2, 90]] = True
    vectors = encoder.encode_queries(["mill 3"])
    [(rows, _)] = retriever._store.search(vectors, 10, allowed)
    assert sorted(rows) == [2, 90]


def test_many_changes_and_compact_write_one_segment_that_is_a_new_one_s(
    encoder: Counting, tmp_path: Path
) -> None:
    before, tower = names_of("mill", 100), names_of("tower", 11)
    build_index(tmp_path / "grown", chunks_of(*before), encoder, SETTINGS, 0)
    few = build_index(tmp_path / "grown", chunks_of(*before, *tower[:5]), encoder, SETTINGS, 0)
    assert few["num_segments"] == 2
    again = build_index(tmp_path / "grown", chunks_of(*before, *tower[:5]), encoder, SETTINGS, 0)
    assert again["num_segments"] == 2 and again["num_encoded"] == 0
    compact = build_index(
        tmp_path / "grown", chunks_of(*before, *tower[:5]), encoder, SETTINGS, 0, compact=True
    )
    assert compact["num_segments"] == 1 and compact["num_encoded"] == 0
    build_index(tmp_path / "fresh", chunks_of(*before, *tower[:5]), encoder, SETTINGS, 0)
    assert_same(tmp_path / "grown", tmp_path / "fresh", encoder)
    [mine], [theirs] = ((tmp_path / n / "segments").iterdir() for n in ("grown", "fresh"))
    assert mine.name == theirs.name
    many = build_index(tmp_path / "grown", chunks_of(*before, *tower), encoder, SETTINGS, 0)
    assert many["num_segments"] == 2
    most = build_index(tmp_path / "grown", chunks_of(*before[:80], *tower), encoder, SETTINGS, 0)
    assert most["num_segments"] == 1


@pytest.mark.slow
def test_a_hundred_updates_end_as_a_new_index(encoder: Counting, tmp_path: Path) -> None:
    draw, names = np.random.default_rng(0), names_of("mill", 150)
    ivf = RetrievalConfig(advanced=RetrievalAdvanced(faiss="ivf"))
    build_index(tmp_path / "grown", chunks_of(*names), encoder, ivf, 0)
    for number in range(100):
        names.pop(int(draw.integers(len(names))))
        names.insert(int(draw.integers(len(names))), f"tower {number}")
        counts = build_index(tmp_path / "grown", chunks_of(*names), encoder, ivf, 0)
        assert counts["num_encoded"] == 1 and counts["num_segments"] <= 2
    build_index(tmp_path / "fresh", chunks_of(*names), encoder, SETTINGS, 0)
    np.testing.assert_allclose(
        open_vectors(tmp_path / "grown")[:], open_vectors(tmp_path / "fresh")[:], atol=1e-5
    )
    found = hits(tmp_path / "grown", encoder, ivf)["dense"]
    wanted = hits(tmp_path / "fresh", encoder)["dense"]
    shares = [
        len({i for i, _ in mine[:10]} & {i for i, _ in theirs[:10]}) / 10
        for mine, theirs in zip(found, wanted, strict=True)
    ]
    assert np.mean(shares) >= 0.95


def test_equal_texts_have_a_vector_each(encoder: Counting, tmp_path: Path) -> None:
    names = ["mill 1", *["inn 1"] * 4, "mill 2"]
    build_index(tmp_path, chunks_of(*names), encoder, SETTINGS, 0)
    counts = build_index(tmp_path, chunks_of(*names[1:], "inn 1"), encoder, SETTINGS, 0)
    assert counts["num_encoded"] == 1
    retriever = Retriever(tmp_path, read_manifest(tmp_path), encoder, SETTINGS)
    [found] = retriever.search(["inn 1 stands at the river"], 6, "dense")
    assert sorted(i for i, _ in found[:5]) == ["d#0", "d#1", "d#2", "d#3", "d#5"]
    assert len(set(TextKeys().of(["a", "b", "a", "a"]))) == 4


def test_another_encoder_keeps_no_vector(encoder: Counting, tmp_path: Path) -> None:
    build_index(tmp_path, chunks_of(*names_of("mill", 20)), encoder, SETTINGS, 0)
    encoder.fingerprint = "of another encoder"  # type: ignore[misc]
    counts = build_index(tmp_path, chunks_of(*names_of("mill", 20)), encoder, SETTINGS, 0)
    assert counts["num_encoded"] == 20


def test_an_adopted_index_stays_when_its_source_grows(encoder: Counting, tmp_path: Path) -> None:
    names = names_of("mill", 60)
    build_index(tmp_path / "base", chunks_of(*names), encoder, SETTINGS, 0)
    adopt_index(tmp_path / "base", tmp_path / "tuned", encoder)
    before = hits(tmp_path / "tuned", encoder)
    build_index(tmp_path / "base", chunks_of("inn 9", *names[3:]), encoder, SETTINGS, 0)
    assert hits(tmp_path / "tuned", encoder) == before


def test_a_killed_update_goes_on_and_leaves_the_old_segment_whole(
    encoder: Counting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names, new = names_of("mill", 200), names_of("tower", 15)
    build_index(tmp_path / "grown", chunks_of(*names), encoder, SETTINGS, 0)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    # Once before the new segment is there, and once when the manifest is missing.
    for name in ("write_segment", "write_manifest"):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(index_builder, name, die)
            build_index(tmp_path / "grown", chunks_of(*names, *new), encoder, SETTINGS, 0)
    encoder.texts.clear()
    build_index(tmp_path / "grown", chunks_of(*names, *new), encoder, SETTINGS, 0)
    assert encoder.texts == []
    build_index(tmp_path / "fresh", chunks_of(*names, *new), encoder, SETTINGS, 0)
    assert_same(tmp_path / "grown", tmp_path / "fresh", encoder)
    names = {path.name for path in (tmp_path / "grown").iterdir()}
    assert names == {"segments", "rows.npy", "chunk_ids.json", "lexical", "manifest.json"}
