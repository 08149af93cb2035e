"""TRL's SFTTrainer with the loss on answers alone and little padding, and the callbacks that go with it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional
from transformers import EarlyStoppingCallback, ProgressCallback, Trainer, TrainerCallback
from transformers.trainer_pt_utils import BatchRebalanceSampler
from trl import SFTTrainer

from rag_ft.storage import batched, write_text
from rag_ft.training.generator.tokenization import IGNORED

# Batches are padded to multiples of so many tokens: every new width makes oneDNN keep new kernels (1 GiB after 50 steps
# of the demo model, see LOG.md).
WIDTH_STEP = 32
FINISHED = (
    "complete"  # in a checkpoint, written last: a checkpoint without it was cut off by a kill
)


class AnswerTrainer(SFTTrainer):
    """SFTTrainer over rows that are tokenised already, with these changes: a step's examples are drawn at random and
    shared out over its forward passes by length; where the attention wants padding, it runs without a mask and logits
    are computed at the answers alone (TRL does the latter only on GPUs); the dev loss is a mean over tokens, however
    they are batched; what was over when it was killed does not go on; checkpoints carry no model card.

    `arrangements` are those of the rows: each is gone through before the next one begins. `measure`, where set, gives
    the model's F1 at every evaluation; `measure_seconds` is what it took in all.
    """

    arrangements: Sequence[int] = ()
    measure: Callable[[Any], float] | None = None
    measure_seconds = 0.0

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        dataset: Any = self.train_dataset if train_dataset is None else train_dataset
        if self.padding_free:
            return super()._get_train_sampler(dataset)
        per_step = (
            self.args.train_batch_size
            * self.args.gradient_accumulation_steps
            * self.args.world_size
        )
        return ArrangementSampler(
            self.arrangements,
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

    def prediction_step(self, model: Any, inputs: Any, *_: Any, **__: Any) -> Any:
        """Notes what each row adds to the dev loss; the rows that fill up an uneven last batch count once."""
        inputs = self._prepare_inputs(inputs)
        labels = inputs["labels"]
        with torch.no_grad(), self.compute_loss_context_manager():
            losses = answer_losses(
                model, inputs["input_ids"], labels, fused=labels.device.type == "cuda"
            )
        rows = torch.stack([losses.double().sum(1), (labels != IGNORED).sum(1).double()], 1)
        self._dev_sums += self.accelerator.gather_for_metrics(rows).sum(0)
        return losses.detach().sum(), None, None

    def evaluation_loop(self, *args: Any, **rest: Any) -> Any:
        self._dev_sums = torch.zeros(2, dtype=torch.double, device=self.args.device)
        output: Any = super().evaluation_loop(*args, **rest)
        total, num_tokens = self._dev_sums.tolist()
        output.metrics["eval_loss"] = total / num_tokens
        if self.measure is not None:
            clock = time.monotonic()
            output.metrics["eval_f1"] = self.measure(self.model)
            self.measure_seconds += time.monotonic() - clock
        return output

    def _run_epoch(self, *args: Any, **rest: Any) -> None:
        """transformers takes a step before it asks whether a resumed training was over."""
        if self.state.global_step >= self.state.max_steps or self._patience_is_over():
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **rest)

    def _patience_is_over(self) -> bool:
        stops = [c for c in self.callback_handler.callbacks if isinstance(c, EarlyStoppingCallback)]
        return any(
            stop.early_stopping_patience_counter >= stop.early_stopping_patience for stop in stops
        )

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        Trainer._save_checkpoint(self, model, trial)


class ArrangementSampler(BatchRebalanceSampler):
    """The rows of arrangement 0 shuffled, then those of arrangement 1, and so on: wherever the training is cut off, no
    pair was seen a second time before all had been seen once."""

    def __init__(self, arrangements: Sequence[int], **rest: Any) -> None:
        super().__init__(**rest)
        self.arrangements = list(arrangements) or [0] * len(self.lengths)

    def __iter__(self) -> Iterator[list[int]]:
        order, size, least = (
            self._order(),
            self.effective_batch_size,
            self.dp_size * self.grad_accum,
        )
        for step in batched(order, size):
            while len(step) < least:  # the last step: no forward pass of any process may be empty
                step += order[: least - len(step)]
            yield from self._yield_global_batch(step)

    def _order(self) -> list[int]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        shuffled = torch.randperm(len(self.lengths), generator=generator).tolist()
        return sorted(shuffled, key=self.arrangements.__getitem__)


def answer_loss(model: Any, input_ids: Any, labels: Any, fused: bool) -> Any:
    """Sum of -log p of the labels that are not IGNORED."""
    return answer_losses(model, input_ids, labels, fused).sum()


def answer_losses(model: Any, input_ids: Any, labels: Any, fused: bool) -> Any:
    """-log p of the labels, a row of them for each row, 0 where they are IGNORED or not computed. `fused`: by the head
    that TRL puts on the model, which on GPUs reads exactly the positions with a label; else by logits from the first
    column on that holds a label in any row.

    Rows are padded on the right, where no token looks: without a mask attention is plainly causal, its fastest form,
    and keys and values that heads share need not be repeated.
    """
    if fused:
        return -model(input_ids=input_ids, labels=labels, fused_lm_head=True).log_probs.float()
    first = int((labels != IGNORED).any(0).nonzero()[0, 0])  # position t is predicted at t - 1
    first = max(1, first - first % WIDTH_STEP)
    outputs = model(
        input_ids=input_ids, use_cache=False, logits_to_keep=labels.shape[1] - first + 1
    )
    return functional.cross_entropy(
        outputs.logits[:, :-1].flatten(0, 1).float(),
        labels[:, first:].flatten(),
        ignore_index=IGNORED,
        reduction="none",
    ).view(len(labels), -1)


class Progress(ProgressCallback):
    """A bar with the losses behind it, instead of a printed line for each."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        super().on_train_begin(args, state, control, **rest)
        if self.training_bar is not None:
            self.training_bar.set_description("train_generator")

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        names = ("loss", "eval_loss", "eval_f1")
        shown = {name: f"{value:.3f}" for name, value in (logs or {}).items() if name in names}
        if self.training_bar is not None and shown:
            self.training_bar.set_postfix(shown)


class MarkComplete(TrainerCallback):
    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            write_text(Path(args.output_dir) / f"checkpoint-{state.global_step}" / FINISHED, "")
