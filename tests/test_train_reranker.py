"""The training of a reranker: its rows, its weights, and whether it is served."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from retriever_run import MakeRun, PlantedModel, plant, prepare

from rag_ft.config import Config, RerankerConfig, TrainRerankerConfig
from rag_ft.config_training import TrainRerankerAdvanced
from rag_ft.retrieval.reranker import Reranker
from rag_ft.run_dir import RunDir
from rag_ft.schema import QAPair
from rag_ft.session import Session
from rag_ft.stages import train_reranker, train_retriever
from rag_ft.storage import read_jsonl, read_rows
from rag_ft.training.reranker import training as reranker_training
from rag_ft.training.reranker.dataset import target, to_lists
from rag_ft.training.retriever import trainer
from rag_ft.training.retriever.dataset import RowChunk, TrainingRow


def with_reranker(config: Config, **settings: Any) -> Config:
    """The configuration with a reranker that starts from the encoder; keys are train_reranker's."""
    values = {"epochs": 8, "learning_rate": 2e-3, "num_negatives": 3, **settings}
    section = TrainRerankerConfig(advanced=TrainRerankerAdvanced(**values))
    return config.model_copy(
        update={"reranker": RerankerConfig(model="auto"), "train_reranker": section}
    )


@pytest.fixture
def prepared(make_run: MakeRun) -> tuple[Config, RunDir]:
    """A run whose encoder was not tuned."""
    config, run_dir = prepare(make_run, enabled=False)
    train_retriever.run(Session(config, run_dir))
    return config, run_dir


def knows_gold(monkeypatch: pytest.MonkeyPatch, run_dir: RunDir) -> None:
    """From now on every reranker scores the gold chunk highest."""
    gold = {pair.question: pair.chunk_id for pair in read_jsonl(run_dir.qa, QAPair)}

    def scores(self: Reranker, question: str, ids: Sequence[str]) -> np.ndarray:
        return np.array([0.9 if chunk_id == gold[question] else 0.1 for chunk_id in ids])

    monkeypatch.setattr(Reranker, "scores", scores)


def test_smoke(prepared: tuple[Config, RunDir], monkeypatch) -> None:
    config, run_dir = prepared
    config = with_reranker(config)
    counts = train_reranker.run(Session(config, run_dir))
    print(counts)
    print(run_dir.reranking.read_text())
    assert 0
