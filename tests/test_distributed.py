"""Training in its own processes: killed and resumed, several as one, and one of them failing."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
from generator_run import (
    Make,
    as_file,
    assert_kill_changes_nothing,
    leak_a_test_document,
    prepare,
    start,
    start_process,
)

from rag_ft.errors import ConfigError
from rag_ft.llm.vllm_process import free_port
from rag_ft.run_dir import RunDir
from rag_ft.session import Session
from rag_ft.stages import train_generator
from rag_ft.storage import read_rows

TORCHRUN = (sys.executable, "-m", "torch.distributed.run")


@pytest.fixture
def prepared(make_run: Make) -> Make:
    return functools.partial(prepare, make_run)


def test_fewer_processes_than_asked_for_are_an_error_with_the_command_that_works(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from rag_ft.training.distributed import join_processes

    assert join_processes().count == 1
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(
        ConfigError, match=r"2 processes were asked for and 1 runs.*torchrun --nproc-per-node 2"
    ):
        join_processes()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_killed_training_ends_with_the_bytes_of_an_undisturbed_one(
    prepared: Make, tmp_path: Path, method: str
) -> None:
    settings = {
        "method": method,
        "epochs": 30,
        "evaluations": 10,
        "patience": 0,
        "learning_rate": 1e-3,
    }
    config, run_dir = prepared(settings=settings)
    config_file = as_file(config, run_dir, tmp_path / "kill.yaml")
    assert_kill_changes_nothing(config_file, run_dir, "checkpoint-*/complete")


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("launch", ["torchrun", "two machines", "make and accelerate"])
def test_two_processes_train_as_one(prepared: Make, tmp_path: Path, launch: str) -> None:
    config, run_dir = prepared(
        settings={"device_batch_size": 1, "evaluations": 1}, train_retriever__enabled=False
    )
    counts = train_generator.run(Session(config, run_dir))
    assert counts["num_dev_examples"] % 2  # so that one process is given a row twice
    one, one_dev = _losses(run_dir), counts["dev_loss_best"]
    run_dir.training_log("train_generator").unlink()
    config_file = as_file(config, run_dir, tmp_path / "two.yaml")
    started = {"torchrun": _torchrun, "two machines": _machines, "make and accelerate": _make}[
        launch
    ](config_file)
    assert [process.wait(800) for process in started] == [0] * len(started), (
        config_file.with_suffix(".log").read_text()
    )
    two = _losses(run_dir)
    assert [step for step, _ in one] == [step for step, _ in two]
    assert [loss for _, loss in one] == pytest.approx([loss for _, loss in two], abs=2e-3)
    counts = json.loads(run_dir.done("train_generator").read_text())["counts"]
    assert counts["num_processes"] == 2 and counts["dev_loss_best"] == pytest.approx(
        one_dev, abs=2e-3
    )
    assert not run_dir.checkpoints("train_generator").exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_failing_process_ends_all_machines_with_its_message(
    prepared: Make, tmp_path: Path
) -> None:
    config, run_dir = prepared()
    leak_a_test_document(run_dir)
    config_file = as_file(config, run_dir, tmp_path / "fails.yaml")
    started = _machines(config_file)
    workers = [
        child
        for process in started
        for child in psutil.Process(process.pid).children(recursive=True)
    ]
    assert all(process.wait(300) != 0 for process in started)
    said = config_file.with_suffix(".log").read_text()
    assert said.count("rag-ft: error:") == 1 and "leak" in said
    assert not psutil.wait_procs(workers, timeout=30)[1] and not run_dir.generator.exists()


def _torchrun(config_file: Path) -> list[subprocess.Popen[bytes]]:
    launcher = (*TORCHRUN, "--nproc-per-node", "2", "--master-port", str(free_port()))
    return [start(config_file, "--force", launcher=launcher)]


def _machines(config_file: Path) -> list[subprocess.Popen[bytes]]:
    """The command of configs/multi_gpu.yaml for several machines, which here are one."""
    place = ("--master-addr", "127.0.0.1", "--master-port", str(free_port()))
    ranks = [
        ("--nnodes", "2", "--node-rank", rank, "--nproc-per-node", "1", *place)
        for rank in ("0", "1")
    ]
    return [start(config_file, "--force", launcher=(*TORCHRUN, *rank)) for rank in ranks]


def _make(config_file: Path) -> list[subprocess.Popen[bytes]]:
    """The README's command, with as many processes as there are cores here."""
    launch = "accelerate launch --config_file configs/accelerate/ddp.yaml --num_processes 2"
    launch += f" --main_process_port {free_port()}"
    words = [
        "make",
        "-o",
        "setup",
        "finetune",
        f"CONFIG={config_file}",
        f"LAUNCH={launch}",
        "ARGS=--force",
    ]
    return [start_process(words, config_file.with_suffix(".log"))]


def _losses(run_dir: RunDir) -> list[tuple[int, float]]:
    return [
        (row["step"], row["loss"])
        for row in read_rows(run_dir.training_log("train_generator"))
        if "loss" in row
    ]
