"""Mutated and hostile input files: what becomes of each, and whether anything of them escapes into
a terminal, a page, a prompt, a table or another folder."""

from __future__ import annotations

import csv
import json
import re
import shutil
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import documents as documents_benchmark
import tiny_run
from break_runs import badly_told
from hostile_files import FORMULA, OUTSIDE, PAYLOADS, SCRIPT, write_hostile
from tiny_run import command

from rag_ft.text import FORMULA_STARTS

HANG_SECONDS = 20.0
HANDBOOK = tiny_run.ROOT / "data/handbook"
# What a terminal must not get, but newline, tab and the carriage return of a progress bar.
_TERMINAL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_ACTIVE = re.compile(r"<script[^>]*>fetch|<img src=x|onerror=alert\(1\)>|<iframe src=.file")


def mutated(count: int) -> dict[str, Any]:
    """Damaged copies of real files of all formats: read, or rejected for a known reason."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        shutil.copytree(HANDBOOK, folder / "handbook")
        write_hostile(folder / "hostile")
        for path in (folder / "hostile").iterdir():
            # Special files have no bytes to change, and large ones are bombs already.
            if path.is_dir() and not path.is_symlink():
                path.rmdir()
            elif path.is_symlink() or not path.is_file() or path.stat().st_size > 200_000:
                path.unlink()
        return documents_benchmark.damage(folder, count)


def hostile(folder: Path) -> dict[str, Any]:
    """All hostile files in one ingest, and hostile questions about them, through all commands."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    config = tiny_run.make_run(
        folder,
        ingest__advanced={"max_file_seconds": 10, "max_file_memory_mb": 1024,
                          "min_kept_share": 0, "workers": 2},
        train_retriever__enabled=False, train_generator__enabled=False,
        train_reranker={"advanced": {"enabled": False}},
    )  # fmt: skip
    number = write_hostile(folder / "docs/hostile")
    asked = [json.loads(line) for line in (folder / "questions.jsonl").open(encoding="utf-8")]
    for n, payload in enumerate(PAYLOADS):
        asked.append({"id": f"{n}{payload}", "question": f"What is {payload}?",
                      "answers": [payload], "document_id": "box1.txt"})  # fmt: skip
    tiny_run.write_lines(folder / "questions.jsonl", asked)
    tiny_run.import_libraries()

    # Every file is a document or a reject, within the time, and nothing of it is run.
    wrong: list[str] = []
    seconds: dict[str, float] = {}
    words = {
        "ingest": ["ingest", str(config)],
        "run": ["run", str(config)],
        "report": ["report", str(config), "--force"],
        "status": ["status", str(config)],
        "preview": ["preview", str(config), "--documents"],
        "csv": ["export", str(config), "--format", "csv", "--to", str(folder / "to/pairs.csv")],
        "beir": ["export", str(config), "--format", "beir", "--to", str(folder / "to/beir")],
        **{f"ask {n}": ["ask", str(config), p] for n, p in enumerate(PAYLOADS) if p[0] != "-"},
        "explain": ["explain", str(config), f"hours {SCRIPT}"],
    }
    (folder / "to").mkdir()
    for name, called in words.items():
        begin = time.monotonic()
        ended = command(called, folder / "io", 300)
        seconds[name] = round(time.monotonic() - begin, 1)
        if problem := badly_told(ended):
            wrong.append(f"{name}: {problem}: {ended.told}")
        if found := _TERMINAL.search(ended.out + ended.err):
            wrong.append(f"{name}: {found[0]!r} reaches the terminal")
    run = folder / "run"
    rejects = Counter(json.loads(line)["reason"] for line in (run / "rejects/ingest.jsonl").open())
    wrong += escapes(run, folder / "to")
    slow = {name: s for name, s in seconds.items() if name == "ingest" and s > 10 * HANG_SECONDS}
    return {
        "files": number,
        "rejected": dict(rejects.most_common()),
        "seconds": seconds,
        "hangs": slow,
        "wrong": wrong,
    }


def escapes(run: Path, exported: Path) -> list[str]:
    """What of the hostile texts is active in what was written."""
    found = []
    page = (run / "report.html").read_text(encoding="utf-8")
    if active := _ACTIVE.search(page):
        found.append(f"report.html holds {active[0]}")
    if OUTSIDE in (run / "documents.jsonl").read_text(encoding="utf-8"):
        found.append("a file outside the sources was read")
    outside = ("/tmp/escaped.xml", "/etc/escaped", "/tmp/up.txt")
    found += [f"{path} was written" for path in outside if Path(path).exists()]
    with (exported / "pairs.csv").open(encoding="utf-8-sig", newline="") as table:
        cells = [cell for row in csv.reader(table) for cell in row]
    if formulas := [cell for cell in cells if cell.startswith(FORMULA_STARTS) and len(cell) > 1]:
        found.append(f"{len(formulas)} cells are formulas: {formulas[0][:60]}")
    assert any(FORMULA[1:20] in cell for cell in cells), "the payloads are not in the table"
    for path in exported.rglob("*.tsv"):
        widths = {line.count("\t") for line in path.read_text(encoding="utf-8").splitlines()}
        if len(widths) > 1:
            found.append(f"{path.name} has lines of {sorted(widths)} tabs")
    return found + in_prompts(run)


def in_prompts(run: Path) -> list[str]:
    """Control tokens that a document brings into a prompt."""
    from rag_ft.prompts.answer_prompt import AnswerPrompt
    from rag_ft.prompts.prompt_set import load_prompts
    from rag_ft.schema import Chunk
    from rag_ft.storage import read_jsonl
    from rag_ft.text import CONTROL_TOKENS

    found = []
    for name in ("full", "compact"):
        prompt = AnswerPrompt(load_prompts(name, "I don't know."), "title")
        for chunk in read_jsonl(run / "chunks.jsonl", Chunk):
            shown = "".join(m["content"] for m in prompt.messages(f"What? {PAYLOADS[2]}", [chunk]))
            if token := CONTROL_TOKENS.search(shown):
                found.append(f"{chunk.id}: {token[0]} reaches the prompt ({name})")
    return found[:5]
