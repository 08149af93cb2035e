"""Supervised fine-tuning of the generator: TRL's trainer with the loss on answers alone and little padding."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.nn import functional
from transformers import (
    AutoConfig,
    EarlyStoppingCallback,
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
)
from trl import SFTConfig

from rag_ft.config import Config
from rag_ft.errors import ConfigError, DataError
from rag_ft.hardware import choose_dtype, total_memory_gb
from rag_ft.model_hub import resolve
from rag_ft.storage import write_text
from rag_ft.training.distributed import Processes
from rag_ft.training.generator.completion_trainer import (
    FINISHED,
    WIDTH_STEP,
    AnswerTrainer,
    MarkComplete,
    Progress,
)
from rag_ft.training.generator.context_layouts import Example, longest_answer, num_arrangements
from rag_ft.training.generator.dev_f1 import Question, mean_f1
from rag_ft.training.generator.lora import adapter_config, can_pack
from rag_ft.training.generator.tokenization import IGNORED
from rag_ft.training.memory_estimate import divisors, largest_pass, shape_of

log = logging.getLogger(__name__)
NUM_LOGGED = 50


@dataclass(frozen=True)
class Schedule:
    """`device_batch_size` x `accumulation` x processes is the number of examples (packed: rows) of a step; `epochs`
    are passes over the examples, which may hold several arrangements of each pair."""

    device_batch_size: int
    accumulation: int
    epochs: float
    num_steps: int
    evaluate_every: int
    packed: bool


@dataclass(frozen=True)
class Trained:
    """`trainer.model` holds the best weights. `history`: {step, loss | eval_loss, ...} in order, earlier runs'
    included. `num_steps` were made in all; `num_tokens` were read in these `seconds`, of which `measure_seconds` went
    into dev F1 (after a resume: since then)."""

    trainer: Any
    history: list[dict[str, float]]
    num_steps: int
    seconds: float
    num_tokens: int
    measure_seconds: float


def train(
    config: Config,
    tokenizer: Any,
    examples: Sequence[Example],
    dev: Sequence[Example],
    folder: Path,
    processes: Processes,
    model: Any,
    questions: Sequence[Question] = (),
    callbacks: Sequence[TrainerCallback] = (),
) -> Trained:
    """Trains `model` (see `load_base`) on `examples`, evaluating on `dev`, with checkpoints in `folder`; goes on from
    the newest whole one. The best weights are kept: by the F1 of their answers to `questions`, else by dev loss.

    Raises:
        ConfigError: batch sizes that do not divide, or a device that cannot do what is asked.
        DataError: the trainer lost examples.
    """
    schedule = plan_schedule(config, model, examples, processes.count)
    trainer = AnswerTrainer(
        model=model,
        args=arguments(
            config, schedule, "f1" if dev and questions else "loss" if dev else None, folder
        ),
        train_dataset=dataset_of(examples),
        eval_dataset=dataset_of(sorted(dev, key=lambda e: len(e.encoded.input_ids)))
        if dev
        else None,
        processing_class=tokenizer,
        peft_config=adapter_config(config),
        callbacks=[*_callbacks(config, bool(dev)), *callbacks],
    )
    trainer.arrangements = [example.arrangement for example in examples]
    trainer.remove_callback(ProgressCallback)
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(Progress())
    if questions:
        longest = longest_answer(examples)

        def measure(trained: Any) -> float:
            with as_in_training(config, trained):
                return mean_f1(trained, tokenizer, questions, config.llm.advanced.abstain, longest)

        trainer.measure = measure
    _check_rows(trainer.train_dataset, examples)
    checkpoint = last_complete(folder)
    outcome = trainer.train(resume_from_checkpoint=checkpoint)
    tokens = sum(
        len(e.encoded.input_ids) for e in examples
    )  # of an epoch; a packed step holds any number of examples
    made = trainer.state.global_step
    made_here = made - (_step_of(checkpoint) if checkpoint else 0)
    return Trained(
        trainer, _history(trainer.state.log_history), made, outcome.metrics["train_runtime"],
        round(tokens * (trainer.state.epoch or 0) * made_here / max(1, made)), trainer.measure_seconds,
    )  # fmt: skip


def plan_schedule(
    config: Config, model: Any, examples: Sequence[Example], num_processes: int
) -> Schedule:
    """How a step's examples are shared out over forward passes and processes, and how many steps there are."""
    knobs, lengths = config.train_generator, [len(e.encoded.input_ids) for e in examples]
    if knobs.batch_size % num_processes:
        raise ConfigError(
            f"train_generator.batch_size={knobs.batch_size} cannot be shared by {num_processes} processes: "
            f"set a multiple of {num_processes}"
        )
    share = knobs.batch_size // num_processes
    packed = can_pack(config)
    if packed:
        # a packed row holds about so many examples; the rows of a pass are laid one behind the other
        per_row = max(1.0, knobs.advanced.max_tokens / (sum(lengths) / len(lengths)))
        rows = max(1, round(share / per_row))
        most = (
            round(knobs.advanced.device_batch_size / per_row)
            if knobs.advanced.device_batch_size
            else rows
        )
        sizes = [d for d in divisors(rows) if d <= max(1, most)]
        row = (
            knobs.advanced.max_tokens,
            math.ceil(per_row) * max(e.encoded.num_answer_tokens for e in examples),
        )
        device = _fitting(config, model, sizes, row)
        accumulation = rows // device
        per_epoch = max(1, round(len(lengths) / (per_row * rows * num_processes)))
    else:
        longest = max(lengths), max(e.encoded.num_answer_tokens for e in examples)
        device = knobs.advanced.device_batch_size or _fitting(
            config, model, divisors(share), longest
        )
        if share % device:
            raise ConfigError(
                f"train_generator.batch_size={knobs.batch_size} is no multiple of device_batch_size={device} "
                f"x {num_processes} processes: change one of them"
            )
        accumulation = share // device
        per_epoch = math.ceil(len(lengths) / knobs.batch_size)
    epochs = knobs.epochs / num_arrangements(examples)
    num_steps = knobs.advanced.max_steps or max(1, math.ceil(epochs * per_epoch))
    return Schedule(
        device,
        accumulation,
        epochs,
        num_steps,
        math.ceil(num_steps / knobs.advanced.evaluations),
        packed,
    )


def arguments(config: Config, schedule: Schedule, best_by: str | None, folder: Path) -> SFTConfig:
    """TRL's settings; every name is as of the versions pinned in pyproject.toml. `best_by` is None without dev."""
    knobs, gpu = config.train_generator, torch.cuda.is_available()
    os.environ.pop(
        "ACCELERATE_MIXED_PRECISION", None
    )  # a launcher's; it would hold wherever bf16 is False
    return SFTConfig(
        output_dir=str(folder),
        num_train_epochs=schedule.epochs,
        max_steps=knobs.advanced.max_steps or -1,
        per_device_train_batch_size=schedule.device_batch_size,
        per_device_eval_batch_size=max(1, schedule.device_batch_size),
        gradient_accumulation_steps=schedule.accumulation,
        learning_rate=knobs.learning_rate,
        lr_scheduler_type="cosine",
        warmup_steps=0.05,
        weight_decay=0.0,
        max_grad_norm=1.0,
        bf16=computes_bf16(config),
        use_cpu=not gpu,
        gradient_checkpointing=knobs.advanced.gradient_checkpointing,
        packing=schedule.packed,
        eval_packing=False,
        max_length=knobs.advanced.max_tokens,
        pad_to_multiple_of="auto" if schedule.packed else WIDTH_STEP,
        dataset_kwargs=None if schedule.packed else {"skip_prepare_dataset": True},
        eval_strategy="steps" if best_by else "no",
        eval_steps=schedule.evaluate_every,
        save_strategy="steps",
        save_steps=schedule.evaluate_every,
        save_total_limit=2,
        restore_callback_states_from_checkpoint=True,  # how long early stopping has waited
        load_best_model_at_end=best_by is not None,
        metric_for_best_model=f"eval_{best_by}" if best_by else None,
        greater_is_better=best_by == "f1",
        prediction_loss_only=True,
        logging_steps=max(1, schedule.num_steps // NUM_LOGGED),
        dataloader_pin_memory=gpu,
        ddp_find_unused_parameters=False,
        report_to=list(knobs.advanced.report_to) or "none",
        seed=config.run.seed,
        data_seed=config.run.seed,
        disable_tqdm=False,
    )


def computes_bf16(config: Config) -> bool:
    """Whether matrix products run in bfloat16: where the device does so natively, unless float32 is asked for."""
    return (
        choose_dtype(config.llm.dtype, "cuda" if torch.cuda.is_available() else "cpu") == "bfloat16"
    )


def as_in_training(config: Config, model: Any) -> AbstractContextManager[Any]:
    """Computes as the training does, for a model that is asked outside it: where all weights are trained, they are in
    float32 on a GPU, which flash attention does not take."""
    if model.device.type == "cuda" and model.dtype == torch.float32:
        return torch.autocast("cuda", torch.bfloat16, enabled=computes_bf16(config))
    return nullcontext()


def last_complete(folder: Path) -> str | None:
    """The newest whole checkpoint under `folder`."""
    whole = [path for path in folder.glob("checkpoint-*") if (path / FINISHED).exists()]
    return max(map(str, whole), key=_step_of, default=None)


def _step_of(checkpoint: str) -> int:
    return int(checkpoint.rpartition("-")[2])


def plain_text_loss(model: Any, tokenizer: Any, texts: Sequence[str]) -> float:
    """Mean -log p (nats a token) of plain texts by a model that is whole here; nan where there is no text."""
    total, count = 0.0, 0
    model.eval()
    with torch.no_grad():
        for text in texts:
            ids = tokenizer(text, return_tensors="pt", add_special_tokens=False)["input_ids"][
                :, :512
            ]
            if ids.shape[1] > 1:
                ids = ids.to(model.device)
                logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
                total += float(functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
                count += ids.shape[1] - 1
    return total / count if count else math.nan


def _callbacks(config: Config, has_dev: bool) -> list[TrainerCallback]:
    patience = config.train_generator.advanced.patience
    stop = [EarlyStoppingCallback(early_stopping_patience=patience)] if has_dev and patience else []
    return [MarkComplete(), *stop]


def dataset_of(examples: Sequence[Example]) -> Dataset:
    columns = {
        "input_ids": [list(e.encoded.input_ids) for e in examples],
        "labels": [e.encoded.labels for e in examples],
    }
    return Dataset.from_dict(columns)


def _check_rows(dataset: Dataset, examples: Sequence[Example]) -> None:
    """TRL drops and cuts rows without a word: what it trains on must be what it was given, row and answer token."""
    packed = "seq_lengths" in dataset.column_names
    rows = sum(map(len, dataset["seq_lengths"])) if packed else len(dataset)
    supervised = sum(sum(label != IGNORED for label in row) for row in dataset["labels"])
    wanted = sum(e.encoded.num_answer_tokens for e in examples)
    if rows != len(examples) or supervised != wanted:
        raise DataError(
            f"the trainer kept {rows} of {len(examples)} examples and {supervised} of {wanted} answer tokens: "
            "raise train_generator.advanced.max_tokens, or set train_generator.advanced.packing=false"
        )


def _fitting(config: Config, model: Any, sizes: Sequence[int], lengths: tuple[int, int]) -> int:
    """The first of `sizes` (rows of a forward pass, largest first) that memory and caches take, by a row's `lengths`
    (tokens, all and learned); the last where none seems to fit (the estimate is no reason to refuse what a user asks
    for)."""
    gpu = torch.cuda.is_available()
    memory_gb = total_memory_gb("cuda" if gpu else "cpu")
    settings, dtype = config.train_generator, config.llm.dtype
    found = largest_pass(shape_of(model), settings, dtype, sizes, lengths, memory_gb, gpu)
    return found[0] if found else sizes[-1]


def _history(rows: Sequence[dict[str, Any]]) -> list[dict[str, float]]:
    """Without what differs from run to run: times and rates."""
    kept = ("step", "epoch", "loss", "eval_loss", "eval_f1", "learning_rate", "grad_norm")
    picked = [{k: row[k] for k in kept if k in row} for row in rows]
    return [row for row in picked if "loss" in row or "eval_loss" in row]


def save_generator(trained: Trained, config: Config, folder: Path, processes: Processes) -> None:
    """Writes weights and tokenizer into `folder` as PEFT, transformers and vLLM read them; byte-equal for equal ones.
    Where all weights were trained they get the base model's dtype again: servers choose theirs by it."""
    trainer = trained.trainer
    if config.train_generator.method == "full":
        base = AutoConfig.from_pretrained(resolve(config.llm.required_model, "llm"))
        trainer.model.to(base.get_text_config().dtype or torch.float32)
    trainer.save_model(str(folder))
    if not processes.main:
        return
    (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle
    path = folder / "adapter_config.json"
    if path.exists():
        settings = json.loads(path.read_text(encoding="utf-8"))
        settings["base_model_name_or_path"] = config.llm.model
        settings["target_modules"] = sorted(
            settings["target_modules"]
        )  # PEFT writes a set in any order
        write_text(path, json.dumps(settings, indent=2, sort_keys=True) + "\n")
