"""A version whose trainings start from what its parent tuned."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from generator_run import prepare as prepare_generator
from retriever_run import MakeRun
from retriever_run import prepare as prepare_retriever
from safetensors.torch import load_file

from rag_ft.config import Config
from rag_ft.errors import ConfigError
from rag_ft.run_dir import RunDir
from rag_ft.session import Session
from rag_ft.stages import train_generator, train_retriever

Make = Callable[..., tuple[Config, RunDir]]


STILL = {"learning_rate": 1e-9, "max_steps": 1}


@pytest.mark.slow
def test_a_generator_starts_where_its_parent_ended(make_run: Make, tmp_path: Path) -> None:
    config, run_dir = prepare_generator(make_run)
    train_generator.run(Session(config, run_dir))
    start = run_dir.generator.rename(tmp_path / "parent")
    want = load_file(start / "adapter_model.safetensors")

    def trained(**settings: Any) -> dict[str, torch.Tensor]:
        config, run_dir = prepare_generator(make_run, settings=STILL | settings)
        train_generator.run(Session(config, run_dir))
        return load_file(run_dir.generator / "adapter_model.safetensors")

    def is_parent(weights: dict[str, torch.Tensor]) -> bool:
        return all(torch.allclose(want[n], w, atol=1e-5) for n, w in weights.items())

    assert is_parent(trained(start=str(start))) and not is_parent(trained())
    with pytest.raises(ConfigError, match="must be an adapter of the same base"):
        trained(start=str(start), rank=8)


@pytest.mark.slow
def test_a_retriever_starts_where_its_parent_ended(make_run: MakeRun, tmp_path: Path) -> None:
    from rag_ft.retrieval.encoder import load_sentence_transformer
    from rag_ft.training.retriever.trainable_encoder import make_trainable

    settings: dict[str, Any] = {"gate": False}
    config, run_dir = prepare_retriever(make_run, **settings)
    train_retriever.run(Session(config, run_dir))
    start = run_dir.retriever.rename(tmp_path / "parent")
    model = load_sentence_transformer(config.encoder)
    encoder = make_trainable(model, "lora", config.train_retriever.advanced.rank, 0)
    before, tuned = encoder.state(), encoder.state_of(start)
    assert all(torch.equal(w, before[name]) for name, w in encoder.state().items())
    assert any(not torch.equal(w, before[name]) for name, w in tuned.items())
    encoder.load(tuned)
    want = load_sentence_transformer(config.encoder, start).encode(["the mill"])
    assert torch.allclose(
        torch.tensor(encoder.merged().encode(["the mill"])), torch.tensor(want), atol=1e-4
    )
    with pytest.raises(ConfigError, match="same method and rank"):
        encoder.state_of(tmp_path)
    config, run_dir = prepare_retriever(make_run, **settings, start=str(start))
    counts = train_retriever.run(Session(config, run_dir))
    assert counts["shipped"] == 1
