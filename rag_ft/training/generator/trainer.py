"""Supervised fine-tuning of the generator: schedule, TRL's trainer, and the weights it leaves."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from datasets import Dataset
from transformers import AutoConfig, TrainerCallback
from trl import SFTConfig

from rag_ft.config import Config, Dtype, TrainGeneratorConfig
from rag_ft.errors import ConfigError, DataError
from rag_ft.hardware import WIDTH_STEP, total_memory_gb, trains_in_bfloat16
from rag_ft.model_hub import resolve
from rag_ft.storage import write_text
from rag_ft.training.checkpoints import last_complete, step_of
from rag_ft.training.distributed import Processes
from rag_ft.training.generator.completion_trainer import CompletionTrainer
from rag_ft.training.generator.context_layouts import Example, longest_answer, num_arrangements
from rag_ft.training.generator.dev_f1 import DevQuestion, mean_f1
from rag_ft.training.generator.lora import FLASH, adapter_config, attention, start_adapter
from rag_ft.training.generator.tokenization import IGNORED
from rag_ft.training.memory_estimate import divisors, largest_pass
from rag_ft.training.model_shape import shape_of

NUM_LOGGED = 50  # training losses in the log
# What a row of the training log keeps: nothing that differs from run to run (times and rates).
LOGGED = ("step", "epoch", "loss", "eval_loss", "eval_f1", "learning_rate", "grad_norm")


@dataclass(frozen=True)
class Schedule:
    """How a training is divided. A step has `device_batch_size` x `accumulation` x processes
    examples (rows, if `packed`). `epochs` are passes over the examples, which may hold several
    arrangements of each pair. `evaluate_every` counts steps."""

    device_batch_size: int
    accumulation: int
    epochs: float
    num_steps: int
    evaluate_every: int
    packed: bool


@dataclass(frozen=True)
class Trained:
    """The result of a training. `trainer.model` holds the best weights.

    `history` holds rows {step, loss | eval_loss, ...} in order, with those of runs before a resume,
    and `num_steps` counts these too. `num_tokens`, `seconds` and `measure_seconds` (the part that
    dev F1 took) are those since the resume.
    """

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
    questions: Sequence[DevQuestion] = (),
    callbacks: Sequence[TrainerCallback] = (),
) -> Trained:
    """Trains `model` (see `load_base`) on `examples`, with checkpoints in `folder`, from the newest
    complete one on. The best weights on `dev` are kept: by the F1 of their answers to `questions`,
    without questions by loss.

    Raises:
        ConfigError: batch sizes that do not divide, or a device that cannot do what is asked.
        DataError: the trainer left out examples.
    """
    settings, dtype = config.train_generator, config.llm.dtype
    schedule = plan_schedule(settings, dtype, model, examples, processes.count)
    metric: Literal["f1", "loss"] = "f1" if questions else "loss"
    best_by = metric if dev else None

    def measure(trained: Any) -> float:
        longest = longest_answer(examples)
        with as_in_training(trained, dtype):
            return mean_f1(trained, tokenizer, questions, config.llm.advanced.abstain, longest)

    by_length = sorted(dev, key=lambda example: len(example.encoded.input_ids))
    trainer = CompletionTrainer(
        model=model,
        args=arguments(settings, dtype, config.run.seed, schedule, best_by, folder),
        train_dataset=dataset_of(examples),
        eval_dataset=dataset_of(by_length) if dev else None,
        processing_class=tokenizer,
        peft_config=adapter_config(settings, model),
        patience=settings.advanced.patience if dev else 0,
        callbacks=callbacks,
        arrangements=[example.arrangement for example in examples],
        measure=measure if questions else None,
    )
    start_adapter(trainer.model, settings)
    check_rows(trainer.train_dataset, examples)
    checkpoint = last_complete(folder)
    outcome = trainer.train(resume_from_checkpoint=checkpoint)

    # A packed step holds any number of examples: what was read is a share of all epochs' tokens.
    tokens_per_epoch = sum(len(example.encoded.input_ids) for example in examples)
    state, num_before = trainer.state, step_of(checkpoint) if checkpoint else 0
    share_here = (state.global_step - num_before) / max(1, state.global_step)
    history = [{name: row[name] for name in LOGGED if name in row} for row in state.log_history]
    return Trained(
        trainer=trainer,
        history=[row for row in history if "loss" in row or "eval_loss" in row],
        num_steps=state.global_step,
        seconds=outcome.metrics["train_runtime"],
        num_tokens=round(tokens_per_epoch * (state.epoch or 0) * share_here),
        measure_seconds=trainer.measure_seconds,
    )


def plan_schedule(
    settings: TrainGeneratorConfig,
    dtype: Dtype,
    model: Any,
    examples: Sequence[Example],
    num_processes: int,
) -> Schedule:
    """How a step's examples are shared out over forward passes and processes, and how many steps
    there are.

    Raises:
        ConfigError: train_generator.batch_size cannot be shared out evenly.
    """
    advanced = settings.advanced
    batch_size, device_batch_size = settings.batch_size, advanced.device_batch_size
    if batch_size % num_processes:
        raise ConfigError(
            f"train_generator.batch_size={batch_size} cannot be shared by {num_processes} "
            f"processes: set a multiple of {num_processes}"
        )
    share = batch_size // num_processes
    lengths = [len(example.encoded.input_ids) for example in examples]
    longest_target = max(example.encoded.num_answer_tokens for example in examples)
    packed = attention(advanced.packing, dtype) == FLASH
    if packed:
        # A packed row holds about so many examples; the rows of a pass are laid end to end.
        per_row = max(1.0, advanced.max_tokens / (sum(lengths) / len(lengths)))
        num_rows = max(1, round(share / per_row))
        most = round(device_batch_size / per_row) if device_batch_size else num_rows
        sizes = [size for size in divisors(num_rows) if size <= max(1, most)]
        row_tokens = advanced.max_tokens, math.ceil(per_row) * longest_target
        steps_per_epoch = max(1, round(len(lengths) / (per_row * num_rows * num_processes)))
    else:
        num_rows, row_tokens = share, (max(lengths), longest_target)
        sizes = [device_batch_size] if device_batch_size else divisors(share)
        steps_per_epoch = math.ceil(len(lengths) / batch_size)

    # The largest forward pass that memory and caches take, by the tokens of a row (all, with a
    # loss). It is the smallest where none seems to fit: the estimate forbids nothing.
    gpu = torch.cuda.is_available()
    memory_gb = total_memory_gb("cuda" if gpu else "cpu")
    shape = shape_of(model)
    threads = torch.get_num_threads()  # a training that continues keeps its number
    found = largest_pass(shape, settings, dtype, sizes, row_tokens, memory_gb, gpu, threads)
    device_rows = found[0] if found else sizes[-1]
    if num_rows % device_rows:
        raise ConfigError(
            f"train_generator.batch_size={batch_size} is no multiple of "
            f"device_batch_size={device_rows} x {num_processes} processes: change one of them"
        )
    epochs = settings.epochs / num_arrangements(examples)
    num_steps = advanced.max_steps or max(1, math.ceil(epochs * steps_per_epoch))
    return Schedule(
        device_batch_size=device_rows,
        accumulation=num_rows // device_rows,
        epochs=epochs,
        num_steps=num_steps,
        evaluate_every=math.ceil(num_steps / advanced.evaluations),
        packed=packed,
    )


def arguments(
    settings: TrainGeneratorConfig,
    dtype: str,
    seed: int,
    schedule: Schedule,
    best_by: Literal["f1", "loss"] | None,
    folder: Path,
) -> SFTConfig:
    """TRL's settings, in the names of the version that pyproject.toml pins.

    `dtype` is run.dtype; `best_by` selects the weights and is None without dev examples.
    """
    advanced = settings.advanced
    return SFTConfig(
        **shared_arguments(settings, dtype, seed),
        output_dir=str(folder),
        num_train_epochs=schedule.epochs,
        max_steps=advanced.max_steps or -1,
        per_device_train_batch_size=schedule.device_batch_size,
        per_device_eval_batch_size=schedule.device_batch_size,
        gradient_accumulation_steps=schedule.accumulation,
        learning_rate=settings.learning_rate,
        packing=schedule.packed,
        eval_packing=False,
        max_length=advanced.max_tokens,
        pad_to_multiple_of="auto" if schedule.packed else WIDTH_STEP,
        dataset_kwargs=None if schedule.packed else {"skip_prepare_dataset": True},
        eval_strategy="steps" if best_by else "no",
        eval_steps=schedule.evaluate_every,
        save_steps=schedule.evaluate_every,
        load_best_model_at_end=best_by is not None,
        metric_for_best_model=f"eval_{best_by}" if best_by else None,
        greater_is_better=best_by == "f1",
        logging_steps=max(1, schedule.num_steps // NUM_LOGGED),
    )


def shared_arguments(settings: TrainGeneratorConfig, dtype: str, seed: int) -> dict[str, Any]:
    """What fine-tuning and preference tuning tell transformers' trainer alike. `dtype` is
    run.dtype."""
    advanced, gpu = settings.advanced, torch.cuda.is_available()
    # A launcher sets this variable, and transformers reads it wherever bf16 is False.
    os.environ.pop("ACCELERATE_MIXED_PRECISION", None)
    return {
        "lr_scheduler_type": "cosine",
        "warmup_steps": 0.05,
        "weight_decay": 0.0,
        "max_grad_norm": 1.0,
        "bf16": trains_in_bfloat16(dtype),
        "use_cpu": not gpu,
        "gradient_checkpointing": advanced.gradient_checkpointing,
        "save_strategy": "steps",
        "save_total_limit": 2,
        "restore_callback_states_from_checkpoint": True,  # how long early stopping has waited
        "prediction_loss_only": True,
        # No loss of a mixture's routers: some models do not give it, and the dev loss has none.
        "router_aux_loss_coef": 0.0,
        "dataloader_pin_memory": gpu,
        "ddp_find_unused_parameters": False,
        "report_to": list(advanced.report_to) or "none",
        "seed": seed,
        "data_seed": seed,
        "disable_tqdm": False,
    }


def dataset_of(examples: Sequence[Example]) -> Dataset:
    """The columns input_ids and labels, a row per example."""
    columns = {
        "input_ids": [list(example.encoded.input_ids) for example in examples],
        "labels": [example.encoded.labels for example in examples],
    }
    return Dataset.from_dict(columns)


def check_rows(dataset: Dataset, examples: Sequence[Example]) -> None:
    """Makes sure that the trainer's dataset holds every example and every answer token: TRL leaves
    out and cuts rows without a word.

    Raises:
        DataError: it does not.
    """
    packed = "seq_lengths" in dataset.column_names
    num_rows = sum(map(len, dataset["seq_lengths"])) if packed else len(dataset)
    supervised = sum(sum(label != IGNORED for label in row) for row in dataset["labels"])
    wanted = sum(example.encoded.num_answer_tokens for example in examples)
    if num_rows != len(examples) or supervised != wanted:
        raise DataError(
            f"the trainer kept {num_rows} of {len(examples)} examples and {supervised} of {wanted} "
            "answer tokens: raise train_generator.advanced.max_tokens, "
            "or set train_generator.advanced.packing=false"
        )


def as_in_training(model: Any, dtype: str) -> AbstractContextManager[Any]:
    """The precision of the training, for a model that is asked outside of it: where all weights are
    trained they are float32, which flash attention on a GPU does not take."""
    if model.device.type == "cuda" and model.dtype == torch.float32:
        return torch.autocast("cuda", torch.bfloat16, enabled=trains_in_bfloat16(dtype))
    return nullcontext()


def save_generator(
    trained: Trained,
    settings: TrainGeneratorConfig,
    base_model: str,
    folder: Path,
    processes: Processes,
    trust_code: bool = False,
) -> None:
    """Writes weights and tokenizer into `folder`, as PEFT, transformers and vLLM read them. Equal
    weights give equal bytes.

    `base_model` is llm.model. Where all weights were trained they are written in the base model's
    dtype, by which servers choose theirs. All processes must call it.
    """
    trainer = trained.trainer
    if settings.method == "full":
        folder_of_base = resolve(base_model, "llm")
        base = AutoConfig.from_pretrained(folder_of_base, trust_remote_code=trust_code)
        trainer.model.to(base.get_text_config().dtype or torch.float32)
    trainer.save_model(str(folder))
    if not processes.main:
        return
    (folder / "training_args.bin").unlink(missing_ok=True)  # a pickle
    path = folder / "adapter_config.json"
    if path.exists():
        adapter = json.loads(path.read_text(encoding="utf-8"))
        # PEFT writes the folder that the model was loaded from, and a set in any order.
        adapter["base_model_name_or_path"] = base_model
        adapter["target_modules"] = sorted(adapter["target_modules"])
        write_text(path, json.dumps(adapter, indent=2, sort_keys=True) + "\n")
