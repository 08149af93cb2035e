"""Retriever and reranker, trained in one go, stopped and resumed, killed, or in several processes:
equal weights."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from reranker_run import with_reranker
from retriever_run import LSR_ALONE, MakeRun, documents, plant, prepare

from rag_ft.config import Config
from rag_ft.pipeline import run_stage
from rag_ft.run_dir import RunDir
from rag_ft.session import Session
from rag_ft.stage_table import NAMES
from rag_ft.stages import train_reranker, train_retriever
from rag_ft.storage import read_rows, write_text
from rag_ft.training.reranker import training as reranker_training
from rag_ft.training.retriever import rerank_choice, trainer

RETRIEVER, RERANKER = "train_retriever", "train_reranker"
STAGES: dict[str, Callable[[Session], Any]] = {
    RETRIEVER: train_retriever.run,
    RERANKER: train_reranker.run,
}
# Every reranker is kept, so that its weights can be compared.
RUN = """
import sys
from dataclasses import replace
from rag_ft import cli
from rag_ft.training.reranker import training
real = training.choose
def kept(*args):
    choice, milliseconds = real(*args)
    return replace(choice, weight=0.5, depth=5), milliseconds
training.choose = kept
sys.exit(cli.main(sys.argv[1:]))
"""
# On CPUs --multi_gpu makes accelerate start two processes (with --cpu it starts one); both take a
# free port.
LAUNCHERS = {
    "one": [],
    "torchrun": ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"],
    "accelerate": [
        *("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
        *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"),
        *("--main_process_port", "0"),
    ],
}
# Settings of a short training, and of one that is long enough to be killed.
SHORT: dict[str, dict[str, Any]] = {
    RETRIEVER: {"learning_rate": 5e-3},
    RERANKER: {"epochs": 3, "learning_rate": 1e-3},
}
LONG: dict[str, dict[str, Any]] = {
    RETRIEVER: {"epochs": 40, "learning_rate": 5e-3, "advanced__crossfit": "always"},
    RERANKER: {"epochs": 60, "learning_rate": 1e-3},
}


def weights(run_dir: RunDir, stage: str) -> dict[str, np.ndarray]:
    """Of the component that the stage has tuned."""
    from safetensors.numpy import load_file

    component = stage.removeprefix("train_")
    found: dict[str, np.ndarray] = load_file(run_dir.path / component / "model.safetensors")
    return found


def same(first: dict[str, np.ndarray], second: dict[str, np.ndarray]) -> bool:
    return all(np.array_equal(first[name], second[name]) for name in first)


def prepared(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, phase: str
) -> tuple[str, Config, RunDir]:
    """(stage, config, folder) of a run that is ready to train in this phase."""
    if phase == "reranker":
        config, run_dir = prepare(make_run, enabled=False)
        train_retriever.run(Session(config, run_dir))
        kept = rerank_choice.RerankChoice(weight=0.5, depth=5)
        monkeypatch.setattr(reranker_training, "choose_reranking", lambda *_: kept)
        return RERANKER, with_reranker(config, epochs=2), run_dir
    settings = {"epochs": 4} if phase == "contrastive" else {**LSR_ALONE, "lsr_steps": 8}
    config, run_dir = prepare(make_run, **settings)
    plant(run_dir, monkeypatch)
    return RETRIEVER, config, run_dir


def steps_of(run_dir: RunDir, stage: str) -> list[int]:
    return [row["step"] for row in read_rows(run_dir.training_log(stage)) if "step" in row]


@pytest.mark.slow
def test_two_runs_give_the_same_weights(make_run: MakeRun) -> None:
    config, run_dir = prepare(make_run)
    train_retriever.run(Session(config, run_dir))
    first = weights(run_dir, RETRIEVER)
    train_retriever.run(Session(config, run_dir))
    assert same(first, weights(run_dir, RETRIEVER))


@pytest.mark.parametrize(
    "phase",
    [
        pytest.param("contrastive", marks=pytest.mark.slow),
        pytest.param("lsr", marks=pytest.mark.slow),
        pytest.param("reranker", marks=pytest.mark.slow),
    ],
)
def test_an_interrupted_training_goes_on_at_its_last_checkpoint_to_the_same_weights(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    stage, config, run_dir = prepared(make_run, monkeypatch, phase)
    STAGES[stage](Session(config, run_dir))
    wanted, steps = weights(run_dir, stage), steps_of(run_dir, stage)

    def stop(self: Any, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step > steps[-1] // 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trainer.ProgressBar, "on_step_end", stop)
        with pytest.raises(KeyboardInterrupt):
            STAGES[stage](Session(config, run_dir))
    assert list(run_dir.checkpoints(stage).glob("*/checkpoint-*/complete"))
    STAGES[stage](Session(config, run_dir))
    assert same(wanted, weights(run_dir, stage))
    assert steps_of(run_dir, stage) == steps


def imported_run(
    make_run: MakeRun, place: Path, encoder: Path, stage: str, **settings: Any
) -> tuple[Path, RunDir]:
    """(configuration file, folder) of a run that is ready for a stage, whose settings the keys
    are."""
    questions = place.with_name("questions.jsonl")
    rows = [
        {"question": f"what is in box {n}", "answers": [str(n * 37)], "document_id": f"d{n}"}
        for n in range(24)
    ]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    # The reranker's settings are all advanced.
    part = "" if stage == RETRIEVER else "advanced__"
    config, run_dir = make_run(
        documents(),
        run__dir=place,
        encoder__model=str(encoder),
        retrieval__context="none",
        generate__questions=[str(questions)],
        generate__pairs_per_chunk=0,
        train_retriever__advanced__gate=False,
        train_retriever__enabled=stage == RETRIEVER,
        reranker__model="auto" if stage == RERANKER else None,
        **{f"{stage}__{part}{key}": value for key, value in {"batch_size": 4, **settings}.items()},
    )
    sections = config.model_dump(mode="json")
    sections.pop("name")
    path = place.with_suffix(".yaml")
    write_text(path, yaml.safe_dump(sections))
    for name in NAMES[: NAMES.index(stage)]:
        run_stage(name, config)
    return path, run_dir


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("stage", "sign"),
    [
        (RETRIEVER, "round-0-contrastive/checkpoint-*/complete"),
        (RETRIEVER, "round-0-contrastive/encoder.safetensors"),
        (RERANKER, "train_reranker/checkpoint-*/complete"),
    ],
)
def test_a_killed_run_ends_with_the_weights_of_an_undisturbed_one(
    make_run: MakeRun, tiny_encoder_dir: Path, tmp_path: Path, stage: str, sign: str
) -> None:
    (tmp_path / "run.py").write_text(RUN)
    command = [sys.executable, str(tmp_path / "run.py"), stage]
    path, run_dir = imported_run(
        make_run, tmp_path / "whole", tiny_encoder_dir, stage, **LONG[stage]
    )
    subprocess.run([*command, str(path)], check=True, timeout=400)
    wanted = weights(run_dir, stage)

    path, run_dir = imported_run(
        make_run, tmp_path / "killed", tiny_encoder_dir, stage, **LONG[stage]
    )
    folder = run_dir.checkpoints(stage)
    process = subprocess.Popen([*command, str(path)], start_new_session=True)
    until = time.monotonic() + 300
    while not list(folder.glob(sign)) and process.poll() is None and time.monotonic() < until:
        time.sleep(0.002)
    assert process.poll() is None, "the run ended before it could be killed"
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and not run_dir.done(stage).exists()
    subprocess.run([*command, str(path)], check=True, timeout=400)
    assert same(wanted, weights(run_dir, stage))
    assert not folder.exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("stage", [RETRIEVER, RERANKER])
def test_two_processes_train_what_one_trains(
    make_run: MakeRun, tiny_encoder_dir: Path, tmp_path: Path, stage: str
) -> None:
    """Two CPU processes (gloo) share each batch; without dropout, which each process draws anew."""
    from safetensors.numpy import load_file

    encoder = shutil.copytree(tiny_encoder_dir, tmp_path / "still-encoder")
    shape = json.loads((encoder / "config.json").read_text())
    shape |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (encoder / "config.json").write_text(json.dumps(shape))
    script = tmp_path / "run.py"
    script.write_text(RUN)
    trained = []
    for name, launcher in LAUNCHERS.items():
        path, run_dir = imported_run(make_run, tmp_path / name, encoder, stage, **SHORT[stage])
        command = [sys.executable, *launcher, str(script), stage, str(path)]
        subprocess.run(command, check=True, timeout=800, env={**os.environ, "OMP_NUM_THREADS": "1"})
        assert json.loads(run_dir.done(stage).read_text())["counts"]["shipped"] == 1
        trained.append(weights(run_dir, stage))
    base = load_file(encoder / "model.safetensors")
    inside = "" if stage == RETRIEVER else "bert."
    assert max(np.abs(trained[0][f"{inside}{name}"] - base[name]).max() for name in base) > 1e-3
    # Adam makes a step of every gradient, however small: rounding shows in single weights. The bias
    # of the reranker's head moves all scores alike, so it gets no gradient but rounding.
    nearly = 1e-5 if stage == RETRIEVER else 1e-4
    for launched in trained[1:]:
        for name, one in trained[0].items():
            if name != "classifier.bias":
                np.testing.assert_allclose(launched[name], one, atol=nearly)
