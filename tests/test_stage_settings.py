"""A new version makes no finished stage stale by a setting that did not exist before."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rag_ft.config_loader import flat, make_config
from rag_ft.run_dir import RunDir
from rag_ft.stage_settings import settings_of, unused_sections
from rag_ft.storage import write_json

LATER = "train_generator.advanced.gold_share"  # stands for a setting that came later
SECTIONS = {"train_generator", "reranker"}


def chosen(run_dir: RunDir, **sections: dict[str, Any]) -> dict[str, Any]:
    config = make_config({"run": {"dir": run_dir.path}, **sections})
    used = SECTIONS - unused_sections("train_generator", config.reranker)
    return settings_of("train_generator", used, flat(config), run_dir)


def record(run_dir: RunDir, settings: dict[str, Any]) -> None:
    run_dir.started("train_generator").parent.mkdir(parents=True, exist_ok=True)
    write_json(run_dir.started("train_generator"), {"fingerprint": "x", "config": settings})


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path / "run")


def test_a_setting_of_a_later_version_counts_once_it_is_set(run_dir: RunDir) -> None:
    before = chosen(run_dir)
    before.pop(LATER)
    record(run_dir, before)
    assert chosen(run_dir) == before
    other = chosen(run_dir, train_generator={"advanced": {"gold_share": 0.5}})
    assert other == before | {LATER: 0.5}


def test_a_recorded_setting_counts_with_its_default_too(run_dir: RunDir) -> None:
    record(run_dir, chosen(run_dir) | {LATER: 0.5})
    assert chosen(run_dir)[LATER] == 0.8


def test_a_reranker_that_comes_into_use_counts_with_all_its_settings(run_dir: RunDir) -> None:
    record(run_dir, chosen(run_dir, reranker={"model": None}))
    found = chosen(run_dir, reranker={"model": "some/cross-encoder"})
    assert {key for key in found if key.startswith("reranker.")} > {"reranker.model"}


def test_a_damaged_file_records_nothing(run_dir: RunDir) -> None:
    everything = chosen(run_dir)
    record(run_dir, {})
    run_dir.started("train_generator").write_text("{", encoding="utf-8")
    assert chosen(run_dir) == everything
