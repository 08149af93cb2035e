"""Tunes a cross-encoder on the retrievers' mistakes; it is served where dev questions show a gain.

The rows, the training and the choice are in training/reranker/training.py.
"""

from __future__ import annotations

import json
import os
import shutil
from typing import TYPE_CHECKING, Any

from rag_ft.errors import ConfigError
from rag_ft.session import Session
from rag_ft.storage import write_jsonl, write_text

if TYPE_CHECKING:
    from rag_ft.training.retriever.rerank_choice import RerankChoice

Counts = dict[str, int | float | str]


def run(session: Session) -> Counts:
    """Writes the training log and the rejects, reranking.json, and reranker/ where it is served;
    with labels lm or both also reranker_lm_scores.jsonl.

    Raises:
        DataError: something of a test document is among the pairs to train on.
        ConfigError: the model cannot be loaded or takes no adapter, the launcher shards it or
            started too few processes.
    """
    config, run_dir, settings = session.config, session.run_dir, session.config.train_reranker
    if not config.reranker.model or not settings.enabled:
        return {"shipped": 0, "reason": "train_reranker.advanced.enabled is false"}
    from rag_ft.training.distributed import join_processes
    from rag_ft.training.generator.lora import sharded
    from rag_ft.training.reranker.training import (
        RerankerTraining,
        choose,
        teacher_temperature,
        train_reranker,
    )
    from rag_ft.training.retriever.dataset import select_pairs

    if sharded():
        raise ConfigError(
            "with FSDP no process holds the whole reranker, which is small: launch train_reranker "
            "with configs/accelerate/ddp.yaml (the generator may be trained with FSDP)"
        )

    # The rows: pairs of train documents, with what the retrievers take for their gold chunks.
    processes = join_processes()
    pairs = select_pairs(run_dir, session.chunks, config.ingest.advanced.near_duplicate_similarity)
    training = RerankerTraining(session, pairs, processes, list(pairs.rejects))
    rows, tau, reason = training.rows(), 1.0, None
    processes.first(lambda: write_jsonl(run_dir.rejects("train_reranker"), training.rejects))
    counts: Counts = {"num_train_pairs": len(pairs.train), "num_dev_pairs": len(pairs.dev)}
    if not rows:
        reason = "no question of a train document has a gold chunk and another chunk to compare"
    elif settings.advanced.labels != "evidence":
        tau, reason = teacher_temperature(rows)
    if reason:
        return {**counts, "shipped": 0, "reason": reason}

    # Training; then dev questions choose, for each encoder, whether and how it is served.
    history = train_reranker(training, rows, tau)
    choices: dict[str, RerankChoice] = {}
    milliseconds = 0.0

    def decide() -> None:
        nonlocal milliseconds
        for state, tuned in training.states.items():
            choices[state], milliseconds = choose(training, tuned)
        found: dict[str, Any] = {"base": None, "tuned": None}
        found |= {name: choice.row() for name, choice in choices.items()}
        log = [{"stage": "train_reranker", **row} for row in history]
        write_jsonl(run_dir.training_log("train_reranker"), log)
        shutil.rmtree(run_dir.reranker, ignore_errors=True)
        write_text(run_dir.reranking, json.dumps(found, indent=1, ensure_ascii=False) + "\n")
        if any(choice.weight for choice in choices.values()):
            os.replace(training.built, run_dir.reranker)
        shutil.rmtree(training.folder, ignore_errors=True)

    processes.first(decide)
    if not processes.main:
        return counts
    served = list(choices.values())[-1]
    counts |= {"num_rows": len(rows), "num_steps": len(history)}
    counts |= {f"reranking_{name}": choice.reason for name, choice in choices.items()}
    return {
        **counts,
        "shipped": int(any(choice.weight for choice in choices.values())),
        "reason": served.reason,
        "milliseconds": milliseconds,
    }
