"""One phase of training an encoder or a reranker: rows and a loss go in, the weights change.

A phase that was killed continues at its last checkpoint, to the same weights.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from sentence_transformers.base.training_args import BaseTrainingArguments
from sentence_transformers.cross_encoder import CrossEncoderTrainer, CrossEncoderTrainingArguments
from sentence_transformers.sentence_transformer.data_collator import SentenceTransformerDataCollator
from sentence_transformers.sentence_transformer.training_args import BatchSamplers
from tqdm import tqdm
from transformers import PrinterCallback, ProgressCallback, TrainerCallback

from rag_ft.errors import DataError
from rag_ft.retrieval.index_files import open_vectors, read_ids, read_manifest
from rag_ft.storage import json_text, write_text
from rag_ft.training.checkpoints import MarkComplete, last_complete
from rag_ft.training.retriever.trainable_encoder import TrainableEncoder

if TYPE_CHECKING:
    from datasets import Dataset
    from torch import nn

WEIGHTS = "encoder.safetensors"
NUM_CHECKPOINTS = 10
VectorsOf = Callable[[Sequence[str]], torch.Tensor]  # n chunk ids -> (n, dim)


@dataclass(frozen=True)
class Schedule:
    """How long, how large and how fast a phase is.

    `epochs` passes over the rows, or `steps` steps where that is not 0. `batch_size` counts rows of
    all processes. `warmup_share`: share (0-1) of the steps in which the learning rate rises.
    `no_duplicates`: no text stands twice in a batch, so that no other row's chunk is a false
    negative. `bfloat16`: matrix products in bfloat16, weights and sums in float32.
    """

    batch_size: int
    learning_rate: float
    epochs: float = 1.0
    steps: int = 0
    warmup_share: float = 0.1
    seed: int = 0
    no_duplicates: bool = False
    bfloat16: bool = False


def fit(
    encoder: TrainableEncoder,
    dataset: Dataset,
    loss: nn.Module,
    schedule: Schedule,
    folder: Path,
    trainer_class: Any,
    vectors_of: VectorsOf | None = None,
) -> list[dict[str, float]]:
    """Trains the encoder in place and writes its weights into `folder`; a finished phase is loaded.
    Returns [{step, loss}] of every step, also of those before an interruption.

    Args:
        encoder: is changed.
        dataset: columns in the order the loss wants them, and `label` where the loss reads it.
        loss: takes (features of each text column, labels) and returns a scalar.
        schedule: how long, how large, how fast.
        folder: the phase's own, with its checkpoints.
        trainer_class: EncoderTrainer or RerankerTrainer.
        vectors_of: as of `frozen_vectors`; only questions are then encoded.

    Raises:
        DataError: the rows do not fill one batch.
    """
    finished = folder / WEIGHTS
    if not finished.exists():
        collator = vectors_of and FrozenChunksCollator(
            encoder.model.preprocess, vectors_of=vectors_of
        )
        trainer = trainer_class(
            model=encoder.model,
            args=training_arguments(schedule, len(dataset), folder, trainer_class.arguments),
            train_dataset=dataset,
            loss=loss,
            data_collator=collator,
            callbacks=[MarkComplete(), ProgressBar(folder.name)],
        )
        trainer.remove_callback(PrinterCallback)  # they print every loss to stdout
        trainer.remove_callback(ProgressCallback)
        trainer.encoder = encoder
        trainer.train(resume_from_checkpoint=last_complete(folder))
        trainer.accelerator.wait_for_everyone()
        if not trainer.state.global_step:
            raise DataError(
                f"Only {len(dataset)} training rows in {folder.name}; a batch of "
                f"{schedule.batch_size} needs as many. Lower train_retriever.batch_size."
            )
        if trainer.is_world_process_zero():
            log = trainer.state.log_history
            history = [{"step": row["step"], "loss": row["loss"]} for row in log if "loss" in row]
            write_text(folder / "history.json", json_text(history))
            # The weights are written last, by a rename: where they are, the phase is finished.
            temporary = folder / f"{WEIGHTS}.tmp"
            save_file(encoder.state(), temporary)
            os.replace(temporary, finished)
            for path in folder.glob("checkpoint-*"):
                shutil.rmtree(path)
        trainer.accelerator.wait_for_everyone()
    encoder.load(load_file(finished))
    return json.loads((folder / "history.json").read_text(encoding="utf-8"))


def frozen_vectors(index: Path) -> VectorsOf:
    """Looks up the vectors (n, dim) of n chunk ids in an index. A dataset that is trained on with
    frozen vectors has the column `chunk_ids`."""
    ids = read_ids(index, read_manifest(index))
    row_of = {chunk_id: row for row, chunk_id in enumerate(ids)}
    vectors = open_vectors(index)

    def look_up(chunk_ids: Sequence[str]) -> torch.Tensor:
        return torch.from_numpy(vectors[[row_of[chunk_id] for chunk_id in chunk_ids]])

    return look_up


@dataclass
class FrozenChunksCollator(SentenceTransformerDataCollator):
    """Tokenizes the questions of a batch and looks its chunks' vectors up by chunk id: the feature
    `sentence_embedding` of each chunk column."""

    vectors_of: VectorsOf = field(kw_only=True)

    def __call__(self, features: list[dict[str, Any]]) -> dict[str, Any]:
        read = ("question", *self.valid_label_columns)
        batch = super().__call__([{k: v for k, v in row.items() if k in read} for row in features])
        for n, chunk_ids in enumerate(zip(*(row["chunk_ids"] for row in features), strict=True)):
            batch[f"chunk_{n}_sentence_embedding"] = self.vectors_of(chunk_ids)
        return batch


class SmallCheckpoints:
    """Checkpoints hold only the weights that change: an adapter's base is not written each time.
    No model card is prepared from the training data. Set `encoder` before training."""

    encoder: TrainableEncoder
    args: Any

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        folder = Path(output_dir or self.args.output_dir or ".")
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.encoder.state(), folder / WEIGHTS)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.encoder.load(load_file(Path(resume_from_checkpoint) / WEIGHTS))

    def add_model_card_callback(self, default_args_dict: dict[str, Any]) -> None:
        """The card is written without what this callback collects."""


class EncoderTrainer(SmallCheckpoints, SentenceTransformerTrainer):
    """Trains an encoder."""

    arguments = SentenceTransformerTrainingArguments


class RerankerTrainer(SmallCheckpoints, CrossEncoderTrainer):
    """Trains a reranker."""

    arguments = CrossEncoderTrainingArguments


class ProgressBar(TrainerCallback):
    """A bar on stderr with the loss of the last step."""

    def __init__(self, desc: str) -> None:
        self._desc = desc

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Opens the bar; a resumed phase starts where it stopped."""
        self._bar = tqdm(
            desc=self._desc,
            total=state.max_steps,
            initial=state.global_step,
            unit="step",
            disable=not state.is_world_process_zero,
        )

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
        """Shows the loss."""
        shown = {"loss": f"{logs['loss']:.3f}"} if logs and "loss" in logs else {}
        self._bar.set_postfix(shown, refresh=False)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Moves the bar by a step."""
        self._bar.update(1)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Closes the bar."""
        self._bar.close()


def training_arguments(
    schedule: Schedule, num_rows: int, folder: Path, kind: Any = None
) -> BaseTrainingArguments:
    """The trainer's settings for a phase with `num_rows` rows, of the class `kind`; None: those of
    an encoder's training."""
    steps = schedule.steps or int(schedule.epochs * (num_rows // schedule.batch_size))
    arguments: BaseTrainingArguments = (kind or SentenceTransformerTrainingArguments)(
        output_dir=str(folder),
        num_train_epochs=schedule.epochs,
        max_steps=schedule.steps or -1,
        per_device_train_batch_size=schedule.batch_size,
        # The processes share each batch, so that their number does not change the result.
        accelerator_config={"split_batches": True},
        dataloader_drop_last=True,
        dataloader_pin_memory=torch.cuda.is_available(),
        batch_sampler=(
            BatchSamplers.NO_DUPLICATES if schedule.no_duplicates else BatchSamplers.BATCH_SAMPLER
        ),
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
    # The model's dtype decides, not what the launcher sets (ACCELERATE_MIXED_PRECISION).
    arguments.mixed_precision = "bf16" if schedule.bfloat16 else "no"
    # One process uses one device: DataParallel would change the batches.
    arguments._n_gpu = min(1, arguments.n_gpu)
    return arguments
