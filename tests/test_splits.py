"""Splits of documents: by hash, stable as documents come and go."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rag_ft.config import Config, IngestConfig
from rag_ft.config_loader import make_config
from rag_ft.documents.splits import hash_share, split_of, strictest
from rag_ft.run_dir import RunDir
from rag_ft.schema import Document
from rag_ft.session import Session
from rag_ft.stages import ingest
from rag_ft.storage import read_jsonl


def config(**settings: Any) -> IngestConfig:
    return make_config({"ingest": settings}).ingest


def test_splits_have_their_shares_and_depend_on_the_id_alone() -> None:
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


def test_splits_follow_the_text_and_not_names_of_files_or_folders(
    tmp_path: Path, make_run: Callable[..., tuple[Config, RunDir]]
) -> None:
    folder = tmp_path / "docs"
    (folder / "sub").mkdir(parents=True)

    def splits(source: Path) -> dict[str, str]:
        run_config, run_dir = make_run([], ingest__sources=[source], ingest__test_share=0.4)
        ingest.run(Session(run_config, run_dir))
        return {d.text: d.split for d in read_jsonl(run_dir.documents, Document)}

    for n in range(30):
        guests = f"{100 + 13 * n} guests of colour{n}"
        text = f"The hall number{n} opens at nine and has seats for {guests}."
        (folder / f"a{n}.txt").write_text(text)
    before = splits(folder)
    assert len(set(before.values())) >= 2
    for n in range(30):
        (folder / f"a{n}.txt").rename(folder / "sub" / f"{7 * n}.md")
    assert splits(folder) == before == splits(folder / "sub")
