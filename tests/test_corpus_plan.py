"""A plan for a corpus of any size: the numbers that decide, and what stands in the way."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from rag_ft.cli import main
from rag_ft.config import GenerateConfig, IngestConfig
from rag_ft.corpus_plan import (
    CorpusPlan,
    Gpus,
    plan_corpus,
    read_gpus,
    read_size,
    shape_of_name,
    shapes,
)
from rag_ft.errors import ConfigError
from rag_ft.training.work_estimate import Corpus, Work


def plan(size: float, number: int = 8, **generate: int) -> CorpusPlan:
    _, encoder = shapes("Qwen3-8B", "no/such-encoder")

    def work_of(corpus: Corpus) -> dict[str, Work]:
        return {
            "generate": Work(corpus.num_asked_chunks * 100.0, 0, corpus.num_asked_chunks * 1e12)
        }

    ingest = IngestConfig()
    return plan_corpus(
        size,
        5000,
        Gpus(number, 4e14),
        encoder,
        ingest,
        GenerateConfig.model_validate({"advanced": generate}),
        work_of,
    )


@pytest.mark.parametrize(
    ("text", "size"), [("10TB", 1e13), ("1.5 gb", 1.5e9), ("800MB", 8e8), ("2PB", 2e15)]
)
def test_sizes_are_read(text: str, size: float) -> None:
    assert read_size(text) == size


@pytest.mark.parametrize("text", ["10", "TB", "1..5GB", "-1GB", "10 XB"])
def test_a_wrong_size_is_one_line(text: str) -> None:
    with pytest.raises(ConfigError, match="write a size of text such as"):
        read_size(text)


def test_gpus_are_read_and_a_wrong_number_is_one_line() -> None:
    assert read_gpus("64xH100") == (64, "H100") and read_gpus("1 x A100-80GB") == (1, "A100-80GB")
    for text in ("H100", "0xH100", "x"):
        with pytest.raises(ConfigError, match="write a number and a name"):
            read_gpus(text)


@pytest.mark.parametrize(
    ("name", "billions"), [("Qwen/Qwen3-8B", 8), ("gemma-3-270m-it", 0.27), ("phi-1.5b", 1.5)]
)
def test_the_size_of_a_model_that_is_not_here_comes_from_its_name(
    name: str, billions: float
) -> None:
    shape = shape_of_name(name)
    assert shape.parameters == pytest.approx(billions * 1e9)
    # The layers hold about as much as the name says.
    assert 0.4 < 12 * shape.layers * shape.hidden**2 / shape.parameters < 1.1
    with pytest.raises(ConfigError, match="the size of some-model is unknown"):
        shape_of_name("some-model")


def test_time_grows_with_the_corpus_and_shrinks_with_the_gpus() -> None:
    small, large, spread = plan(1e9), plan(1e11), plan(1e11, number=64)
    hours = [{stage.name: stage for stage in found.stages} for found in (small, large, spread)]
    for name in ("ingest", "index: encode", "index: BM25", "generate"):
        assert hours[1][name].wall_hours == pytest.approx(100 * hours[0][name].wall_hours)
    for name in ("index: encode", "generate"):
        assert hours[2][name].wall_hours == pytest.approx(hours[1][name].wall_hours / 8)
        assert hours[2][name].gpu_hours == pytest.approx(hours[1][name].gpu_hours)
    assert small.chunks == pytest.approx(1e9 / 4 / 108)
    assert small.disk["vectors"] == pytest.approx(small.chunks * 384 * 4)


def test_the_kind_of_faiss_index_follows_the_ladder() -> None:
    kinds = [plan(size).faiss for size in (1e6, 1e8, 5e9, 1e12)]
    assert kinds == ["flat", "ivf", "ivf_sq8", "ivf_pq"]


def test_what_one_machine_cannot_hold_is_an_obstacle_and_the_slowest_stage_the_bottleneck() -> None:
    assert plan(1e9).obstacles == [] and plan(1e9).bottleneck.name == "generate"
    found = plan(1e13, number=64, max_chunks=1_000_000)
    assert found.bottleneck.name == "index: BM25"
    assert [text.split(" needs")[0] for text in found.obstacles[:2]] == [
        "ingest",
        "the index while it is built",
    ]
    assert "use a search engine" in found.obstacles[-1]


def test_the_plan_of_an_index_is_near_what_was_measured() -> None:
    results = Path(__file__).parent.parent / "benchmarks" / "results"
    measured = json.loads((results / "scale-chunks-amd-epyc-2026-11-29.json").read_text())
    found = plan(measured["chunks"] * 4 * 108)
    hours = {stage.name: stage.cpu_hours for stage in found.stages}
    assert found.chunks == measured["chunks"]
    planned = 3600 * (hours["index: ivf"] + hours["index: BM25"])
    assert planned == pytest.approx(measured["build"]["cpu_s"], rel=0.25)
    vectors_and_faiss = found.disk["vectors"] + found.disk["FAISS"]
    assert vectors_and_faiss / 2**20 == pytest.approx(measured["build"]["index_mb"], rel=0.25)


def test_the_command_needs_no_model_and_no_documents(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "c.yaml"
    values = {
        "run": {"dir": str(tmp_path / "run")},
        "llm": {"model": "no/such-model-8B"},
        "encoder": {"model": "no/such-encoder"},
    }
    config.write_text(yaml.safe_dump(values))
    words = ["plan", str(config), "--corpus", "10TB", "--gpus", "64xH100"]
    assert main([*words, "--price", "2"]) == 0
    shown = capsys.readouterr().out
    assert "64 x H100" in shown and "ivf_pq" in shown and "bottleneck: " in shown
    assert main(["plan", str(config), "--corpus", "much"]) == 1
    assert "write a size of text" in capsys.readouterr().err
