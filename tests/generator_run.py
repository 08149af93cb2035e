"""A run folder ready for train_generator, with tiny models, and processes that train in it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from rag_ft.config import Config
from rag_ft.pipeline import record_outputs
from rag_ft.run_dir import RunDir
from rag_ft.schema import Chunk, Document, Evidence, QAPair
from rag_ft.session import Session
from rag_ft.stages import index, ingest
from rag_ft.storage import read_jsonl, write_jsonl

NAMES = ["Ada", "Bo", "Cleo", "Dag", "Eva", "Finn", "Gro", "Hal", "Ida", "Jon"]
TOWNS = ["Ulm", "Ost", "Rye", "Ave", "Bex", "Cor", "Dax", "Ely", "Fro", "Gap"]
ROOT = Path(__file__).parent.parent
Make = Callable[..., tuple[Config, RunDir]]


def documents() -> list[dict[str, Any]]:
    rows = []
    for number, (name, town) in enumerate(zip(NAMES, TOWNS, strict=True)):
        split = "test" if number == 9 else "dev" if number == 8 else "train"
        text = f"{name} lives in {town}. The house of {name} is number {number + 10}."
        rows.append({"id": f"d{number}", "title": name, "text": text, "split": split})
    return rows


def pairs_of(run_dir: RunDir) -> list[QAPair]:
    pairs = []
    for chunk in read_jsonl(run_dir.chunks, Chunk):
        name = chunk.text.split()[0]
        town = chunk.text.split()[3].strip(".")
        start = chunk.start + chunk.text.index(town)
        evidence = Evidence(town, start, start + len(town))
        answerable = QAPair(
            id=f"q{chunk.document_id}",
            question=f"Where does {name} live?",
            answers=(town,),
            chunk_id=chunk.id,
            document_id=chunk.document_id,
            evidence=evidence,
            kind="factoid",
            split=chunk.split,
            origin="generated",
        )
        unanswerable = replace(
            answerable,
            id=f"u{chunk.document_id}",
            question=f"What does {name} eat?",
            answers=("I don't know.",),
            chunk_id=None,
            evidence=None,
            kind="unanswerable",
        )
        pairs += [answerable, unanswerable]
    return pairs


def prepare(make_run: Make, **overrides: Any) -> tuple[Config, RunDir]:
    """Ingested, indexed, with pairs; `settings` are those of train_generator."""
    settings = {
        "epochs": 2,
        "batch_size": 4,
        "rank": 4,
        "evaluations": 2,
        "learning_rate": 2e-2,
        "replay_share": 0.0,
    }
    settings |= overrides.pop("settings", {})
    overrides |= {f"train_generator__{key}": value for key, value in settings.items()}
    config, run_dir = make_run(documents(), **overrides)
    if not run_dir.qa.exists():
        run_dir.path.mkdir(parents=True, exist_ok=True)
        ingest.run(Session(config, run_dir))
        index.run(Session(config, run_dir))
        write_jsonl(run_dir.qa, pairs_of(run_dir))
    return config, run_dir


def leak_a_test_document(run_dir: RunDir) -> None:
    """Adds a pair of a test document, with the id "leak", to those that are trained on."""
    pairs = list(read_jsonl(run_dir.qa, QAPair))
    leak = next(p for p in pairs if p.split == "test")
    write_jsonl(
        run_dir.qa,
        [*pairs, replace(leak, id="leak", question="Who is at home?", split="train")],
    )


def with_copies(folder: Path) -> RunDir:
    """A run with 20 train documents and a near-copy of each, a question about each, no dev one."""
    run_dir, texts = RunDir(folder), {}
    for number in range(20):
        texts[f"d{number}"] = " ".join(f"word{number}-{n}" for n in range(60))
        texts[f"d{number}-copy"] = texts[f"d{number}"] + " end"
    write_jsonl(
        run_dir.documents, (Document(name, "", text, "", "train") for name, text in texts.items())
    )
    write_jsonl(
        run_dir.chunks,
        (Chunk(f"{i}#0", i, "", t, 0, len(t), 60, "train") for i, t in texts.items()),
    )
    pairs = (
        QAPair(
            id=f"q-{i}",
            question=f"What tells {i}?",
            answers=("x",),
            chunk_id=f"{i}#0",
            document_id=i,
            evidence=None,
            kind="factoid",
            split="train",
            origin="imported",
        )
        for i in texts
    )
    write_jsonl(run_dir.qa, pairs)
    return run_dir


def start(
    config_file: Path, *overrides: str, launcher: tuple[str, ...] = ()
) -> subprocess.Popen[bytes]:
    words = [
        *(launcher or (sys.executable,)),
        "-m",
        "rag_ft",
        "train_generator",
        str(config_file),
        *overrides,
    ]
    return start_process(words, config_file.with_suffix(".log"))


def start_process(words: list[str], log: Path) -> subprocess.Popen[bytes]:
    """What it says goes to a file: nobody reads a pipe here, and a full one would stop it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    with log.open("ab") as out:
        return subprocess.Popen(words, env=environment, stdout=out, stderr=out, cwd=ROOT)


def as_file(config: Config, run_dir: RunDir, path: Path) -> Path:
    """The config as YAML, and done-files of the stages before, so that a new process can run it."""
    values = config.model_dump(mode="json")
    values.pop("name")
    path.write_text(yaml.safe_dump(values))
    for stage in ("ingest", "index", "generate", "train_retriever"):
        row = {
            "fingerprint": stage,
            "config": {},
            "inputs": {},
            "sources": {},
            "counts": {},
            "seconds": 0,
        }
        run_dir.done(stage).write_text(json.dumps(row | record_outputs(run_dir, stage)))
    return path


def weights(run_dir: RunDir) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(run_dir.generator.glob("*.safetensors")))


def assert_kill_changes_nothing(config_file: Path, run_dir: RunDir, sign: str) -> None:
    """A training that is killed when a checkpoint matches `sign`, and continued, ends with the
    bytes of an undisturbed one."""
    process = start(config_file)
    deadline = time.monotonic() + 800
    while not list(run_dir.checkpoints("train_generator").glob(sign)):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert not run_dir.generator.exists()
    assert start(config_file).wait(800) == 0
    killed = weights(run_dir), run_dir.training_log("train_generator").read_bytes()
    assert start(config_file, "--force").wait(800) == 0
    assert killed == (weights(run_dir), run_dir.training_log("train_generator").read_bytes())
