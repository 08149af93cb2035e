"""Tunes a cross-encoder on the retrievers' mistakes; it is served where dev questions show a gain.

The rows, the training and the choice are in training/reranker/training.py.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rag_ft.evaluation.components import NO_RERANKER
from rag_ft.session import Session
from rag_ft.storage import write_json, write_jsonl

if TYPE_CHECKING:
    from rag_ft.training.reranker.training import RerankerTraining

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
        reason = (
            "train_reranker.advanced.enabled is false" if config.reranker.model else NO_RERANKER
        )
        return {"shipped": 0, "reason": reason}
    from rag_ft.training.distributed import join_processes, refuse_sharding
    from rag_ft.training.reranker.training import (
        RerankerTraining,
        teacher_temperature,
        train_reranker,
    )
    from rag_ft.training.retriever.dataset import select_pairs

    refuse_sharding("train_reranker", "reranker")

    # The rows: pairs of train documents, with what the retrievers take for their gold chunks.
    processes = join_processes()
    pairs = select_pairs(run_dir, session.chunks, config.ingest.advanced.near_duplicate_similarity)
    training = RerankerTraining(session, pairs, processes, list(pairs.rejects))
    rows, tau = training.rows(), 1.0
    processes.first(lambda: write_jsonl(run_dir.rejects("train_reranker"), training.rejects))
    counts: Counts = {"num_train_pairs": len(pairs.train), "num_dev_pairs": len(pairs.dev)}
    refusal: str | None = None
    if not rows:
        refusal = "no question of a train document has a gold chunk and another chunk to compare"
    elif settings.advanced.labels != "evidence":
        tau, refusal = teacher_temperature(rows)
    if refusal:
        return {**counts, "shipped": 0, "reason": refusal}

    # Training; then dev questions choose, for each encoder, whether and how it is served.
    history = train_reranker(training, rows, tau)
    milliseconds = processes.first(lambda: serve(training, history)) or 0.0
    rows_by_state = json.loads(run_dir.reranking.read_text(encoding="utf-8"))
    choices = {state: row for state, row in rows_by_state.items() if row}
    return {
        **counts,
        "num_rows": len(rows),
        "num_steps": len(history),
        "shipped": int(any(row["weight"] for row in choices.values())),
        "reason": list(choices.values())[-1]["reason"],
        "milliseconds": milliseconds,
        **{f"reranking_{state}": row["reason"] for state, row in choices.items()},
    }


def serve(training: RerankerTraining, history: Sequence[Mapping[str, float]]) -> float:
    """Chooses how the tuned reranker follows each retriever, and writes the training log,
    reranking.json, and reranker/ where some choice takes it. Returns its milliseconds."""
    from rag_ft.training.reranker.training import choose

    run_dir = training.session.run_dir
    choices, milliseconds = dict[str, Any](), 0.0
    for state, tuned in training.states.items():
        choices[state], milliseconds = choose(training, tuned)
    log = ({"stage": "train_reranker", **row} for row in history)
    write_jsonl(run_dir.training_log("train_reranker"), log)
    rows = {"base": None, "tuned": None, **{name: c.row() for name, c in choices.items()}}
    write_json(run_dir.reranking, rows, indent=1)
    shutil.rmtree(run_dir.reranker, ignore_errors=True)
    if any(choice.weight for choice in choices.values()):
        os.replace(training.built, run_dir.reranker)
    shutil.rmtree(training.folder, ignore_errors=True)
    return milliseconds
