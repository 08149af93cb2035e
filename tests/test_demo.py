"""`rag-ft demo`: its files, and what is said where it cannot run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rag_ft.cli import main
from rag_ft.commands import demo
from rag_ft.config_loader import load_config
from rag_ft.errors import ConfigError

ROOT = Path(__file__).parent.parent


def files_under(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_the_demo_is_copied_whole_and_its_configuration_fits_the_folder(tmp_path: Path) -> None:
    config = demo.copy_demo(tmp_path / "demo")
    copied = files_under(tmp_path / "demo")
    for part in ("data/handbook", "data/models/demo-lm"):
        for name, content in files_under(ROOT / part).items():
            assert copied.pop(f"{part}/{name}") == content
    assert set(copied) == {"configs/demo.yaml", "data/handbook_splits.jsonl"}
    settings = load_config(tmp_path / "demo" / config)
    assert settings.ingest.advanced.splits == Path("data/handbook_splits.jsonl")
    named = [*settings.ingest.sources, Path(settings.llm.required_model)]
    assert all((tmp_path / "demo" / str(path)).is_dir() for path in named)


def test_files_of_the_user_are_left_alone(tmp_path: Path) -> None:
    mine = tmp_path / "data" / "handbook" / "README.md"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    demo.copy_demo(tmp_path)
    assert mine.read_text() == "mine"
    with pytest.raises(ConfigError, match="is a file: name a folder"):
        demo.copy_demo(mine)


def test_missing_packages_and_missing_files_are_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "NEEDED", ("faiss", "no_such_encoder"))
    assert main(["demo", str(tmp_path / "demo")]) == 1
    assert "needs no_such_encoder: pip install 'rag-ft[cpu,demo]'" in capsys.readouterr().err
    monkeypatch.setattr(demo, "PACKAGE", tmp_path / "elsewhere")
    assert main(["demo", str(tmp_path / "demo")]) == 1
    assert "holds no demo" in capsys.readouterr().err


def test_settings_need_no_folder_before_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "NEEDED", ("no_such_encoder",))
    monkeypatch.chdir(tmp_path)
    assert main(["demo", "run.seed=1", "run.dtype=float32"]) == 1
    assert "are in rag-ft-demo" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["rag-ft-demo"]


def test_ctrl_c_ends_the_run_that_the_demo_has_started_with_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rag_ft", "demo", str(tmp_path / "demo")]
    with subprocess.Popen(
        command, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stderr
        said = ""
        while "[ingest]" not in said:
            said = process.stderr.readline()
        os.killpg(process.pid, signal.SIGINT)
        rest = process.stderr.read()
    assert process.returncode == 130 and rest.count("interrupted") == 1


def test_one_version_stands_everywhere() -> None:
    from rag_ft.version import __version__

    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"\nversion: {__version__}\n" in citation
    assert f"\n## {__version__}\n" in changes
