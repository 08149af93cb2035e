"""A run with tiny real models of every component, and commands in processes that can be killed.

A command runs in a fork of this process, in which torch and the other libraries are imported
already: it begins within milliseconds, and nothing of it outlives it.
"""

from __future__ import annotations

import contextlib
import gc
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
sys.path.append(str(ROOT / "tests"))
for name, value in {
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
    "OMP_WAIT_POLICY": "PASSIVE",
}.items():
    os.environ.setdefault(name, value)

COLOURS = ("red", "blue", "green", "grey", "white", "black", "pink", "brown", "amber", "teal")
THINGS = ("lamp", "boat", "harp", "clock", "kite", "drum", "vase", "sled", "loom", "oar", "bell")
SECONDS = 120.0  # that a command may take
LIMIT_CODE = 124
# What differs between two runs that are equal: times, places and names of processes, and logs.
VARYING = (".lock", ".log", ".started.json", ".done.json", "report.html", "report.md")
VARYING_PARTS = ("checkpoints", "tensorboard", "__pycache__")


@dataclass(frozen=True)
class Ended:
    """What became of a command: its exit code (negative: the signal), and what it printed."""

    code: int
    out: str
    err: str
    seconds: float

    @property
    def told(self) -> str:
        """The line of an error, else the last line."""
        lines = [line for line in self.err.splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("rag-ft: ")]
        return (errors or lines or [""])[-1][:300]

    @property
    def traceback(self) -> bool:
        """Whether it ended with one."""
        return "Traceback (most recent call last)" in self.err


def make_run(folder: Path, num_documents: int = 18, **changes: Any) -> Path:
    """Writes models, documents, questions and a configuration of all stages; returns its path.
    `changes` are settings as `section__key` or `section__advanced__key`."""
    from tiny_models import save_tiny_encoder, save_tiny_lm

    from rag_ft.config import IngestConfig
    from rag_ft.documents.splits import split_of

    if not (folder / "lm").exists():
        save_tiny_lm(folder / "lm")
        save_tiny_encoder(folder / "encoder")
    documents, questions = material(num_documents)
    (folder / "docs").mkdir(exist_ok=True)
    for name, text in documents.items():
        (folder / "docs" / name).write_text(text, encoding="utf-8")
    write_lines(folder / "questions.jsonl", questions)
    # By name: every split has documents, whatever the texts say.
    shares = IngestConfig(test_share=0.3, dev_share=0.2)
    named = [
        {"id": name, "text": text, "split": split_of(name, shares)}
        for name, text in documents.items()
    ]
    write_lines(folder / "splits.jsonl", named)
    settings: dict[str, Any] = {
        "run": {"dir": str(folder / "run"), "dtype": "float32"},
        "ingest": {
            "sources": [str(folder / "docs")], "chunk_tokens": 64,
            "advanced": {"workers": 1, "splits": str(folder / "splits.jsonl")},
        },
        "encoder": {"model": str(folder / "encoder")},
        "retrieval": {"top_k": 3},
        "llm": {"model": str(folder / "lm"), "prompts": "compact"},
        "generate": {
            "pairs_per_chunk": 0, "questions": [str(folder / "questions.jsonl")],
            "advanced": {"min_kept_share": 0, "max_tokens": 24},
        },
        "train_retriever": {"batch_size": 4, "epochs": 2, "advanced": {"rank": 4, "gate": False}},
        "reranker": {"model": "auto"},
        "train_reranker": {"advanced": {"batch_size": 4, "num_negatives": 2, "epochs": 1}},
        "train_generator": {
            "batch_size": 4, "advanced": {"max_steps": 6, "rank": 4, "evaluations": 2},
        },
        "evaluate": {"advanced": {"num_resamples": 100, "max_tokens": 8}},
    }  # fmt: skip
    for name, value in changes.items():
        *parents, last = name.split("__")
        place = settings
        for parent in parents:
            place = place.setdefault(parent, {})
        place[last] = value
    config = folder / "tiny.yaml"
    config.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return config


def material(number: int) -> tuple[dict[str, str], list[dict[str, Any]]]:
    """(file name -> text, questions): short documents about boxes."""
    draw, documents, questions = random.Random(1), dict[str, str](), []
    for n in range(number):
        name, told = f"box{n}.txt", []
        for shelf in range(3):
            colour, thing, count = draw.choice(COLOURS), draw.choice(THINGS), draw.randrange(999)
            told.append(f"Shelf {shelf} of box {n} holds a {colour} {thing} number {count}.")
            questions.append(
                {
                    "id": f"q{n}-{shelf}",
                    "question": f"What does shelf {shelf} of box {n} hold?",
                    "answers": [f"a {colour} {thing}"],
                    "document_id": name,
                }
            )
        documents[name] = " ".join(told) + "\n"
    return documents, questions


def write_lines(path: Path, rows: Sequence[Any]) -> None:
    """One JSON object a line."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def import_libraries() -> None:
    """Imports what commands import, before the first fork."""
    import datasets  # noqa: F401
    import peft  # noqa: F401
    import sentence_transformers  # noqa: F401
    import torch
    import trl  # noqa: F401
    from sentence_transformers.cross_encoder import CrossEncoder  # noqa: F401
    from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer  # noqa: F401

    import rag_ft.cli
    import rag_ft.rag  # noqa: F401

    torch.set_num_threads(1)
    gc.freeze()


def start(words: Sequence[str], folder: Path, before: Callable[[], None] | None = None) -> int:
    """The id of a process that runs a command; it prints into files in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return pid
    # The child: a group of its own, so that its workers end with it.
    code = 1
    try:
        os.setpgrp()
        for number, name in ((1, "out"), (2, "err")):
            opened = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(opened, number)
        from rag_ft.cli import main

        if before:
            before()
        code = main(list(words))
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def wait(pid: int, folder: Path, begin: float, limit: float = SECONDS) -> Ended:
    """What became of a process; it is killed after `limit` seconds."""
    killed = False
    while True:
        ended, status = os.waitpid(pid, os.WNOHANG)
        if ended:
            break
        if not killed and time.monotonic() - begin > limit:
            kill(pid)
            killed = True
        time.sleep(0.002)
    code = LIMIT_CODE if killed else os.waitstatus_to_exitcode(status)
    texts = [(folder / n).read_text(encoding="utf-8", errors="replace") for n in ("out", "err")]
    return Ended(code, *texts, time.monotonic() - begin)


def kill(pid: int) -> None:
    """Ends a process and its workers, as the system does: at once."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def command(
    words: Sequence[str],
    folder: Path,
    limit: float = SECONDS,
    before: Callable[[], None] | None = None,
) -> Ended:
    """Runs a command to its end."""
    begin = time.monotonic()
    return wait(start(words, folder, before), folder, begin, limit)


def contents(run: Path) -> dict[str, str]:
    """The hash of every file of a run that is the same in every equal run."""
    found = {}
    for path in sorted(run.rglob("*")):
        name = str(path.relative_to(run))
        varies = name.endswith(VARYING) or set(VARYING_PARTS).intersection(path.parts)
        if path.is_file() and not varies and path.name[0] != ".":
            found[name] = hashlib.sha256(comparable(path)).hexdigest()[:16]
    return found


def comparable(path: Path) -> bytes:
    """The bytes of a file without seconds and times."""
    raw = path.read_bytes()
    if path.suffix not in (".json", ".jsonl"):
        return raw
    try:
        rows = (
            [json.loads(line) for line in raw.splitlines()]
            if path.suffix == ".jsonl"
            else json.loads(raw)
        )
    except ValueError:
        return raw
    return json.dumps(without_times(rows), sort_keys=True).encode()


def without_times(value: Any) -> Any:
    """The value without entries that measure time, memory or processes."""
    if isinstance(value, dict):
        words = ("second", "time", "date", "speed", "throughput", "memory", "requests", "cached")
        return {
            key: without_times(item)
            for key, item in value.items()
            if key != "made" and not any(word in key for word in words)
        }
    if isinstance(value, list):
        return [without_times(item) for item in value if not is_time(item)]
    return value


def is_time(item: Any) -> bool:
    """Whether a line of scores.jsonl is a measured time."""
    return isinstance(item, dict) and item.get("metric") == "seconds"


def copy(source: Path, target: Path) -> Path:
    """A fresh copy of a folder; times stay, since done-files know them."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target, symlinks=True)
    return target
