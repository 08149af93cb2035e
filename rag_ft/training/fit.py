"""One phase of training an encoder: rows and a loss go in, the student's weights move. Killed, it continues."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import PartialState
from datasets import Dataset
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from tqdm import tqdm
from transformers import PrinterCallback, ProgressCallback, TrainerCallback

from rag_ft.errors import DataError
from rag_ft.records import write_text
from rag_ft.training.batches import Apart, DistinctBatches, ShuffledBatches
from rag_ft.training.student import Student

if TYPE_CHECKING:
    from torch import nn

WEIGHTS = "student.safetensors"
FINISHED = "complete"  # in a checkpoint, written last: a checkpoint without it was cut off
NUM_CHECKPOINTS = 10


@dataclass(frozen=True)
class Schedule:
    """`epochs` passes over the rows, or `steps` steps where that is not 0. `batch_size` counts rows of all processes.
    `bfloat16`: matrix products in bfloat16, weights and sums in float32."""

    batch_size: int
    learning_rate: float
    epochs: float = 1.0
    steps: int = 0
    warmup_share: float = 0.1
    seed: int = 0
    bfloat16: bool = False


def fit(
    student: Student, rows: Mapping[str, Sequence[Any]], apart: Sequence[Apart] | None, loss: nn.Module,
    schedule: Schedule, folder: Path,
) -> list[dict[str, float]]:  # fmt: skip
    """Trains the student in place and leaves its weights in `folder`; a phase that is there already is only loaded.

    Args:
        student: its weights are moved.
        rows: text columns in the order the loss wants them, and `label`, the row's number.
        apart: what keeps each row out of a batch; None: any rows may share one.
        loss: takes (features of each text column, labels) and returns a scalar.
        schedule: how long, how large, how fast.
        folder: the phase's own; holds checkpoints while it runs.

    Returns:
        [{step, loss}] of every step, those before an interruption included.

    Raises:
        DataError: the rows did not make one batch.
    """
    finished = folder / WEIGHTS
    if not finished.exists():
        trainer = _Trainer(
            model=student.model,
            args=_arguments(schedule, len(rows["label"]), apart, folder),
            train_dataset=Dataset.from_dict(dict(rows)),
            loss=loss,
            callbacks=[_MarkComplete(), _Progress(folder.name)],
        )
        for printing in (PrinterCallback, ProgressCallback):
            trainer.remove_callback(printing)
        trainer.student = student
        trainer.train(resume_from_checkpoint=_last_complete(folder))
        trainer.accelerator.wait_for_everyone()
        if not trainer.state.global_step:
            raise DataError(
                f"{len(rows['label'])} rows make no batch of {schedule.batch_size}: lower batch_size"
            )
        if trainer.is_world_process_zero():
            _finish(student, trainer.state.log_history, folder)
        trainer.accelerator.wait_for_everyone()
    student.load(load_file(finished))
    return json.loads((folder / "history.json").read_text(encoding="utf-8"))


class _Trainer(SentenceTransformerTrainer):
    """Checkpoints hold exactly the weights that move: an adapter's base is not written again and again."""

    student: Student

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or self.args.output_dir or ".")
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.student.state(), folder / WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.student.load(load_file(Path(resume_from_checkpoint) / WEIGHTS))


class _MarkComplete(TrainerCallback):
    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        PartialState().wait_for_everyone()  # each process keeps its own random state in the checkpoint
        if state.is_world_process_zero:
            write_text(Path(args.output_dir) / f"checkpoint-{state.global_step}" / FINISHED, "")


class _Progress(TrainerCallback):
    """A bar on stderr; transformers' own writes every loss to stdout."""

    def __init__(self, desc: str) -> None:
        self._desc = desc

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        hidden = not state.is_world_process_zero
        self._bar = tqdm(
            desc=self._desc,
            total=state.max_steps,
            initial=state.global_step,
            unit="step",
            disable=hidden,
        )

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        self._bar.set_postfix(
            {"loss": f"{logs['loss']:.3f}"} if logs and "loss" in logs else {}, refresh=False
        )

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._bar.update(1)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self._bar.close()


def _arguments(
    schedule: Schedule, num_rows: int, apart: Sequence[Apart] | None, folder: Path
) -> SentenceTransformerTrainingArguments:
    steps = schedule.steps or int(schedule.epochs * (num_rows // schedule.batch_size))
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        num_train_epochs=schedule.epochs,
        max_steps=schedule.steps or -1,
        per_device_train_batch_size=schedule.batch_size,
        accelerator_config={
            "split_batches": True
        },  # a batch is shared out: the result does not depend on the processes
        dataloader_drop_last=True,
        dataloader_pin_memory=torch.cuda.is_available(),
        batch_sampler=ShuffledBatches if apart is None else partial(DistinctBatches, apart=apart),
        learning_rate=schedule.learning_rate,
        warmup_steps=schedule.warmup_share,
        lr_scheduler_type="linear",
        bf16=schedule.bfloat16,
        use_cpu=not torch.cuda.is_available(),
        ddp_find_unused_parameters=False,
        save_steps=max(1, steps // NUM_CHECKPOINTS),
        save_total_limit=2,
        logging_steps=1,
        report_to=[],
        seed=schedule.seed,
    )
    # Not what the launcher wants (ACCELERATE_MIXED_PRECISION): the encoder's dtype decides.
    arguments.mixed_precision = "bf16" if schedule.bfloat16 else "no"
    arguments._n_gpu = min(
        1, arguments.n_gpu
    )  # one process, one device: DataParallel would change the batches
    return arguments


def _last_complete(folder: Path) -> str | None:
    """The newest whole checkpoint; ones that a kill cut off are removed."""
    checkpoints = sorted(
        folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2])
    )
    whole = [path for path in checkpoints if (path / FINISHED).exists()]
    for path in set(checkpoints) - set(whole):
        shutil.rmtree(path, ignore_errors=True)
    return str(whole[-1]) if whole else None


def _finish(student: Student, log: list[dict[str, Any]], folder: Path) -> None:
    history = [{"step": row["step"], "loss": row["loss"]} for row in log if "loss" in row]
    write_text(folder / "history.json", json.dumps(history))
    temporary = folder / f"{WEIGHTS}.tmp"
    save_file(student.state(), temporary)
    os.replace(temporary, folder / WEIGHTS)
    for path in folder.glob("checkpoint-*"):
        shutil.rmtree(path)
