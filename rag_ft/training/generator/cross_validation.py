"""Cross-validation by document: what training gains on train documents that it did not see, and how
much that varies.

Each fold is trained as the generator itself is (same settings, stopped by the same dev documents),
without the examples made from the fold's documents, and then answers the questions about these.
Chunks of those documents may still be distractors in other examples: no loss is taken over them.
"""

from __future__ import annotations

import gc
import shutil
from collections.abc import Collection, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rag_ft.config import Config
from rag_ft.documents.splits import hash_share
from rag_ft.errors import ConfigError
from rag_ft.evaluation.statistics import spread
from rag_ft.run_dir import RunDir
from rag_ft.schema import Document
from rag_ft.storage import JsonlAppender, read_jsonl, read_rows
from rag_ft.training.dev_split import group_near_duplicates
from rag_ft.training.distributed import Processes
from rag_ft.training.generator.context_layouts import longest_answer
from rag_ft.training.generator.dataset import TrainingSet
from rag_ft.training.generator.dev_f1 import mean_f1
from rag_ft.training.generator.lora import load_base
from rag_ft.training.generator.trainer import as_in_training, dataset_of, train


def cross_validate(
    config: Config, run_dir: RunDir, data: TrainingSet, tokenizer: Any, processes: Processes
) -> dict[str, int | float]:
    """Writes folds.jsonl, one row per fold (rows of an earlier start are kept), and returns means
    and spread over the rows.

    Raises:
        ConfigError: there are fewer train documents with questions than folds.
    """
    num_folds = config.train_generator.advanced.cross_validation_folds
    trained_on = {example.document_id for example in data.train if example.kind != "replay"}
    asked = {question.document_id for question in data.fold_questions}
    texts = {d.id: d.text for d in read_jsonl(run_dir.documents, Document) if d.id in trained_on}
    similarity = config.ingest.advanced.near_duplicate_similarity
    # Folds that an interrupted run has finished are not trained again.
    fold_of = folds_of(texts, asked, num_folds, similarity)
    done = {row["fold"] for row in read_rows(run_dir.folds)} if run_dir.folds.exists() else set()
    for fold in sorted(set(range(num_folds)) - done):
        held_out = {document for document, number in fold_of.items() if number == fold}
        folder = run_dir.checkpoints("train_generator") / f"fold-{fold}"
        measured = _validate_fold(config, data, held_out, tokenizer, folder, processes)
        gc.collect()  # a trainer and its model refer to each other
        row = {"fold": fold, **measured}
        processes.first(partial(_record_fold, run_dir.folds, row, folder))
    return summary(list(read_rows(run_dir.folds)))


def folds_of(
    texts: Mapping[str, str], asked: Collection[str | None], num_folds: int, similarity: float
) -> dict[str, int]:
    """document id -> fold (from 0), of the documents `asked` about and their near-duplicates.

    Near-duplicates share a fold, asked about or not: otherwise a copy of a held-out document would
    be trained on. Folds hold about as many groups each; hashes of the ids decide which.

    Args:
        texts: text by document id, of all documents that are trained on.
        asked: ids of the documents with questions.
        num_folds: at least 2.
        similarity: 0-1, from which on two texts are near-duplicates.

    Raises:
        ConfigError: there are fewer groups with questions than folds.
    """
    group_of = group_near_duplicates(texts.items(), similarity)
    groups = [group_of[i] for i in sorted(texts, key=hash_share) if i in asked]
    order = {group: number for number, group in enumerate(dict.fromkeys(groups))}
    if len(order) < num_folds:
        raise ConfigError(
            f"train_generator.advanced.cross_validation_folds={num_folds}: only {len(order)} "
            "train documents have questions: lower it"
        )
    return {i: order[group] % num_folds for i, group in group_of.items() if group in order}


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, int | float]:
    """Counts for the done-file: means over the folds, and the standard deviation of the gain."""
    counts: dict[str, int | float] = {"folds": len(rows)}
    for name in ("dev_loss", "f1_base", "f1_tuned", "delta"):
        counts[f"folds_{name}"] = round(spread([row[name] for row in rows])["mean"], 4)
    counts["folds_delta_sd"] = round(spread([row["delta"] for row in rows])["sd"], 4)
    return counts


def _validate_fold(
    config: Config,
    data: TrainingSet,
    held_out: set[str],
    tokenizer: Any,
    folder: Path,
    processes: Processes,
) -> dict[str, int | float]:
    """Trains without the examples of the documents `held_out`, and measures on these documents:
    dev loss (nats per token), F1 (0-1) of the base and the tuned model, and their difference."""
    questions = [q for q in data.fold_questions if q.document_id in held_out]
    learned = [e for e in data.train if e.document_id not in held_out]
    abstain, dtype = config.llm.advanced.abstain, config.llm.dtype
    longest = longest_answer(data.train)

    # All processes answer a part of the questions, before and after the training.
    model = load_base(config.llm, config.train_generator)
    with as_in_training(model, dtype):
        base = mean_f1(model, tokenizer, questions, abstain, longest)
    dev_questions = data.dev_questions
    trainer = train(
        config, tokenizer, learned, data.dev, folder, processes, model, dev_questions
    ).trainer
    with as_in_training(trainer.model, dtype):
        tuned = mean_f1(trainer.model, tokenizer, questions, abstain, longest)

    # The loss is measured on one arrangement of the pairs, without the base model's own replies.
    first_pass = [e for e in data.train if e.kind != "replay" and not e.arrangement]
    unseen = [e for e in first_pass if e.document_id in held_out]
    loss = trainer.evaluate(dataset_of(unseen))["eval_loss"]
    return {
        "num_train": len(learned),
        "num_dev": len(questions),
        "dev_loss": round(loss, 4),
        "f1_base": round(base, 4),
        "f1_tuned": round(tuned, 4),
        "delta": round(tuned - base, 4),
    }


def _record_fold(path: Path, row: dict[str, Any], folder: Path) -> None:
    """The row marks the fold as done; its checkpoints are then of no use."""
    with JsonlAppender(path) as rows:
        rows.write(row)
    shutil.rmtree(folder, ignore_errors=True)
