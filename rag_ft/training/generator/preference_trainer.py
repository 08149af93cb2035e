"""Preference tuning (DPO, Rafailov et al. 2023) of a generator that was fine-tuned before.

TRL's trainer does the work: optimiser, checkpoints, several processes. As in fine-tuning, rows are
grouped by length, run without an attention mask, and get logits where replies are. The reference is
the generator as it was, whose log-probabilities are computed once, before the first step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftModel
from torch.nn import functional
from transformers import PrinterCallback, ProgressCallback, Trainer
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from rag_ft.config import TrainGeneratorConfig
from rag_ft.fast.shared_prompt import SharedPrompts, shared_logps
from rag_ft.hardware import WIDTH_STEP
from rag_ft.storage import batched
from rag_ft.training.checkpoints import MarkComplete, last_complete
from rag_ft.training.generator.completion_trainer import (
    ArrangementSampler,
    Progress,
    answer_losses,
)
from rag_ft.training.generator.preference_pairs import Preference
from rag_ft.training.generator.tokenization import IGNORED
from rag_ft.training.generator.trainer import NUM_LOGGED, shared_arguments
from rag_ft.training.memory_estimate import divisors

# What a row of the training log keeps of TRL's: its name there -> our name.
LOGGED = {
    "step": "step",
    "loss": "loss",
    "learning_rate": "learning_rate",
    "rewards/margins": "margin",
    "rewards/accuracies": "chosen_preferred",
    "eval_answered_f1": "answered_f1",
    "eval_abstention_f1": "abstention_f1",
}
PHASE = "preference"  # of the rows of the training log
CHOSEN_LOSS = 0.2  # weight of the chosen replies' own loss (RPO, Pang et al. 2024)


@dataclass(frozen=True)
class DevScores:
    """On dev questions: F1 where a gold chunk is shown, and abstention F1 over all (0-1)."""

    answered_f1: float
    abstention_f1: float

    def gain_over(self, other: DevScores) -> float:
        """The mean gain of both, or the loss of one where one falls."""
        gains = (
            self.answered_f1 - other.answered_f1,
            self.abstention_f1 - other.abstention_f1,
        )
        return min(gains) if min(gains) < 0 else sum(gains) / 2


@dataclass(frozen=True)
class Tuned:
    """The model holds the tuned weights if they `won` on dev questions, else those it had before.
    `history` are rows of the training log; `best` are the scores of the weights that are kept."""

    won: bool
    history: list[dict[str, Any]]
    num_steps: int
    start: DevScores
    best: DevScores


def tune(
    model: Any,
    tokenizer: Any,
    preferences: Sequence[Preference],
    measure: Callable[[Any], DevScores],
    args: DPOConfig,
) -> Tuned:
    """Tunes `model` on the preferences, from the newest complete checkpoint on. The best weights by
    `measure` are kept, where both scores of the start are reached and one is exceeded.

    Args:
        model: the fine-tuned model, whole in each process.
        tokenizer: of the model.
        preferences: the same in all processes, at least one.
        measure: the scores of a model on dev questions; all processes call it.
        args: see `arguments`.
    """
    before = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
    start = measure(model)
    trainer = PreferenceTrainer(
        start=start,
        measure=measure,
        model=model,
        args=args,
        train_dataset=_dataset(preferences),
        eval_dataset=_dataset(preferences[:1]),  # transformers asks for one; `measure` is used
        processing_class=tokenizer,
    )
    trainer.train(resume_from_checkpoint=last_complete(Path(trainer.args.output_dir or "")))

    # Tuned weights that do not win on dev questions are given up.
    won = (trainer.state.best_metric or 0.0) > 0
    if not won:
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name in before:
                    parameter.copy_(before[name])
    history = [
        {"stage": PHASE} | {ours: row[name] for name, ours in LOGGED.items() if name in row}
        for row in trainer.state.log_history
    ]
    return Tuned(
        won=won,
        history=[row for row in history if "loss" in row or "answered_f1" in row],
        num_steps=trainer.state.global_step,
        start=start,
        best=trainer.best if won else start,
    )


class PreferenceTrainer(DPOTrainer):
    """DPOTrainer over rows that are tokenised already, for the sigmoid loss. A prompt is computed
    once for both of its replies, where the model can read such rows.

    Args:
        start: the scores of the model as it is.
        measure: the scores of a model; they decide which weights are the best.
        rest: what DPOTrainer takes.
    """

    def __init__(
        self, *, start: DevScores, measure: Callable[[Any], DevScores], **rest: Any
    ) -> None:
        self.start, self.measure = start, measure
        pad = rest["processing_class"].pad_token_id
        plain = DataCollatorForPreference(pad, pad_to_multiple_of=WIDTH_STEP)
        shared = SharedPrompts(pad, WIDTH_STEP)
        some = list(rest["train_dataset"].select(range(min(2, len(rest["train_dataset"])))))
        self.shares_prompt = _agree(rest["model"], plain(some), shared(some))
        collator = shared if self.shares_prompt else plain
        super().__init__(callbacks=[MarkComplete()], data_collator=collator, **rest)
        # TRL keeps a copy of the adapter as reference, which precomputed log-probabilities replace.
        if isinstance(self.model, PeftModel):
            self.model.delete_adapter("ref")
        self.remove_callback(ProgressCallback)
        self.remove_callback(PrinterCallback)
        self.add_callback(Progress())

    @property
    def best(self) -> DevScores:
        """The scores of the best weights, from the log, which a resumed training continues."""
        step = self.state.best_global_step
        rows = [r for r in self.state.log_history if r["step"] == step and "eval_gain" in r]
        return DevScores(rows[-1]["eval_answered_f1"], rows[-1]["eval_abstention_f1"])

    def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
        """Nothing is left to do."""
        return dataset

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        """Each process scores a part of the rows; all get all. TRL's own way goes through a file
        that one process alone can read."""
        if name != "train":
            return dataset
        from accelerate.utils import gather_object

        rank, count = self.args.process_index, self.args.world_size
        numbers = sorted(range(len(dataset)), key=lambda n: len(dataset[n]["prompt_ids"]))
        mine, scores = numbers[rank::count], []
        for some in batched(mine, batch_size):
            batch = self.data_collator([dataset[n] for n in some])
            inputs = {name: tensor.to(self.args.device) for name, tensor in batch.items()}
            with torch.no_grad(), self.compute_loss_context_manager():
                chosen, rejected, _ = self.reply_logps(self.model, inputs)
            scores += list(zip(some, chosen.tolist(), rejected.tolist(), strict=True))
        found = {n: logps for n, *logps in gather_object(scores)}
        columns = zip(*(found[n] for n in range(len(dataset))), strict=True)
        for column, values in zip(("ref_chosen_logps", "ref_rejected_logps"), columns, strict=True):
            dataset = dataset.add_column(column, list(values))
        return dataset

    def reply_logps(self, model: Any, inputs: Any) -> tuple[Any, Any, Any]:
        """log p (nats, float32) of the chosen and of the rejected replies, and the tokens of the
        chosen ones."""
        return (shared_logps if self.shares_prompt else plain_logps)(model, inputs)

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """-log sigmoid of the margin, and a share of the chosen replies' own loss, which keeps them
        likely. A mean over the pairs of the step, over all forward passes and processes."""
        chosen, rejected, num_tokens = self.reply_logps(model, inputs)
        gains = chosen - inputs["ref_chosen_logps"], rejected - inputs["ref_rejected_logps"]
        margins = self.beta * (gains[0] - gains[1])
        kept = CHOSEN_LOSS * -chosen / num_tokens
        logged = self._metrics["train" if model.training else "eval"]
        logged["rewards/margins"].append(margins.mean().item())
        logged["rewards/accuracies"].append((margins > 0).float().mean().item())

        # transformers divides by the number of passes, and averages over the processes.
        per_pass = self.args.train_batch_size
        return (kept - functional.logsigmoid(margins)).sum() / per_pass

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        """Each step's pairs, drawn at random, are shared out over its forward passes by length."""
        dataset: Any = self.train_dataset if train_dataset is None else train_dataset
        columns = zip(
            *(dataset[n] for n in ("prompt_ids", "chosen_ids", "rejected_ids")), strict=True
        )
        lengths = [len(prompt) + max(len(c), len(r)) for prompt, c, r in columns]
        return ArrangementSampler.of(self.args, lengths)

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """The scores on dev questions, and the gain over the start, by which weights are chosen."""
        scores = self.measure(self.model)
        metrics = {f"eval_{name}": value for name, value in asdict(scores).items()}
        metrics["eval_gain"] = scores.gain_over(self.start)
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """Without TRL's model card, which a checkpoint does not need."""
        Trainer._save_checkpoint(self, model, trial)


def arguments(
    settings: TrainGeneratorConfig,
    dtype: str,
    seed: int,
    num_preferences: int,
    rows_per_pass: int,
    num_processes: int,
    folder: Path,
) -> DPOConfig:
    """TRL's settings for one pass over the preferences, with checkpoints in `folder`.

    `rows_per_pass`: examples in a forward pass of fine-tuning; a preference has two rows, so half
    as many fit. `dtype` is run.dtype.
    """
    advanced, share = settings.advanced, settings.batch_size // num_processes
    device_pairs = next(size for size in divisors(share) if size <= max(1, rows_per_pass // 2))
    num_steps = math.ceil(num_preferences / settings.batch_size)
    every = math.ceil(num_steps / advanced.evaluations)
    return DPOConfig(
        **shared_arguments(settings, dtype, seed),
        output_dir=str(folder),
        num_train_epochs=1,
        per_device_train_batch_size=device_pairs,
        per_device_eval_batch_size=device_pairs,
        gradient_accumulation_steps=share // device_pairs,
        learning_rate=advanced.preference_learning_rate,
        eval_strategy="steps",
        eval_steps=every,
        save_steps=every,
        load_best_model_at_end=True,
        metric_for_best_model="eval_gain",
        greater_is_better=True,
        logging_steps=max(1, num_steps // NUM_LOGGED),
        beta=advanced.preference_beta,
        precompute_ref_log_probs=True,
        max_length=None,
        pad_to_multiple_of=WIDTH_STEP,
    )


def plain_logps(model: Any, inputs: Any) -> tuple[Any, Any, Any]:
    """As `shared_logps`, of a batch of TRL's, in which each reply is a row with its prompt."""
    mask = inputs["completion_mask"]
    labels = inputs["input_ids"].masked_fill(mask == 0, IGNORED)
    losses = answer_losses(model, inputs["input_ids"], labels, fused=labels.device.type == "cuda")
    chosen, rejected = (-losses.sum(1)).chunk(2)
    return chosen, rejected, mask[: len(chosen)].sum(1)


def _agree(model: Any, plain: Any, shared: Any) -> bool:
    """Whether the model gives the same log-probabilities where a prompt is computed once for both
    replies: not all kinds of attention read such a mask."""
    unfit = (TypeError, ValueError, IndexError, RuntimeError, NotImplementedError)
    device = model.device
    try:
        with torch.no_grad():
            one = plain_logps(model, {n: t.to(device) for n, t in plain.items()})
            other = shared_logps(model, {n: t.to(device) for n, t in shared.items()})
    except unfit:
        return False
    tolerance = 1e-3 if model.dtype == torch.float32 else 0.05
    return all(
        torch.allclose(a.float(), b.float(), rtol=tolerance, atol=tolerance)
        for a, b in zip(one, other, strict=True)
    )


def _dataset(preferences: Sequence[Preference]) -> Dataset:
    columns = {
        f"{name}_ids": [list(getattr(preference, name)) for preference in preferences]
        for name in ("prompt", "chosen", "rejected")
    }
    return Dataset.from_dict(columns)
