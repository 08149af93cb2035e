"""Where the work of a stage is done."""

from __future__ import annotations

from pathlib import Path

import pytest
from retriever_run import MakeRun

from rag_ft.config_engine import EngineAdvanced
from rag_ft.engine.ray_train import train_on_ray
from rag_ft.errors import ConfigError
from rag_ft.session import Session
from rag_ft.stage_call import StageCall
from rag_ft.stage_table import find_stage


def test_training_stages_alone_run_in_workers_of_ray_train(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)

    def on_ray(stage: str, **settings: object) -> bool:
        config, run_dir = make_run([], **{"engine__kind": "ray", **settings})
        return StageCall(find_stage(stage), Session(config, run_dir), "run", {}).on_ray

    two = {"engine__advanced__train_workers": 2}
    trainings = ("train_retriever", "train_reranker", "train_generator")
    assert [on_ray(stage, **two) for stage in trainings] == [True, True, True]
    assert not on_ray("index", **two) and not on_ray("train_generator")
    assert not on_ray("train_generator", **two, engine__kind="local")
    assert not on_ray("train_generator", **two, train_generator__enabled=False)
    # Processes that another launcher has started train themselves.
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert not on_ray("train_generator", **two)


def test_workers_compute_with_the_cores_that_they_reserve(make_run: MakeRun) -> None:
    advanced = {"train_workers": 2, "cpus_per_worker": 3}
    settings = {f"engine__advanced__{key}": value for key, value in advanced.items()}
    config, run_dir = make_run([], engine__kind="ray", **settings)
    call = StageCall(find_stage("train_retriever"), Session(config, run_dir), "run", {})
    assert call.num_threads == 3


def test_a_training_is_not_started_from_outside_of_the_cluster(tmp_path: Path) -> None:
    settings = EngineAdvanced(address="ray://head:10001", train_workers=2)
    with pytest.raises(ConfigError, match="on a machine of the cluster"):
        train_on_ray(lambda: None, tmp_path, tmp_path, settings)
