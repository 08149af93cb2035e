"""The schedule of a training, its precision, packed rows, and which weights are kept."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from generator_run import ROOT, Make, prepare

from rag_ft.session import Session
from rag_ft.stages import train_generator
from rag_ft.storage import read_rows
from rag_ft.training.generator.completion_trainer import (
    CompletionTrainer,
)
from rag_ft.training.generator.dataset import build_training_set, read_training_set
from rag_ft.training.generator.lora import FLASH, load_base
from rag_ft.training.generator.tokenization import load_chat_tokens
from rag_ft.training.generator.trainer import Schedule, arguments, plan_schedule


@pytest.fixture
def prepared(make_run: Make) -> Make:
    return functools.partial(prepare, make_run)


def test_there_are_no_more_evaluations_than_asked_for(prepared: Make, tmp_path: Path) -> None:
    config, run_dir = prepared(settings={"max_steps": 18, "evaluations": 12})
    build_training_set(
        Session(config, run_dir),
        load_chat_tokens(config.llm.required_model).encode,
        tmp_path / "set",
    )
    schedule = plan_schedule(
        config.train_generator,
        config.llm.dtype,
        load_base(config.llm, config.train_generator),
        read_training_set(tmp_path / "set").train,
        1,
    )
    assert (schedule.num_steps, schedule.evaluate_every) == (18, 2)


def test_a_pass_grows_with_the_threads_that_the_training_has(
    prepared: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run_dir = prepared(settings={"batch_size": 8})
    encode = load_chat_tokens(config.llm.required_model).encode
    build_training_set(Session(config, run_dir), encode, tmp_path / "set")
    examples = read_training_set(tmp_path / "set").train
    longest = max(len(example.encoded.input_ids) for example in examples)
    monkeypatch.setattr("rag_ft.training.memory_estimate.CPU_PASS_TOKENS", longest)
    model, sizes = load_base(config.llm, config.train_generator), []
    for threads in (1, 2):
        # Not the machine's number: a training that continues keeps the one it began with.
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        schedule = plan_schedule(config.train_generator, config.llm.dtype, model, examples, 1)
        sizes.append(schedule.device_batch_size)
    assert sizes == [1, 2]


def test_the_loss_of_a_step_is_the_mean_over_its_answer_tokens_however_it_is_split(
    prepared: Make,
) -> None:
    first = {}
    for device_batch in (1, 4):
        config, run_dir = prepared(settings={"device_batch_size": device_batch, "max_steps": 1})
        train_generator.run(Session(config, run_dir))
        first[device_batch] = next(read_rows(run_dir.training_log("train_generator")))["loss"]
    assert first[1] == pytest.approx(first[4], abs=2e-4)


@pytest.mark.slow
def test_packed_rows_are_trained_on_and_evaluated_as_others(
    prepared: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def losses() -> list[float]:
        train_generator.run(Session(config, run_dir))
        return [
            row["eval_loss"]
            for row in read_rows(run_dir.training_log("train_generator"))
            if "eval_loss" in row
        ]

    config, run_dir = prepared(settings={"max_steps": 2, "evaluations": 2, "learning_rate": 1e-7})
    padded = losses()
    monkeypatch.setattr("rag_ft.training.generator.trainer.attention", lambda *_: FLASH)
    assert losses() == pytest.approx(padded, rel=1e-4)


def test_a_packed_step_is_the_same_however_many_rows_a_pass_holds(
    prepared: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rag_ft.training.generator import trainer as sft

    monkeypatch.setattr(sft, "attention", lambda *_: FLASH)
    monkeypatch.setattr("rag_ft.training.memory_estimate.CPU_PASS_TOKENS", 100_000)
    planned, first = {}, {}
    plan = sft.plan_schedule

    def planning(*args: Any) -> Any:
        planned[device_batch] = plan(*args)
        return planned[device_batch]

    monkeypatch.setattr(sft, "plan_schedule", planning)
    for device_batch in (1, 0):
        settings = {
            "batch_size": 8,
            "device_batch_size": device_batch,
            "max_tokens": 512,
            "max_steps": 2,
        }
        config, run_dir = prepared(settings=settings)
        train_generator.run(Session(config, run_dir))
        first[device_batch] = next(read_rows(run_dir.training_log("train_generator")))["loss"]
    one, several = planned[1], planned[0]
    assert one.packed and one.device_batch_size == 1 and several.device_batch_size > 1
    assert one.accumulation == several.device_batch_size * several.accumulation
    assert first[1] == pytest.approx(first[0], rel=1e-3)


def test_the_precision_is_what_the_configuration_says_whatever_the_launcher_says(
    prepared: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config, _ = prepared(run__dtype="float32")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    settings, schedule = config.train_generator, Schedule(1, 1, 1.0, 1, 1, False)
    made = arguments(settings, config.llm.dtype, 0, schedule, None, tmp_path)
    assert (made.bf16, made.mixed_precision) == (False, "no")
    files = list((ROOT / "configs" / "accelerate").glob("*.yaml"))
    assert len(files) == 3 and {
        yaml.safe_load(file.read_text())["mixed_precision"] for file in files
    } == {"no"}


def test_the_best_weights_by_dev_f1_are_kept_and_its_time_is_told(
    prepared: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.torch import load_file

    from rag_ft.training.generator import trainer as sft

    settings = {
        "max_steps": 6,
        "evaluations": 6,
        "select_by": "f1",
        "patience": 2,
        "learning_rate": 1e-3,
    }
    config, run_dir = prepared(settings=settings)
    seen: list[Any] = []

    def scripted(model: Any, *_: Any) -> float:
        seen.append({n: p.detach().clone() for n, p in model.named_parameters() if "lora_B" in n})
        return [0.2, 0.9, 0.5, 0.9][len(seen) - 1]

    monkeypatch.setattr(sft, "mean_f1", scripted)
    counts = train_generator.run(Session(config, run_dir))
    assert (counts["dev_f1_first"], counts["dev_f1_best"], counts["num_steps"]) == (0.2, 0.9, 4)
    assert 0 <= counts["dev_f1_time_share"] < 1
    kept = load_file(run_dir.generator / "adapter_model.safetensors")
    name = next(n for n in seen[0] if "layers.1" in n)
    saved = kept[name.replace(".default", "")]
    assert [bool((saved == weights[name]).all()) for weights in seen] == [False, True, False, False]


@pytest.mark.parametrize(
    ("patience", "steps"), [pytest.param(2, 4, marks=pytest.mark.slow), (0, 5)]
)
@pytest.mark.parametrize(
    "kill", [pytest.param("before the last step", marks=pytest.mark.slow), "after it"]
)
def test_a_killed_training_stops_where_an_undisturbed_one_does(
    prepared: Make, monkeypatch: pytest.MonkeyPatch, patience: int, steps: int, kill: str
) -> None:
    from rag_ft.training.generator import trainer as sft

    settings = {
        "max_steps": 5,
        "epochs": 3,
        "evaluations": 5,
        "select_by": "f1",
        "patience": patience,
    }
    config, run_dir = prepared(settings=settings)
    scores: list[float] = []
    monkeypatch.setattr(
        sft,
        "mean_f1",
        lambda *_: scores.append(0) or [0.2, 0.9, 0.5, 0.5, 0.5, 1.0][len(scores) - 1],
    )
    assert train_generator.run(Session(config, run_dir))["num_steps"] == steps
    weights = (run_dir.generator / "adapter_model.safetensors").read_bytes()
    log = list(read_rows(run_dir.training_log("train_generator")))
    scores.clear()
    with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        if kill == "after it":
            patch.setattr(train_generator, "write_generator", interrupt)
        else:
            patch.setattr(CompletionTrainer, "training_step", interrupt_at(steps - 1))
        train_generator.run(Session(config, run_dir))
    assert train_generator.run(Session(config, run_dir))["num_steps"] == steps
    assert (run_dir.generator / "adapter_model.safetensors").read_bytes() == weights
    assert list(read_rows(run_dir.training_log("train_generator"))) == log


def interrupt(*_: Any) -> None:
    raise InterruptedError


def interrupt_at(step: int) -> Callable[..., Any]:
    training_step = CompletionTrainer.training_step

    def stepping(trainer: CompletionTrainer, *args: Any, **rest: Any) -> Any:
        if trainer.state.global_step == step:
            raise InterruptedError
        return training_step(trainer, *args, **rest)

    return stepping
