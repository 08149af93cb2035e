"""Cross-validation by document: what the training gains on train documents it did not see, and how much that varies.

Each fold is trained as the generator itself is (same settings, stopped by the same dev documents), without the examples
made from its documents, and then asked about these. Their chunks may still stand as distractors in other examples,
where no token of them is learned.
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
    """Writes folds.jsonl, a row a fold (those there already are kept), and returns means and spread of its rows.

    Raises:
        ConfigError: fewer train documents than folds.
    """
    k = config.train_generator.advanced.cross_validation_folds
    learned = {example.document_id for example in data.train if example.kind != "replay"}
    asked = {question.document_id for question in data.fold_questions}
    texts = {d.id: d.text for d in read_jsonl(run_dir.documents, Document) if d.id in learned}
    fold_of = folds_of(texts, asked, k, config.ingest.advanced.near_duplicate_similarity)
    done = {row["fold"] for row in read_rows(run_dir.folds)} if run_dir.folds.exists() else set()
    for fold in sorted(set(range(k)) - done):
        held = {document for document, number in fold_of.items() if number == fold}
        folder = run_dir.checkpoints("train_generator") / f"fold-{fold}"
        row = {"fold": fold, **_validate(config, data, held, tokenizer, folder, processes)}
        gc.collect()
        processes.first(partial(_finish, run_dir.folds, row, folder))
    return summary(list(read_rows(run_dir.folds)))


def folds_of(
    texts: Mapping[str, str], asked: Collection[str | None], k: int, similarity: float
) -> dict[str, int]:
    """document id -> fold, of those `asked` and their near-duplicates, asked or not, which share a fold: else a copy of
    what is asked about would be trained on. Folds are of about as many groups, decided by the ids' hashes."""
    group_of = group_near_duplicates(texts.items(), similarity)
    first = [group_of[i] for i in sorted(texts, key=hash_share) if i in asked]
    order = {group: n for n, group in enumerate(dict.fromkeys(first))}
    if len(order) < k:
        raise ConfigError(
            f"train_generator.advanced.cross_validation_folds={k}: only {len(order)} train documents have questions: lower it"
        )
    return {i: order[group] % k for i, group in group_of.items() if group in order}


def summary(rows: Sequence[Mapping[str, Any]]) -> dict[str, int | float]:
    """For the done-file: means over the folds, and the standard deviation of the gain."""
    found = {
        name: spread([row[name] for row in rows])
        for name in ("dev_loss", "f1_base", "f1_tuned", "delta")
    }
    means = {f"folds_{name}": round(values["mean"], 4) for name, values in found.items()}
    return {"folds": len(rows), **means, "folds_delta_sd": round(found["delta"]["sd"], 4)}


def _validate(
    config: Config,
    data: TrainingSet,
    held: set[str],
    tokenizer: Any,
    folder: Path,
    processes: Processes,
) -> dict[str, int | float]:
    questions = [q for q in data.fold_questions if q.document_id in held]
    learned = [e for e in data.train if e.document_id not in held]
    unseen = [
        e for e in data.train if e.document_id in held and e.kind != "replay" and not e.arrangement
    ]
    model, abstain, longest = (
        load_base(config),
        config.llm.advanced.abstain,
        longest_answer(data.train),
    )
    with as_in_training(config, model):
        base = mean_f1(model, tokenizer, questions, abstain, longest)
    trainer = train(
        config, tokenizer, learned, data.dev, folder, processes, model, data.dev_questions
    ).trainer
    with as_in_training(config, trainer.model):
        tuned = mean_f1(trainer.model, tokenizer, questions, abstain, longest)
    loss = trainer.evaluate(dataset_of(unseen))["eval_loss"]
    values = {"dev_loss": loss, "f1_base": base, "f1_tuned": tuned, "delta": tuned - base}
    counts = {"num_train": len(learned), "num_dev": len(questions)}
    return {**counts, **{name: round(value, 4) for name, value in values.items()}}


def _finish(path: Path, row: dict[str, Any], folder: Path) -> None:
    with JsonlAppender(path) as rows:
        rows.write(row)
    shutil.rmtree(folder, ignore_errors=True)
