"""One stage at a time in a run folder, whoever starts it and however it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from rag_ft import pipeline
from rag_ft.cli import main
from rag_ft.config import Config
from rag_ft.config_loader import make_config
from rag_ft.errors import RagFtError
from rag_ft.lock import locked
from rag_ft.run_dir import RunDir

HOLD = (
    "import sys, time; from pathlib import Path\n"
    "from rag_ft.lock import locked; from rag_ft.run_dir import RunDir\n"
    "with locked(RunDir(Path(sys.argv[1])), 'index'): print('held', flush=True); time.sleep(120)"
)


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the lock of tmp_path / "run"."""
    words = [sys.executable, "-c", HOLD, str(tmp_path / "run")]
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_process_gets_one_line_that_names_the_first(
    tmp_path: Path, holder: subprocess.Popen[str], capsys: pytest.CaptureFixture[str]
) -> None:
    documents = tmp_path / "a.md"
    documents.write_text("one", encoding="utf-8")
    config = tmp_path / "run.yaml"
    config.write_text(
        yaml.safe_dump(
            {"run": {"dir": str(tmp_path / "run")}, "ingest": {"sources": [str(documents)]}}
        )
    )
    assert main(["ingest", str(config)]) == 1
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert (
        f"(pid {holder.pid} on {socket.gethostname()}, index) is working in {tmp_path / 'run'}"
        in error
    )
    assert main(["status", str(config)]) == 0  # readers need no lock
    assert not RunDir(tmp_path / "run").started("ingest").exists()


def test_a_killed_process_leaves_no_lock(tmp_path: Path, holder: subprocess.Popen[str]) -> None:
    run_dir = RunDir(tmp_path / "run")
    with pytest.raises(RagFtError), locked(run_dir, "ingest"):
        pass
    os.kill(holder.pid, signal.SIGKILL)
    holder.wait()
    with locked(run_dir, "ingest"):
        pass


def test_the_lock_is_free_again_after_an_error(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path / "run")
    for _ in range(2):
        with pytest.raises(ZeroDivisionError), locked(run_dir, "ingest"):
            raise ZeroDivisionError


def test_the_lock_follows_no_link(tmp_path: Path) -> None:
    run_dir, victim = RunDir(tmp_path / "run"), tmp_path / "victim"
    victim.write_text("mine")
    run_dir.path.mkdir()
    run_dir.lock.symlink_to(victim)
    with pytest.raises(RagFtError), locked(run_dir, "ingest"):
        pass
    assert victim.read_text() == "mine"


def test_launched_processes_do_not_wait_for_the_lock_of_the_first(
    tmp_path: Path, holder: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ran: list[str] = []
    monkeypatch.setattr("rag_ft.stages.ingest.run", lambda *_: ran.append("ingest") or {})
    config = make_config({"run": {"dir": tmp_path / "run"}})
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    pipeline.run_stage("ingest", config)
    assert ran == ["ingest"]


def test_of_two_commands_on_one_folder_one_works_and_the_files_are_those_of_one_run(
    tmp_path: Path, make_run: Callable[..., tuple[Config, RunDir]]
) -> None:
    alone, together = _start_pair(tmp_path, make_run, 0.0)
    assert alone == together


@pytest.mark.slow
@pytest.mark.parametrize("apart", [number / 10 for number in range(20)])
def test_commands_started_some_time_apart_leave_the_files_of_one_run(
    tmp_path: Path, make_run: Callable[..., tuple[Config, RunDir]], apart: float
) -> None:
    alone, together = _start_pair(tmp_path, make_run, apart)
    assert alone == together


def _start_pair(
    tmp_path: Path, make_run: Callable[..., tuple[Config, RunDir]], apart: float
) -> tuple[dict[str, bytes], dict[str, bytes]]:
    """The files of one `ingest` alone, and of two that were started `apart` seconds apart."""
    documents: list[dict[str, Any]] = [
        {"id": f"d{n}", "text": f"Text {n}. " * 20} for n in range(300)
    ]
    config, run_dir = make_run(documents)
    path = tmp_path / "run.yaml"
    values = config.model_dump(mode="json")
    values.pop("name")
    path.write_text(yaml.safe_dump(values))
    words = [sys.executable, "-m", "rag_ft", "ingest", str(path)]
    first = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    time.sleep(apart)
    second = subprocess.Popen(words, stderr=subprocess.PIPE, text=True)
    said = [process.communicate()[1] for process in (first, second)]
    codes = [first.returncode, second.returncode]
    # The later one is refused, or comes when all is done.
    assert 0 in codes and set(codes) <= {0, 1}
    for code, text in zip(codes, said, strict=True):
        assert "Traceback" not in text
        assert code == 0 or "another rag-ft process" in text.strip().splitlines()[-1]
    together = _files(run_dir)
    alone = make_config({**values, "run": {**values["run"], "dir": tmp_path / "alone"}})
    pipeline.run_stage("ingest", alone)
    return _files(RunDir(alone.run_path)), together


def _files(run_dir: RunDir) -> dict[str, bytes]:
    assert not list(run_dir.path.rglob("*.tmp"))
    return {path.name: path.read_bytes() for path in run_dir.writes("ingest", "result")}
