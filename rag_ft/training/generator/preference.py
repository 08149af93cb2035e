"""Preference tuning, from train questions to weights: the fine-tuned model replies, its replies are
compared, and it learns from the pairs of a better and a worse one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from rag_ft.config import LLMConfig, TrainGeneratorConfig
from rag_ft.fast.decoding import Row
from rag_ft.storage import read_rows, write_jsonl
from rag_ft.training.distributed import Processes
from rag_ft.training.generator.completion_trainer import CompletionTrainer
from rag_ft.training.generator.dataset import TrainingSet
from rag_ft.training.generator.dev_f1 import continue_rows
from rag_ft.training.generator.preference_pairs import (
    Compared,
    Preference,
    Replying,
    balance,
    compare,
    judge,
    quadrants,
)
from rag_ft.training.generator.preference_prompts import PreferencePrompt
from rag_ft.training.generator.preference_trainer import PHASE, DevScores, arguments, tune
from rag_ft.training.generator.trainer import as_in_training


def replying_of(
    settings: TrainGeneratorConfig, llm: LLMConfig, max_tokens: int, seed: int
) -> Replying:
    """How replies of at most `max_tokens` tokens are asked for and judged, as configured."""
    advanced = settings.advanced
    return Replying(
        dtype=llm.dtype,
        abstain=llm.advanced.abstain,
        max_tokens=max_tokens,
        seed=seed,
        cite=bool(advanced.cite),
        num_samples=advanced.preference_samples,
    )


def tune_by_preference(
    trainer: CompletionTrainer,
    data: TrainingSet,
    settings: TrainGeneratorConfig,
    replying: Replying,
    folder: Path,
    processes: Processes,
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Tunes the model that `trainer` fine-tuned, in place, if that wins on the dev questions. All
    processes call it; a killed one goes on from what is in `folder`.

    Returns:
        (rows of the training log, with one for each quadrant; counts for the done-file).
    """
    model, tokenizer = trainer.model, trainer.processing_class
    compared = _compare_all(model, tokenizer, data.preference, replying, folder, processes)
    preferences = balance((c.preference for c in compared if c.preference), replying.seed)
    table = [{"stage": PHASE, **row} for row in quadrants(compared, preferences)]
    counts: dict[str, Any] = {"num_preferences": len(preferences), "preference_won": 0}
    if len(preferences) < settings.batch_size or not data.preference_dev:
        return table, counts

    def measure(tuned: Any) -> DevScores:
        with as_in_training(tuned, replying.dtype):
            asked = data.preference_dev
            return dev_scores(tuned, tokenizer, asked, replying.abstain, replying.max_tokens)

    args = arguments(
        settings,
        replying.dtype,
        replying.seed,
        len(preferences),
        trainer.args.per_device_train_batch_size,
        processes.count,
        folder,
    )
    tuned = tune(model, tokenizer, preferences, measure, args)
    counts |= {
        "preference_won": int(tuned.won),
        "num_preference_steps": tuned.num_steps,
        "dev_answered_f1_start": round(tuned.start.answered_f1, 4),
        "dev_answered_f1_best": round(tuned.best.answered_f1, 4),
        "dev_abstention_f1_start": round(tuned.start.abstention_f1, 4),
        "dev_abstention_f1_best": round(tuned.best.abstention_f1, 4),
    }
    return [*table, *tuned.history], counts


def _compare_all(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[PreferencePrompt],
    replying: Replying,
    folder: Path,
    processes: Processes,
) -> list[Compared]:
    """Each process asks about a part of the pairs and writes a file; all read all files. A file of
    an interrupted start is kept."""
    files = [
        folder / f"compared-{rank}-of-{processes.count}.jsonl" for rank in range(processes.count)
    ]
    mine = files[processes.rank]
    numbers = {id: n for n, id in enumerate(dict.fromkeys(p.pair_id for p in prompts))}
    if not mine.exists():
        part = [p for p in prompts if numbers[p.pair_id] % processes.count == processes.rank]
        with as_in_training(model, replying.dtype):
            compared = compare(model, tokenizer, part, replying)
        folder.mkdir(parents=True, exist_ok=True)
        write_jsonl(mine, compared)
    processes.wait()
    found = [_compared(row) for file in files for row in read_rows(file)]
    return sorted(found, key=lambda one: numbers[one.pair_id])


def _compared(row: dict[str, Any]) -> Compared:
    found = row["preference"]
    if found is not None:
        lists = {name: tuple(found[name]) for name in ("prompt", "chosen", "rejected")}
        found = Preference(**{**found, **lists})
    return Compared(**{**row, "preference": found})


def dev_scores(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[PreferencePrompt],
    abstain: str,
    max_tokens: int,
) -> DevScores:
    """The scores of the greedy replies to prompts with chunks, the same in every process: each
    process answers a part. All call it, each with the whole model."""
    from accelerate import PartialState
    from accelerate.utils import reduce

    state = PartialState()
    mine = list(prompts[state.process_index :: state.num_processes])
    texts = continue_rows(model, tokenizer, [Row(p.prompt, max_tokens) for p in mine])
    answered = num_answerable = right = abstained = 0.0
    for prompt, text in zip(mine, texts, strict=True):
        score, abstains = judge(text, prompt, abstain, cite=False)
        abstained += abstains
        if prompt.answers:
            answered += score
            num_answerable += 1
        else:
            right += score
    sums = torch.tensor([answered, num_answerable, right, abstained], device=state.device)
    answered, num_answerable, right, abstained = reduce(sums, "sum").tolist()
    num_abstain = len(prompts) - num_answerable
    # F1 of "abstains" against "no shown chunk is gold".
    found = abstained + num_abstain
    return DevScores(
        answered_f1=answered / num_answerable if num_answerable else 0.0,
        abstention_f1=2 * right / found if found else 1.0,
    )
