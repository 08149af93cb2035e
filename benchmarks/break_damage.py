"""Every file of a finished run damaged, then the commands that read it: one line, the right
result, or files made again; never a traceback, never another result without a word."""

from __future__ import annotations

import random
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from break_runs import Bench, badly_told, differing
from tiny_run import Ended, command, contents

QUESTION = "What does shelf 1 of box 3 hold?"
# A command, with {config}, {run} and {to}: an empty folder whose files it writes.
COMMANDS: dict[str, list[str]] = {
    "status": ["status", "{config}"],
    "ask": ["ask", "{config}", QUESTION],
    "explain": ["explain", "{config}", QUESTION],
    "preview": ["preview", "{config}"],
    "report": ["report", "{config}", "--force"],
    "evaluate": ["evaluate", "{config}", "--force"],
    "export": ["export", "{config}", "--format", "trl", "--to", "{to}/pairs.jsonl"],
    "export for review": ["export", "{config}", "--format", "csv", "--to", "{to}/pairs.csv"],
    "beir": ["export", "{config}", "--format", "beir", "--to", "{to}/beir"],
    "compare": ["compare", "{run}", "{other}", "--to", "{io}/compare.html"],
    "merge": ["merge", "{config}", "--to", "{to}/merged"],
    "bundle": ["bundle", "{config}", "--to", "{to}/bundle"],
    "train_generator": ["train_generator", "{config}"],
    "train_retriever": ["train_retriever", "{config}"],
    "generate": ["generate", "{config}"],
    "run": ["run", "{config}"],
    "versions": ["versions", "{run}"],
}
# What may differ: addresses of temporary folders, times.
_TIMES = re.compile(r"\d+(?:\.\d+)? (?:s|ms|seconds?|minutes?)\b|\d\d:\d\d:\d\d|\s+")


def cut(raw: bytes, draw: random.Random) -> bytes:
    """The first half."""
    return raw[: len(raw) // 2]


def flipped(raw: bytes, draw: random.Random) -> bytes:
    """Some bits are others."""
    changed = bytearray(raw)
    for _ in range(max(1, min(8, len(raw) // 200))):
        changed[draw.randrange(len(changed))] ^= 1 << draw.randrange(8)
    return bytes(changed)


def line_gone(raw: bytes, draw: random.Random) -> bytes:
    """A line in the middle is missing, else some bytes."""
    lines = raw.splitlines(keepends=True)
    place = draw.randrange(len(lines))
    if len(lines) > 1:
        return b"".join(lines[:place] + lines[place + 1 :])
    return raw[: len(raw) // 3] + raw[2 * len(raw) // 3 :]


DAMAGES: dict[str, Callable[[bytes, random.Random], bytes | None]] = {
    "cut": cut,
    "emptied": lambda raw, draw: b"",
    "deleted": lambda raw, draw: None,
    "bits flipped": flipped,
    "line gone": line_gone,
    "not UTF-8": lambda raw, draw: b"\xff" + raw,
    "null": lambda raw, draw: b"null\n",
    "list": lambda raw, draw: b"[]\n",
    "object": lambda raw, draw: b"{}\n",
    "zeros": lambda raw, draw: bytes(len(raw)),
}


def files_of(run: Path) -> list[str]:
    """The files of a run, but locks."""
    found = (path for path in sorted(run.rglob("*")) if path.is_file())
    return [str(path.relative_to(run)) for path in found if path.suffix != ".lock"]


def damage(bench: Bench, count: int, seed: int) -> dict[str, Any]:
    """Damages a file and runs a command, `count` times; every file and every command comes."""
    draw = random.Random(seed)
    bench.at("end")
    wanted = {name: outcome(bench, name) for name in COMMANDS}
    for name, (ended, _) in wanted.items():
        if ended.code:
            raise SystemExit(f"{name} fails on the undamaged run: {ended.told}")
    files = draw.sample(found := files_of(bench.before("end")), len(found))
    names, kinds = list(COMMANDS), list(DAMAGES)
    outcomes: Counter[str] = Counter()
    wrong: list[str] = []
    for number in range(count):
        file = files[number % len(files)]
        kind = kinds[(number + number // len(files)) % len(kinds)]
        name = names[draw.randrange(len(names))]
        path = bench.at("end") / file
        raw = path.read_bytes()
        changed = DAMAGES[kind](raw, draw) if raw else b"x"
        if changed is None:
            path.unlink()
        else:
            path.write_bytes(changed)
        told, verdict = judged(outcome(bench, name), wanted[name], name)
        outcomes[verdict] += 1
        if told:
            wrong.append(f"{file} {kind}, {name}: {told}")
    return {
        "trials": count,
        "files": len(files),
        "outcomes": dict(outcomes.most_common()),
        "wrong": wrong,
    }


def outcome(bench: Bench, name: str) -> tuple[Ended, dict[str, str]]:
    """What a command told and wrote on the run as it stands."""
    to, other = bench.folder / "to", bench.before("end")
    shutil.rmtree(to, ignore_errors=True)
    to.mkdir()
    places = {"config": bench.config, "run": bench.run, "to": to, "other": other}
    places["io"] = bench.folder / "io"
    ended = command([word.format(**places) for word in COMMANDS[name]], bench.folder / "io")
    files = contents(to) | contents(bench.run)
    files.pop("copies.jsonl", None)  # grows with each copy, and names the time
    return ended, files


def judged(
    found: tuple[Ended, dict[str, str]], wanted: tuple[Ended, dict[str, str]], name: str
) -> tuple[str, str]:
    """(what is wrong, or ""; the outcome in words)."""
    ended, files = found
    if problem := badly_told(ended):
        return f"{problem}: {ended.told}", "not in one line"
    if ended.code:
        return "", "refused in one line"
    if "WARNING" in ended.err or "rag-ft: " in ended.err:
        return "", "done, with a warning"
    told, right = (_TIMES.sub(" ", e.out).split() for e in (ended, wanted[0]))
    if name == "status":
        return "", "status shows it" if told != right else "status sees no change"
    # The damaged file itself may still be there, where the command does not read it.
    others = differing(files, wanted[1])
    if told != right or len(others) > 1:
        return f"another result without a word: {others[:5]} {' '.join(told)[:200]}", "wrong"
    return "", "right result"
