"""Splits of documents: by hash, stable as documents come and go."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from rag_ft.config import IngestConfig
from rag_ft.config_loader import load_config, make_config
from rag_ft.documents.splits import hash_share, read_splits, split_of, strictest, text_digest
from rag_ft.errors import ConfigError
from rag_ft.run_dir import RunDir
from rag_ft.schema import Document
from rag_ft.session import Session
from rag_ft.stages import ingest
from rag_ft.storage import read_jsonl

ROOT = Path(__file__).parent.parent


def config(**settings: Any) -> IngestConfig:
    return make_config({"ingest": settings}).ingest


def test_splits_have_their_shares_and_depend_on_the_key_alone() -> None:
    ids = [f"d{n}" for n in range(4000)]
    splits = [split_of(i, config(test_share=0.3, dev_share=0.1)) for i in ids]
    assert (
        abs(splits.count("test") / 4000 - 0.3) < 0.03
        and abs(splits.count("dev") / 4000 - 0.1) < 0.02
    )
    assert all(0 <= hash_share(i) < 1 for i in ids)
    assert hash_share("handbook/a.md") == pytest.approx(
        0.19207, abs=1e-5
    )  # fixed for ever: runs must stay comparable


def test_every_document_is_a_test_document_in_exactly_one_fold() -> None:
    for number in (2, 5):
        folds = [config(folds=number, fold=fold, dev_share=0.1) for fold in range(number)]
        for n in range(500):
            assert [split_of(f"d{n}", c) for c in folds].count("test") == 1
        others = [s for n in range(3000) if (s := split_of(f"d{n}", folds[0])) != "test"]
        assert abs(others.count("dev") / len(others) - 0.1) < 0.02


def test_the_strictest_of_different_splits_is_test() -> None:
    assert strictest(["train", "test", "dev"]) == "test" and strictest(["train", "dev"]) == "dev"


def splits_by_text(run: Path, encoder: Path, sources: list[Any], **settings: Any) -> dict[str, str]:
    """{text: split} of the documents of an ingest."""
    config = make_config(
        {
            "run": {"dir": run},
            "ingest": {"sources": sources, "test_share": 0.4, "dev_share": 0.2, **settings},
            "encoder": {"model": str(encoder)},
        }
    )
    run_dir = RunDir(config.run_path)
    run_dir.path.mkdir(parents=True)
    ingest.run(Session(config, run_dir))
    return {d.text: d.split for d in read_jsonl(run_dir.documents, Document)}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Sixty documents in three folders, and a copy of one of them."""
    for n in range(60):
        path = tmp_path / f"docs/part{n % 3}/d{n}.txt"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(" ".join(f"word{n}x{i}." for i in range(40)))
    shutil.copy(tmp_path / "docs/part0/d0.txt", tmp_path / "docs/part1/copy.txt")
    return tmp_path / "docs"


def test_renaming_moving_and_another_source_folder_move_no_document_to_another_split(
    tmp_path: Path, folder: Path, tiny_encoder_dir: Path
) -> None:
    before = splits_by_text(tmp_path / "run", tiny_encoder_dir, [folder])
    assert len(before) == 60 and set(before.values()) == {"train", "dev", "test"}
    parts: list[Any] = sorted(folder.iterdir())
    assert splits_by_text(tmp_path / "parts", tiny_encoder_dir, parts) == before
    moved = tmp_path / "elsewhere" / "deep"
    moved.mkdir(parents=True)
    for number, path in enumerate(sorted(folder.rglob("*.txt"), reverse=True)):
        path.rename(moved / f"new{number}.md")
    assert splits_by_text(tmp_path / "moved", tiny_encoder_dir, [tmp_path / "elsewhere"]) == before


def test_documents_of_the_demo_keep_their_splits_under_other_names(
    tmp_path: Path, demo_encoder: str
) -> None:
    named = [json.loads(line) for line in (ROOT / "data/handbook_splits.jsonl").open()]
    for number, path in enumerate(sorted((ROOT / "data/handbook").rglob("*"))):
        if path.is_file() and not path.name.startswith("questions"):
            (tmp_path / f"new/{number % 5}").mkdir(parents=True, exist_ok=True)
            shutil.copy(path, tmp_path / f"new/{number % 5}/{number}{path.suffix}")
    overrides = [f"run.dir={tmp_path / 'run'}", f"ingest.sources=[{tmp_path / 'new'}]"]
    config = load_config(ROOT / "configs/demo.yaml", overrides)
    run_dir = RunDir(config.run_path)
    run_dir.path.mkdir()
    ingest.run(Session(config, run_dir))
    found = {text_digest(d.text).hex(): d.split for d in read_jsonl(run_dir.documents, Document)}
    assert found == {row["text_sha256"]: row["split"] for row in named}


def test_a_file_names_splits_by_text_else_by_id(
    tmp_path: Path, folder: Path, tiny_encoder_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = splits_by_text(tmp_path / "run", tiny_encoder_dir, [folder])
    earlier = tmp_path / "run" / "documents.jsonl"
    # Two names are exchanged, a text changes, and the shares are others.
    one, two = (next(t for t in before if before[t] == split) for split in ("train", "test"))
    paths = {path.read_text(): path for path in folder.rglob("d*.txt")}
    paths[one].write_text(two)
    paths[two].write_text(one)
    third = next(t for t in before if t not in (one, two) and before[t] == "test")
    paths[third].write_text(changed := third.replace("word", "term"))
    settings = {"test_share": 0.1, "advanced": {"splits": earlier}}
    after = splits_by_text(tmp_path / "again", tiny_encoder_dir, [folder], **settings)
    expected = {text: split for text, split in before.items() if text != third}
    assert after == {**expected, changed: "test"} and "no document is in" not in caplog.text

    # A split that the user fixes counts more; a file about other documents is told.
    source = {"path": folder, "split": "train"}
    fixed = splits_by_text(tmp_path / "fixed", tiny_encoder_dir, [source], **settings)
    assert set(fixed.values()) == {"train"}
    other = tmp_path / "other.jsonl"
    other.write_text('{"id": "x", "split": "test", "text": "Other."}\n')
    settings = {"advanced": {"splits": other}}
    splits_by_text(tmp_path / "other", tiny_encoder_dir, [folder], **settings)
    assert "no document is in" in caplog.text


@pytest.mark.parametrize(
    "line",
    ["[]", "{}", "x", '{"id": "a", "split": "no", "text": "t"}', '{"id": "a", "split": "dev"}',
     '{"id": "a", "split": "dev", "text": 7}', '{"id": "a", "split": "dev", "text_sha256": "xy"}',
     '{"id": "a", "split": ["dev"], "text": "t"}'],
)  # fmt: skip
def test_a_bad_line_of_a_file_of_splits_is_one_line(tmp_path: Path, line: str) -> None:
    path = tmp_path / "splits.jsonl"
    path.write_text(f'{{"id": "a", "split": "dev", "text": "t"}}\n{line}\n')
    with pytest.raises(ConfigError, match=r"splits\.jsonl, line 2: write a JSON object"):
        read_splits(path)
    with pytest.raises(ConfigError, match="cannot read"):
        read_splits(tmp_path / "missing.jsonl")
