"""The script that measures a GPU: what it does on a CPU, with tiny shapes."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def gpu_check() -> ModuleType:
    path = Path(__file__).parent.parent / "scripts/gpu_check.py"
    spec = importlib.util.spec_from_file_location("gpu_check", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_check_that_ends_badly_takes_no_other_ones_result(
    gpu_check: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = tmp_path / "check.py"  # stands for the script in the process of one check
    script.write_text(
        "import json, os, sys; name = sys.argv[2]\n"
        "os.abort() if name == 'sft-8b' else print('noise\\nrow: ' + json.dumps({'check': name}))"
    )
    written: list[int] = []
    write = gpu_check.write_results
    monkeypatch.setattr(gpu_check, "__file__", str(script))
    monkeypatch.setattr(
        gpu_check,
        "write_results",
        lambda rows, *rest: written.append(len(rows)) or write(rows, *rest),
    )
    monkeypatch.setattr(
        sys,
        "argv",
        ["gpu_check", "--tiny", "--out", str(tmp_path), "--skip", "demo,vllm,search,paths"],
    )
    gpu_check.main()
    rows = json.loads(next(tmp_path.glob("gpu-*-tiny.json")).read_text())["checks"]
    assert [row["check"] for row in rows] == [
        "sft-0.6b",
        "sft-8b",
        "scoring-0.6b",
        "scoring-8b",
        "encoding",
        "reranking",
    ]
    assert [row.get("error") for row in rows] == [
        None,
        "the process ended with code -6",
        None,
        None,
        None,
        None,
    ]
    assert written == [1, 2, 3, 4, 5, 6]


def test_the_training_is_timed_between_its_steps(gpu_check: ModuleType, tmp_path: Path) -> None:
    row = gpu_check._checked("sft-8b", tiny=True)
    assert row["timed_steps"] >= 20 and row["seconds"] > 0 and "error" not in row
    # all timed examples, no more: half to full length of 48 tokens each
    assert (
        24
        <= row["tokens_per_second"] * row["seconds"] / row["timed_steps"] / row["examples_a_step"]
        <= 48
    )


def test_every_path_that_needs_a_gpu_has_a_check(gpu_check: ModuleType) -> None:
    named = " ".join([*gpu_check.CHECKS, *gpu_check.PATHS])
    paths = ("one GPU", "two GPUs", "FSDP", "Ray Train", "QLoRA", "FAISS", "vLLM with the adapter")
    for path in paths:
        assert path in named
    for path in ("serving", "DPO", "reranker", "quantised bundle"):
        assert path in named


def test_a_path_that_needs_more_than_there_is_says_so(
    gpu_check: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    import gpu_paths

    monkeypatch.setattr(gpu_paths, "GPUS", 1)
    row = gpu_check._checked("path: FSDP", tiny=True)
    assert row == {"check": "path: FSDP", "skipped": "needs two GPUs, 1 visible"}
    monkeypatch.setattr(gpu_paths, "GPUS", 0)
    assert "skipped" in gpu_check._checked("path: QLoRA", tiny=True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["path: FAISS index", "path: serving", "path: DPO"])
def test_a_path_runs_without_a_gpu_where_it_can(gpu_check: ModuleType, name: str) -> None:
    row = gpu_check._checked(name, tiny=True)
    assert "error" not in row and "skipped" not in row
