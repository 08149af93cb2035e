"""An index without some of its chunks equals one that never had them; no model is needed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rag_ft.config import Config, RetrievalConfig
from rag_ft.config_advanced import RetrievalAdvanced
from rag_ft.errors import DataError
from rag_ft.retrieval.encoder import Encoder, load_encoder
from rag_ft.retrieval.index_builder import adopt_index, build_index, open_vectors, read_manifest
from rag_ft.retrieval.pruning import prune_index
from rag_ft.run_dir import RunDir
from rag_ft.schema import Chunk

SETTINGS = RetrievalConfig()


@pytest.fixture
def encoder(make_run: Callable[..., tuple[Config, RunDir]]) -> Encoder:
    return load_encoder(make_run([])[0].encoder)


def some_chunks(number: int, first: int = 0) -> list[Chunk]:
    """Every third text is the same."""
    texts = [f"mill {n if n % 3 else 0} stands at the river" for n in range(first, first + number)]
    return [
        Chunk(f"d{n}#0", f"d{n}", "Places", text, 0, len(text), 9, "train")
        for n, text in enumerate(texts, first)
    ]


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def equal(found: Path, wanted: Path) -> None:
    """The same files, with the same bytes; vectors within rounding."""
    one, other = files_of(found), files_of(wanted)
    assert one.keys() == other.keys()
    assert [n for n in one if one[n] != other[n] and not n.endswith(("vectors.npy", "faiss"))] == []
    np.testing.assert_allclose(open_vectors(found)[:], open_vectors(wanted)[:], atol=1e-6)


def test_an_index_of_two_segments_with_deleted_vectors_becomes_one_without(
    encoder: Encoder, tmp_path: Path
) -> None:
    grown, fresh = tmp_path / "grown", tmp_path / "fresh"
    build_index(grown, some_chunks(60), encoder, SETTINGS, 0)
    build_index(grown, some_chunks(61, first=2), encoder, SETTINGS, 0)
    assert [segment["num_rows"] for segment in read_manifest(grown).segments] == [60, 2]
    kept = [chunk for chunk in some_chunks(61, first=2) if chunk.document_id not in ("d7", "d9")]
    assert prune_index(grown, kept) == 62 - len(kept)
    build_index(fresh, kept, encoder, SETTINGS, 0)
    equal(grown, fresh)
    # A later update encodes nothing again.
    assert build_index(grown, kept, encoder, SETTINGS, 0)["num_encoded"] == 0


def test_inverted_lists_are_made_again(encoder: Encoder, tmp_path: Path) -> None:
    settings = RetrievalConfig(advanced=RetrievalAdvanced(faiss="ivf"))
    build_index(tmp_path / "index", some_chunks(300), encoder, settings, 0)
    assert prune_index(tmp_path / "index", some_chunks(280)) == 20
    [segment] = read_manifest(tmp_path / "index").segments
    assert segment["num_rows"] == 280 and segment["data"]["recall"] >= 0.99


def test_the_vectors_of_another_question_encoder_stay_theirs(
    encoder: Encoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build_index(tmp_path / "index", some_chunks(12), encoder, SETTINGS, 0)
    monkeypatch.setattr(encoder, "fingerprint", "tuned")
    adopt_index(tmp_path / "index", tmp_path / "tuned", encoder)
    before = files_of(tmp_path / "index")
    prune_index(tmp_path / "tuned", some_chunks(9))
    assert read_manifest(tmp_path / "tuned").encoder == "tuned"
    assert len(open_vectors(tmp_path / "tuned")) == 9
    # Both share files by hard links.
    assert files_of(tmp_path / "index") == before


def test_an_unfinished_index_is_removed_and_a_foreign_chunk_is_an_error(
    encoder: Encoder, tmp_path: Path
) -> None:
    index = tmp_path / "index"
    build_index(index, some_chunks(5), encoder, SETTINGS, 0)
    with pytest.raises(DataError, match="has no chunk d5#0"):
        prune_index(index, some_chunks(6))
    assert read_manifest(index).num_chunks == 5
    (index / "manifest.json").unlink()
    assert prune_index(index, some_chunks(4)) == 0 and not index.exists()
    assert prune_index(index, some_chunks(4)) == 0


def test_a_call_that_was_killed_between_its_renames_is_continued(
    encoder: Encoder, tmp_path: Path
) -> None:
    index = tmp_path / "index"
    build_index(index, some_chunks(8), encoder, SETTINGS, 0)
    shutil.copytree(index, tmp_path / "index.old")
    prune_index(index, some_chunks(6))
    index.rename(tmp_path / "index.pruned")
    assert prune_index(index, some_chunks(6)) == 0
    assert len(open_vectors(index)) == 6
    assert sorted(path.name for path in tmp_path.glob("index*")) == ["index"]
