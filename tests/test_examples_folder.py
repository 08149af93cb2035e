"""Every script of examples/ runs, over a small run with tiny models."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rag_ft.cli import main

ROOT = Path(__file__).parent.parent
EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("*.py"))
DOCUMENTS = [
    {"id": "ferry", "text": "The ferry leaves Port Sorrel at noon.", "split": "test"},
    {"id": "mill", "text": "The mill was built by Ada Brand.", "split": "train"},
]
QUESTIONS = [
    {"question": "When does the ferry leave?", "answers": ["at noon"], "document_id": "ferry"},
    {"question": "Who built the mill?", "answers": ["Ada Brand"], "document_id": "mill"},
]


def write_lines(path: Path, rows: list[dict[str, object]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def config(
    tmp_path_factory: pytest.TempPathFactory, tiny_lm_dir: Path, tiny_encoder_dir: Path
) -> Path:
    """The configuration of a run that is finished, with base models."""
    folder = tmp_path_factory.mktemp("examples")
    values = {
        "run": {"dir": str(folder / "run")},
        "ingest": {"sources": [write_lines(folder / "documents.jsonl", DOCUMENTS)]},
        "encoder": {"model": str(tiny_encoder_dir)},
        "llm": {"model": str(tiny_lm_dir), "prompts": "compact"},
        "generate": {
            "pairs_per_chunk": 0,
            "questions": [write_lines(folder / "questions.jsonl", QUESTIONS)],
        },
        "train_retriever": {"enabled": False},
        "train_generator": {"enabled": False},
    }
    path = folder / "small.yaml"
    path.write_text(json.dumps(values), encoding="utf-8")
    assert main(["run", str(path)]) == 0
    return path


def run_example(name: str, *words: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "examples" / name), *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_the_python_api_answers_with_the_chunks_of_the_run(config: Path) -> None:
    lines = run_example("ask.py", str(config), "When does the ferry leave?").splitlines()
    assert any("ferry" in line for line in lines[1:])


@pytest.mark.slow
def test_an_own_metric_scores_every_system_that_was_evaluated(config: Path) -> None:
    shown = run_example("own_metric.py", str(config))
    assert "base " in shown and "(1 questions)" in shown


@pytest.mark.slow
def test_an_own_reader_makes_documents_of_a_new_format(
    tmp_path: Path, tiny_encoder_dir: Path
) -> None:
    film = tmp_path / "films" / "boats.srt"
    film.parent.mkdir()
    captions = "1\n00:00 --> 00:02\nThe ferry\nsails.\n\n2\n00:02 --> 00:04\nIt lands.\n"
    film.write_text(captions, encoding="utf-8")
    values = {
        "run": {"dir": str(tmp_path / "run")},
        "ingest": {"sources": [str(film.parent)]},
        "encoder": {"model": str(tiny_encoder_dir)},
    }
    path = tmp_path / "srt.yaml"
    path.write_text(json.dumps(values), encoding="utf-8")
    run_example("own_reader.py", str(path))
    assert "The ferry sails.\\n\\nIt lands." in (tmp_path / "run" / "documents.jsonl").read_text()


@pytest.mark.slow
def test_llama_index_retrieves_the_chunks_of_the_run(config: Path) -> None:
    pytest.importorskip("llama_index.core")
    assert "ferry" in run_example("llama_index_query.py", str(config), "When does the ferry leave?")


def test_every_example_has_a_test_and_a_line_in_the_readme() -> None:
    tests = Path(__file__).read_text(encoding="utf-8")
    page = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    assert EXAMPLES
    for name in EXAMPLES:
        assert f'run_example("{name}"' in tests and f"[{name}]" in page, name
