"""A version that is killed at any point is finished by the next command, with the same result."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from generator_run import ROOT
from improve_run import HOMES, about, write_document

from rag_ft.cli import main
from rag_ft.run_dir import RunDir
from rag_ft.versions import versions_of

# What appears in the new folder, in this order. The process is killed when it is there.
SIGNS = ("config.yaml", "frozen.jsonl", "generate.done.json", "hits", "metrics.json")


def make(place: Path, encoder: Path, llm: Path) -> Path:
    """A run with imported questions, and more documents than it has seen."""
    questions = []
    for split, names in HOMES.items():
        for name in names:
            document = write_document(place / split, name).name
            for thing in ("captain", "price"):
                ask = f"What is the {thing} of the {name}?"
                answer = {"captain": "Ola Brand", "price": "40 euros"}[thing]
                questions.append({"question": ask, "answers": [answer], "document_id": document})
    (place / "questions.jsonl").write_text("".join(json.dumps(q) + "\n" for q in questions))
    values: dict[str, Any] = {
        "run": {"dir": str(place / "runs" / "x"), "dtype": "float32"},
        "ingest": {"sources": [{"path": str(place / s), "split": s} for s in HOMES]},
        "encoder": {"model": str(encoder)},
        "llm": {"model": str(llm), "prompts": "compact"},
        "generate": {"pairs_per_chunk": 0, "questions": [str(place / "questions.jsonl")]},
        "train_retriever": {"enabled": False},
        "train_generator": {"enabled": False},
        "evaluate": {"advanced": {"num_resamples": 200, "max_tokens": 8}},
    }
    (place / "x.yaml").write_text(yaml.safe_dump(values))
    assert main(["run", str(place / "x.yaml")]) == 0
    write_document(place / "train", "Far Light")
    write_document(place / "test", "Wide Gate", captain="Una Holm")
    return place / "runs" / "x"


def improve(run: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    words = [sys.executable, "-m", "rag_ft", "improve", str(run)]
    with (run.parent / "log").open("ab") as log:
        return subprocess.Popen(words, env=environment, cwd=ROOT, stdout=log, stderr=log)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_kill_9_at_any_point_changes_nothing(
    tmp_path: Path, tiny_encoder_dir: Path, tiny_lm_dir: Path
) -> None:
    run = make(tmp_path / "killed", tiny_encoder_dir, tiny_lm_dir)
    other = make(tmp_path / "undisturbed", tiny_encoder_dir, tiny_lm_dir)
    folder = run.with_name("x.v2")
    for sign in SIGNS:
        process = improve(run)
        deadline = time.monotonic() + 300
        while not (folder / sign).exists() and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.002)
        process.kill()
        process.wait()
    assert improve(run).wait(300) == 0
    assert improve(other).wait(300) == 0
    assert [v.name for v in versions_of(run)] == ["x", "x.v2"]
    first, second = about(run, 2), about(other, 2)
    assert first == second and first["changes"]["retired"] == 2
    for name in ("documents", "chunks", "qa", "frozen"):
        path = getattr(RunDir(folder), name)
        same = getattr(RunDir(other.with_name("x.v2")), name)
        text = path.read_text().replace("/killed/", "/undisturbed/")
        assert text == same.read_text(), name
    scores = [sorted(RunDir(r.with_name("x.v2")).scores.open()) for r in (run, other)]
    quiet = [[line for line in lines if '"seconds"' not in line] for lines in scores]
    assert quiet[0] == quiet[1]
