"""The training of the reranker, stopped and resumed or in several processes: equal weights."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from reranker_run import with_reranker
from retriever_run import MakeRun, documents, prepare

from rag_ft.run_dir import RunDir
from rag_ft.session import Session
from rag_ft.stages import train_reranker, train_retriever
from rag_ft.storage import write_text
from rag_ft.training.reranker import training as reranker_training
from rag_ft.training.retriever import rerank_choice, trainer

# Every reranker is kept, so that its weights can be compared.
RUN = """
import sys
from dataclasses import replace
from pathlib import Path
from rag_ft import cli
from rag_ft.training.reranker import training
real = training.choose
def kept(*args):
    choice, milliseconds = real(*args)
    return replace(choice, weight=0.5, depth=5), milliseconds
training.choose = kept
sys.exit(cli.main(sys.argv[1:]))
"""
LAUNCHERS = {
    "one": [],
    "torchrun": ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"],
    "accelerate": [
        *("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
        *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"),
        *("--main_process_port", "0"),
    ],
}


def keep_every_reranker(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        reranker_training,
        "choose_reranking",
        lambda *_: rerank_choice.RerankChoice(weight=0.5, depth=5),
    )


def weights(run_dir: RunDir) -> dict[str, Any]:
    from safetensors.numpy import load_file

    return load_file(run_dir.reranker / "model.safetensors")


def test_an_interrupted_training_goes_on_at_its_last_checkpoint_to_the_same_weights(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run_dir = prepare(make_run, enabled=False)
    train_retriever.run(Session(config, run_dir))
    config = with_reranker(config, epochs=2)
    keep_every_reranker(monkeypatch)
    num_steps = int(train_reranker.run(Session(config, run_dir))["num_steps"])
    wanted = weights(run_dir)

    def stop(self: Any, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step > num_steps // 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trainer.ProgressBar, "on_step_end", stop)
        with pytest.raises(KeyboardInterrupt):
            train_reranker.run(Session(config, run_dir))
    folder = run_dir.checkpoints("train_reranker") / "train_reranker"
    assert list(folder.glob("checkpoint-*/complete"))
    assert train_reranker.run(Session(config, run_dir))["num_steps"] == num_steps
    found = weights(run_dir)
    assert all(np.array_equal(wanted[name], found[name]) for name in wanted)


def imported_run(
    make_run: MakeRun, tmp_path: Path, name: str, encoder: Path, **settings: Any
) -> tuple[Path, RunDir]:
    """(configuration file, folder) of a run that is ready for train_reranker."""
    from rag_ft.pipeline import run_stage

    questions = tmp_path / "questions.jsonl"
    rows = [
        {"question": f"what is in box {n}", "answers": [str(n * 37)], "document_id": f"d{n}"}
        for n in range(24)
    ]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config, run_dir = make_run(
        documents(),
        run__dir=tmp_path / name,
        encoder__model=str(encoder),
        retrieval__context="none",
        generate__questions=[str(questions)],
        generate__pairs_per_chunk=0,
        train_retriever__enabled=False,
        reranker__model="auto",
        **{f"train_reranker__advanced__{key}": value for key, value in settings.items()},
    )
    sections = config.model_dump(mode="json")
    sections.pop("name")
    path = tmp_path / f"{name}.yaml"
    write_text(path, yaml.safe_dump(sections))
    for stage in ("ingest", "index", "generate", "train_retriever"):
        run_stage(stage, config)
    return path, run_dir


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_run_ends_with_the_weights_of_an_undisturbed_one(
    make_run: MakeRun, tiny_encoder_dir: Path, tmp_path: Path
) -> None:
    (tmp_path / "run.py").write_text(RUN)
    command = [sys.executable, str(tmp_path / "run.py"), "train_reranker"]
    settings = {"epochs": 60, "batch_size": 4, "learning_rate": 1e-3}
    path, run_dir = imported_run(make_run, tmp_path, "whole", tiny_encoder_dir, **settings)
    subprocess.run([*command, str(path)], check=True, timeout=400)
    wanted = weights(run_dir)

    path, run_dir = imported_run(make_run, tmp_path, "killed", tiny_encoder_dir, **settings)
    folder = run_dir.checkpoints("train_reranker") / "train_reranker"
    process = subprocess.Popen([*command, str(path)], start_new_session=True)
    until = time.monotonic() + 300
    while not list(folder.glob("checkpoint-*/complete")) and time.monotonic() < until:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL and not run_dir.reranker.exists()
    subprocess.run([*command, str(path)], check=True, timeout=400)
    found = weights(run_dir)
    assert all(np.array_equal(wanted[name], found[name]) for name in wanted)
    assert not run_dir.checkpoints("train_reranker").exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_train_what_one_trains(
    make_run: MakeRun, tiny_encoder_dir: Path, tmp_path: Path
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
        path, run_dir = imported_run(
            make_run, tmp_path, name, encoder, epochs=3, batch_size=4, learning_rate=1e-3
        )
        command = [sys.executable, *launcher, str(script), "train_reranker", str(path)]
        subprocess.run(command, check=True, timeout=800, env={**os.environ, "OMP_NUM_THREADS": "1"})
        assert json.loads(run_dir.done("train_reranker").read_text())["counts"]["shipped"] == 1
        trained.append(weights(run_dir))
    base = load_file(encoder / "model.safetensors")
    moved = [np.abs(trained[0][f"bert.{name}"] - base[name]).max() for name in base]
    assert max(moved) > 1e-3
    # Adam makes a step of every gradient, however small: rounding shows in single weights.
    # The bias of the head moves all scores alike, so it gets no gradient but rounding.
    for launched in trained[1:]:
        for name, one in trained[0].items():
            if name == "classifier.bias":
                continue
            np.testing.assert_allclose(launched[name], one, atol=1e-4)
