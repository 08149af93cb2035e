"""A run folder that is ready for train_reranker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from rag_ft.config import Config, RerankerConfig, TrainRerankerConfig
from rag_ft.config_training import TrainRerankerAdvanced
from rag_ft.retrieval.reranker import Reranker
from rag_ft.run_dir import RunDir
from rag_ft.schema import QAPair
from rag_ft.session import Session
from rag_ft.storage import read_jsonl
from rag_ft.training.distributed import join_processes
from rag_ft.training.reranker.training import RerankerTraining
from rag_ft.training.retriever.dataset import TrainingRow, select_pairs


def with_reranker(config: Config, **settings: Any) -> Config:
    """The configuration with a reranker that starts from the encoder; keys are train_reranker's."""
    values = {"batch_size": 8, "learning_rate": 3e-3, "num_negatives": 3, **settings}
    section = TrainRerankerConfig(advanced=TrainRerankerAdvanced(**values))
    model = RerankerConfig(model="auto")
    return config.model_copy(update={"reranker": model, "train_reranker": section})


def mine_rows(config: Config, run_dir: RunDir) -> list[TrainingRow]:
    """The rows that train_reranker trains on; they stand in its folder."""
    session = Session(config, run_dir)
    pairs = select_pairs(run_dir, session.chunks, 0.8)
    return RerankerTraining(session, pairs, join_processes()).rows()


def knows_gold(monkeypatch: pytest.MonkeyPatch, run_dir: RunDir) -> dict[str, str]:
    """From now on every reranker scores the gold chunk highest. Returns it by question."""
    gold = {pair.question: pair.chunk_id or "" for pair in read_jsonl(run_dir.qa, QAPair)}

    def scores(self: Reranker, question: str, ids: Sequence[str]) -> np.ndarray:
        return np.array([0.9 if chunk_id == gold[question] else 0.1 for chunk_id in ids])

    monkeypatch.setattr(Reranker, "scores", scores)
    return gold
