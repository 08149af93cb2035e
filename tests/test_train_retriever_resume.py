"""The training of the retriever, stopped and resumed or in several processes: equal weights."""

from __future__ import annotations

import functools
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
from retriever_run import LSR_ALONE, MakeRun, documents, plant, prepare

from rag_ft.session import Session
from rag_ft.stages import train_retriever
from rag_ft.storage import read_rows, write_text
from rag_ft.training.retriever import trainer

RUN = """
import sys
from pathlib import Path
from rag_ft.config_loader import load_config
from rag_ft.session import Session
from rag_ft.stages import train_retriever
train_retriever.run(Session.of(load_config(Path(sys.argv[1]))))
"""
# On CPUs --multi_gpu makes accelerate start two processes (with --cpu it starts one); both take a
# free port.
LAUNCHERS = {
    "one": [],
    "torchrun": ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"],
    "accelerate": [
        *("accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
        *("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"),
        *("--main_process_port", "0", "-m"),
    ],
}


@pytest.fixture
def prepared(make_run: MakeRun) -> MakeRun:
    """prepared(key=value, ...) -> a run that is ready for the stage; keys are train_retriever's."""
    return functools.partial(prepare, make_run)


def test_two_runs_give_the_same_weights(prepared: MakeRun) -> None:
    from safetensors.numpy import load_file

    config, run_dir = prepared()
    train_retriever.run(Session(config, run_dir))
    first = load_file(run_dir.retriever / "model.safetensors")
    train_retriever.run(Session(config, run_dir))
    second = load_file(run_dir.retriever / "model.safetensors")
    assert all(np.array_equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("phase", ["contrastive", "lsr"])
def test_an_interrupted_training_goes_on_at_its_last_checkpoint_to_the_same_weights(
    prepared: MakeRun, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    from safetensors.numpy import load_file

    settings = {"epochs": 4} if phase == "contrastive" else {**LSR_ALONE, "lsr_steps": 8}
    config, run_dir = prepared(**settings)
    plant(run_dir, monkeypatch)
    train_retriever.run(Session(config, run_dir))
    wanted = load_file(run_dir.retriever / "model.safetensors")
    steps = [
        row["step"] for row in read_rows(run_dir.training_log("train_retriever")) if "step" in row
    ]

    def stop(self: Any, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step > steps[-1] // 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(trainer.ProgressBar, "on_step_end", stop)
        with pytest.raises(KeyboardInterrupt):
            train_retriever.run(Session(config, run_dir))
    assert list(
        (run_dir.checkpoints("train_retriever") / f"round-0-{phase}").glob("checkpoint-*/complete")
    )
    train_retriever.run(Session(config, run_dir))
    found = load_file(run_dir.retriever / "model.safetensors")
    assert all(np.array_equal(wanted[name], found[name]) for name in wanted)
    assert [
        row["step"] for row in read_rows(run_dir.training_log("train_retriever")) if "step" in row
    ] == steps


@pytest.mark.slow
@pytest.mark.parametrize("when", ["training", "after"])
def test_a_killed_run_ends_with_the_weights_of_an_undisturbed_one(
    prepared: MakeRun, tmp_path: Path, when: str
) -> None:
    from safetensors.numpy import load_file

    config, run_dir = prepared(epochs=6, crossfit="always")
    train_retriever.run(Session(config, run_dir))
    wanted = load_file(run_dir.retriever / "model.safetensors")
    values = {
        name: section for name, section in config.model_dump(mode="json").items() if name != "name"
    }
    write_text(tmp_path / "test.yaml", yaml.safe_dump(values))
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(tmp_path / "test.yaml")], stderr=subprocess.DEVNULL
    )
    folder = run_dir.checkpoints("train_retriever") / "round-0-contrastive"
    sign = "checkpoint-*/complete" if when == "training" else "encoder.safetensors"
    deadline = time.monotonic() + 120
    while not list(folder.glob(sign)) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    assert list(folder.glob(sign)), "the run was not far enough to be killed"
    os.kill(process.pid, signal.SIGKILL) if process.poll() is None else None
    process.wait()
    train_retriever.run(Session(config, run_dir))
    found = load_file(run_dir.retriever / "model.safetensors")
    assert all(np.array_equal(wanted[name], found[name]) for name in wanted)
    assert not run_dir.checkpoints("train_retriever").exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_train_what_one_trains(
    make_run: MakeRun, tiny_encoder_dir: Path, tmp_path: Path
) -> None:
    """Two CPU processes (gloo) share each batch; without dropout, which each process draws anew."""
    from safetensors.numpy import load_file

    from rag_ft.pipeline import run_stage

    encoder = shutil.copytree(tiny_encoder_dir, tmp_path / "still-encoder")
    settings = json.loads((encoder / "config.json").read_text())
    settings |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (encoder / "config.json").write_text(json.dumps(settings))
    rows = [
        {"question": f"what is in box {n}", "answers": [str(n * 37)], "document_id": f"d{n}"}
        for n in range(24)
    ]
    questions = tmp_path / "questions.jsonl"
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    trained = []
    for name, launcher in LAUNCHERS.items():
        config, run_dir = make_run(
            documents(),
            run__dir=tmp_path / name,
            encoder__model=str(encoder),
            retrieval__context="none",
            generate__questions=[str(questions)],
            generate__pairs_per_chunk=0,
            train_retriever__advanced__gate=False,
            train_retriever__batch_size=4,
            train_retriever__learning_rate=5e-3,
        )
        values = {
            section: v for section, v in config.model_dump(mode="json").items() if section != "name"
        }
        path = tmp_path / f"{name}.yaml"
        write_text(path, yaml.safe_dump(values))
        for stage in ("ingest", "index", "generate"):
            run_stage(stage, config)
        command = [sys.executable, "-m", *launcher, "rag_ft", "train_retriever", str(path)]
        subprocess.run(command, check=True, timeout=800, env={**os.environ, "OMP_NUM_THREADS": "1"})
        assert json.loads(run_dir.done("train_retriever").read_text())["counts"]["shipped"] == 1
        trained.append(load_file(run_dir.retriever / "model.safetensors"))
    base = load_file(encoder / "model.safetensors")
    assert any(np.abs(trained[0][name] - base[name]).max() > 1e-3 for name in base)
    for launched in trained[1:]:
        for name, weights in trained[0].items():
            np.testing.assert_allclose(launched[name], weights, atol=1e-5)
