"""merge: one plain model folder, whole or not at all. Adapters: see test_train_generator.py."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from rag_ft.commands.merge import merge
from rag_ft.config import Config
from rag_ft.errors import ConfigError, DataError
from rag_ft.run_dir import RunDir


@pytest.fixture
def tuned(tmp_path: Path) -> Config:
    """A run whose generator is a whole model: a folder with a config.json."""
    config = Config(run={"dir": tmp_path / "run"})  # type: ignore[arg-type]
    generator = RunDir(config.run_path).generator
    generator.mkdir(parents=True)
    (generator / "config.json").write_text("{}")
    return config


def test_a_temporary_name_follows_no_link_and_takes_no_folder_of_others(
    tuned: Config, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "thesis.txt").write_text("years")
    (tmp_path / "merged.tmp").symlink_to(elsewhere)
    assert merge(tuned, tmp_path / "merged") == tmp_path / "merged"
    assert (tmp_path / "merged" / "config.json").read_text() == "{}"
    assert [path.name for path in elsewhere.iterdir()] == ["thesis.txt"]
    assert (tmp_path / "merged.tmp").is_symlink()


def test_a_broken_merge_leaves_nothing(
    tuned: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(source: Path, target: Path) -> None:
        target.mkdir()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copytree", breaks)
    with pytest.raises(OSError, match="No space left"):
        merge(tuned, tmp_path / "merged")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_what_is_there_is_kept_and_what_is_missing_is_named(tuned: Config, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is there already: name a new folder"):
        merge(tuned, tmp_path)
    shutil.rmtree(RunDir(tuned.run_path).generator)
    with pytest.raises(DataError, match="run train_generator first"):
        merge(tuned, tmp_path / "merged")
