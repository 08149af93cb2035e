"""Training stages in two workers of Ray Train on a Ray cluster of three nodes on loopback."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest
from doubling import fail
from tiny_run import make_run

from rag_ft.cli import main
from rag_ft.config_engine import EngineAdvanced
from rag_ft.engine import ray_train
from rag_ft.errors import ConfigError, RagFtError
from rag_ft.run_dir import RunDir

pytestmark = [pytest.mark.ray, pytest.mark.timeout(900)]
LAUNCHER = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The configuration of a run that is ready to train."""
    config = make_run(tmp_path_factory.mktemp("tiny"))
    for stage in ("ingest", "index", "generate"):
        assert main([stage, str(config)]) == 0
    return config


def run_of(config: Path, name: str) -> RunDir:
    """A copy of the run."""
    shutil.copytree(config.parent / "run", config.parent / name)
    return RunDir(config.parent / name)


def train_launched(words: list[str]) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*LAUNCHER, "-m", "rag_ft", *words], env=environment, check=True, timeout=800)


def on_ray(cluster: Any) -> list[str]:
    settings = {"address": cluster.address, "train_workers": 2}
    return ["engine.kind=ray", *(f"engine.advanced.{key}={v}" for key, v in settings.items())]


def weights(folder: Path) -> list[bytes]:
    found = [path.read_bytes() for path in sorted(folder.glob("*.safetensors"))]
    assert found
    return found


def kill_a_worker(run_dir: RunDir, killed: list[int]) -> None:
    """Kills a worker when there is a checkpoint."""
    while not list(run_dir.checkpoints("train_generator").glob("checkpoint-*/complete")):
        time.sleep(0.002)
    for process in psutil.Process().children(recursive=True):
        if process.name().startswith("ray::RayTrainWo"):
            process.send_signal(signal.SIGKILL)
            killed.append(process.pid)
            return


def test_two_workers_train_the_retriever_of_two_launched_processes(
    cluster: Any, prepared: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    launched, trained = run_of(prepared, "launched"), run_of(prepared, "trained")
    words = ["train_retriever", str(prepared)]
    train_launched([*words, f"run.dir={launched.path}"])
    assert main([*words, f"run.dir={trained.path}", *on_ray(cluster)]) == 0
    assert weights(launched.retriever) == weights(trained.retriever)
    said = capsys.readouterr().err
    assert "round-0-contrastive: 100%|" in said and "[train_retriever] done in" in said
    # transformers warns of two checkpoints within a second, as a fast machine writes them here
    warnings = [line for line in said.splitlines() if "WARNING" in line]
    assert all("mtime may not be reliable" in line for line in warnings), warnings
    assert not trained.checkpoints("train_retriever").exists()


def test_a_killed_worker_changes_no_weight_of_the_generator(
    cluster: Any, prepared: Path, caplog: pytest.LogCaptureFixture
) -> None:
    launched, trained = run_of(prepared, "whole"), run_of(prepared, "killed")
    settings = ["train_retriever.enabled=false", "train_generator.advanced.max_steps=40"]
    settings.append("train_generator.advanced.evaluations=8")
    assert main(["train_retriever", str(prepared), f"run.dir={launched.path}", *settings]) == 0
    assert main(["train_retriever", str(prepared), f"run.dir={trained.path}", *settings]) == 0
    words = ["train_generator", str(prepared), *settings]
    train_launched([*words, f"run.dir={launched.path}"])
    killed: list[int] = []
    killer = threading.Thread(target=kill_a_worker, args=(trained, killed), daemon=True)
    killer.start()
    assert main([*words, f"run.dir={trained.path}", *on_ray(cluster)]) == 0
    assert killed and "is started again" in caplog.text
    assert weights(launched.generator) == weights(trained.generator)


def test_an_error_of_a_worker_ends_the_training(
    cluster: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = EngineAdvanced(address=cluster.address, train_workers=1)
    train = partial(ray_train.train_on_ray, checkpoints=tmp_path / "none", settings=settings)
    with pytest.raises(ConfigError, match="there is no such model"):
        train(partial(fail, ConfigError("there is no such model")), tmp_path)
    monkeypatch.setattr(ray_train, "MAX_TRIES", 1)
    with pytest.raises(RagFtError, match=r"a defect.*1 times without a new checkpoint"):
        train(partial(fail, ValueError("a defect")), tmp_path)
