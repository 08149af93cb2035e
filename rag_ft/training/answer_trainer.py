"""TRL's SFTTrainer with the loss on answers alone and little padding, and the callbacks that go with it."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch.nn import functional
from transformers import ProgressCallback, Trainer, TrainerCallback
from transformers.trainer_pt_utils import BatchRebalanceSampler
from trl import SFTTrainer

from rag_ft.records import write_text
from rag_ft.training.tokens import IGNORED

# Batches are padded to multiples of so many tokens: every new width makes oneDNN keep new kernels (1 GiB after 50 steps
# of the demo model, see LOG.md).
WIDTH_STEP = 32
FINISHED = "complete"  # in a checkpoint, written last: a checkpoint without it was cut off by a kill


class AnswerTrainer(SFTTrainer):
    """SFTTrainer over rows that are tokenised already, with three changes: a step's examples are drawn at random and
    shared out over its forward passes by length; where the attention wants padding, it runs without a mask and logits
    are computed at the answers alone (TRL does the latter only on GPUs); checkpoints carry no model card.

    `measure`, where set, gives the model's F1 at every evaluation; `measure_seconds` is what it took in all.
    """

    measure: Callable[[Any], float] | None = None
    measure_seconds = 0.0

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        dataset: Any = self.train_dataset if train_dataset is None else train_dataset
        if self.padding_free:
            return super()._get_train_sampler(dataset)
        per_step = self.args.train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        return BatchRebalanceSampler(
            lengths=[len(ids) for ids in dataset["input_ids"]],
            effective_batch_size=per_step,
            dp_size=self.args.world_size,
            grad_accum=self.args.gradient_accumulation_steps,
            seed=self.args.seed,
            rank=self.args.process_index,
            drop_last=False,
        )

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Mean -log p over the answer tokens of the whole step, over all its forward passes and processes."""
        if self.padding_free or return_outputs or self.aux_loss_enabled:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels = inputs["labels"]
        total = answer_loss(model, inputs["input_ids"], labels, fused=labels.device.type == "cuda")
        if num_items_in_batch is None:
            return total / (labels != IGNORED).sum()
        scale = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
        return total / num_items_in_batch * scale

    def evaluation_loop(self, *args: Any, **rest: Any) -> Any:
        output: Any = super().evaluation_loop(*args, **rest)
        if self.measure is not None:
            clock = time.monotonic()
            output.metrics["eval_f1"] = self.measure(self.model)
            self.measure_seconds += time.monotonic() - clock
        return output

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        Trainer._save_checkpoint(self, model, trial)


def answer_loss(model: Any, input_ids: Any, labels: Any, fused: bool) -> Any:
    """Sum of -log p of the labels that are not IGNORED. `fused`: by the head that TRL puts on the model, which on GPUs
    reads exactly those positions; else by logits from the first column on that holds a label in any row.

    Rows are padded on the right, where no token looks: without a mask attention is plainly causal, its fastest form,
    and keys and values that heads share need not be repeated.
    """
    if fused:
        return -model(input_ids=input_ids, labels=labels, fused_lm_head=True).log_probs.float().sum()
    first = int((labels != IGNORED).any(0).nonzero()[0, 0])  # position t is predicted at t - 1
    first = max(1, first - first % WIDTH_STEP)
    outputs = model(input_ids=input_ids, use_cache=False, logits_to_keep=labels.shape[1] - first + 1)
    return functional.cross_entropy(
        outputs.logits[:, :-1].flatten(0, 1).float(),
        labels[:, first:].flatten(),
        ignore_index=IGNORED,
        reduction="sum",
    )


class Progress(ProgressCallback):
    """A bar with the losses behind it, instead of a printed line for each."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        super().on_train_begin(args, state, control, **rest)
        if self.training_bar is not None:
            self.training_bar.set_description("train_generator")

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any) -> None:
        names = ("loss", "eval_loss", "eval_f1")
        shown = {name: f"{value:.3f}" for name, value in (logs or {}).items() if name in names}
        if self.training_bar is not None and shown:
            self.training_bar.set_postfix(shown)


class MarkComplete(TrainerCallback):
    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            write_text(Path(args.output_dir) / f"checkpoint-{state.global_step}" / FINISHED, "")
