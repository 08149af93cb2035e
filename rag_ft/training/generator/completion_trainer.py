"""TRL's SFTTrainer with the loss on answers alone and little padding, and its callbacks.

The overrides below are there for speed and for an exact resume; without them TRL pads more and
computes logits of prompts. They rely on methods of transformers and TRL that are private, so the
versions of both are pinned, and tests compare what each override promises with a plain computation.
"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.nn import functional
from transformers import (
    EarlyStoppingCallback,
    PrinterCallback,
    ProgressCallback,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_pt_utils import BatchRebalanceSampler
from trl import SFTTrainer

from rag_ft.hardware import WIDTH_STEP
from rag_ft.storage import batched
from rag_ft.training.checkpoints import MarkComplete
from rag_ft.training.generator.tokenization import IGNORED


class CompletionTrainer(SFTTrainer):
    """SFTTrainer over rows that are tokenised already.

    * A step's examples are drawn at random and shared out over its forward passes by length.
    * Padded rows run without an attention mask, and logits are computed where answers are (TRL does
      the latter only on GPUs).
    * The dev loss is a mean over tokens, however they are batched.
    * A training that had ended when it was killed makes no further step.
    * Checkpoints carry no model card.

    Args:
        arrangements: those of the rows, see `ArrangementSampler`.
        measure: returns the model's F1 (0-1), at every evaluation; `measure_seconds` is the time
            that it took in all.
        patience: evaluations without better weights before the training stops; 0: it never stops.
        callbacks: transformers' callbacks beside those of this module.
        rest: what SFTTrainer takes.
    """

    def __init__(
        self,
        *,
        arrangements: Sequence[int] = (),
        measure: Callable[[Any], float] | None = None,
        patience: int = 0,
        callbacks: Sequence[TrainerCallback] = (),
        **rest: Any,
    ) -> None:
        stops = [EarlyStoppingCallback(early_stopping_patience=patience)] if patience else []
        super().__init__(callbacks=[MarkComplete(), *stops, *callbacks], **rest)
        self.arrangements, self.measure, self.measure_seconds = arrangements, measure, 0.0
        # One bar with the latest losses, instead of transformers' bar and a printed line for each.
        self.remove_callback(ProgressCallback)
        self.remove_callback(PrinterCallback)
        self.add_callback(Progress())

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """Rows by arrangement, each step's rows spread by length. TRL packs rows by its own."""
        dataset: Any = self.train_dataset if train_dataset is None else train_dataset
        if self.padding_free:
            return super()._get_train_sampler(dataset)
        lengths = [len(ids) for ids in dataset["input_ids"]]
        return ArrangementSampler.of(self.args, lengths, self.arrangements)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Mean -log p over the answer tokens of the whole step, over all its forward passes and
        processes; `num_items_in_batch` is the number of these tokens."""
        if self.padding_free or return_outputs:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        labels = inputs["labels"]
        on_gpu = labels.device.type == "cuda"
        total = answer_losses(model, inputs["input_ids"], labels, fused=on_gpu).sum()
        if num_items_in_batch is None:
            return total / (labels != IGNORED).sum()
        # Gradients are averaged over processes, so each process's share is scaled up before.
        scale = self.accelerator.num_processes if self.args.average_tokens_across_devices else 1
        return total / num_items_in_batch * scale

    def prediction_step(self, model: Any, inputs: Any, *_: Any, **__: Any) -> Any:
        """Adds each row's loss to the dev loss. Rows that fill up an uneven last batch count once,
        which `gather_for_metrics` sees to."""
        inputs = self._prepare_inputs(inputs)
        labels = inputs["labels"]
        on_gpu = labels.device.type == "cuda"
        with torch.no_grad(), self.compute_loss_context_manager():
            losses = answer_losses(model, inputs["input_ids"], labels, fused=on_gpu)
        rows = torch.stack([losses.double().sum(1), (labels != IGNORED).sum(1).double()], 1)
        self._dev_sums += self.accelerator.gather_for_metrics(rows).sum(0)
        return losses.detach().sum(), None, None

    def evaluation_loop(self, *args: Any, **rest: Any) -> Any:
        """Replaces transformers' mean over batches by a mean over tokens, and adds the F1."""
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
        """A resumed training that had ended takes no step: transformers takes one before it looks
        at the number of steps and at the patience."""
        callbacks = self.callback_handler.callbacks
        stops = [c for c in callbacks if isinstance(c, EarlyStoppingCallback)]
        out_of_patience = any(
            stop.early_stopping_patience_counter >= stop.early_stopping_patience for stop in stops
        )
        if self.state.global_step >= self.state.max_steps or out_of_patience:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **rest)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Without TRL's model card, which a checkpoint does not need."""
        Trainer._save_checkpoint(self, model, trial)


class ArrangementSampler(BatchRebalanceSampler):
    """The rows of arrangement 0 shuffled, then those of arrangement 1, and so on: wherever the
    training stops, no pair was seen a second time before all were seen once.

    `arrangements` holds a number per row; without it all rows belong to arrangement 0.
    """

    def __init__(self, arrangements: Sequence[int], **rest: Any) -> None:
        super().__init__(**rest)
        self.arrangements = list(arrangements) or [0] * len(self.lengths)

    @classmethod
    def of(
        cls, args: TrainingArguments, lengths: list[int], arrangements: Sequence[int] = ()
    ) -> ArrangementSampler:
        """Rows of these lengths, shared out as the trainer's arguments say."""
        num_passes = args.gradient_accumulation_steps * args.world_size
        return cls(
            arrangements,
            lengths=lengths,
            effective_batch_size=args.train_batch_size * num_passes,
            dp_size=args.world_size,
            grad_accum=args.gradient_accumulation_steps,
            seed=args.seed,
            rank=args.process_index,
            drop_last=False,
        )

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        shuffled = torch.randperm(len(self.lengths), generator=generator).tolist()
        order = sorted(shuffled, key=self.arrangements.__getitem__)

        # The last step is filled up with rows of the first: no forward pass of any process may be
        # empty.
        least = self.dp_size * self.grad_accum
        for step in batched(order, self.effective_batch_size):
            while len(step) < least:
                step += order[: least - len(step)]
            yield from self._yield_global_batch(step)


def answer_losses(model: Any, input_ids: Any, labels: Any, fused: bool) -> Any:
    """-log p of the labels: a row of losses (float32, nats) for each row of `labels`.

    A loss is 0 where the label is IGNORED. Rows may be shorter than those of `labels`, since the
    leading columns without any label are left out.

    Args:
        model: a causal language model that accepts `logits_to_keep`.
        input_ids: token ids (rows, width), padded on the right. No token looks at the padding, so
            attention needs no mask; that is its fastest form, and keys and values that heads share
            need not be repeated.
        labels: (rows, width), IGNORED in prompts and padding.
        fused: by the output head that TRL puts on the model, which on GPUs reads exactly the
            positions with a label.
    """
    if fused:
        return -model(input_ids=input_ids, labels=labels, fused_lm_head=True).log_probs.float()
    # The logits begin at the first column with a label in any row, rounded down, so that there are
    # few different widths. The token at position t is predicted at t - 1.
    first = int((labels != IGNORED).any(0).nonzero()[0, 0])
    first = max(1, first - first % WIDTH_STEP)
    num_kept = labels.shape[1] - first + 1
    # Some models (BLOOM, Mamba) always compute all logits.
    options = {"logits_to_keep": num_kept} if takes(model, "logits_to_keep") else {}
    logits = model(input_ids=input_ids, use_cache=False, **options).logits[:, -num_kept:]
    return functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(),
        labels[:, first:].flatten(),
        ignore_index=IGNORED,
        reduction="none",
    ).view(len(labels), -1)


def takes(model: Any, argument: str) -> bool:
    """Whether the model's forward has an argument of this name; wrappers (PEFT, DDP) are looked
    through."""
    model = getattr(model, "module", model)
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    return argument in inspect.signature(model.forward).parameters


class Progress(ProgressCallback):
    """A bar that shows the latest losses."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
        """Names the bar after the stage."""
        super().on_train_begin(args, state, control, **rest)
        if self.training_bar is not None:
            self.training_bar.set_description("train_generator")

    def on_log(
        self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **_: Any
    ) -> None:
        """Shows losses and F1 behind the bar."""
        names = ("loss", "eval_loss", "eval_f1")
        shown = {name: f"{value:.3f}" for name, value in (logs or {}).items() if name in names}
        if self.training_bar is not None and shown:
            self.training_bar.set_postfix(shown)
