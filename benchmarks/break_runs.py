"""Kills, two commands at once, full disks and little memory, on a run with tiny real models."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tiny_run
from tiny_run import Ended, command, contents, copy

from rag_ft.stage_table import NAMES

NOBODY = 65534
# A file may grow to so many bytes, then the disk is full (what a command prints goes to a file
# too); and megabytes beyond those in use.
DISK_BYTES = (3000, 8000, 40_000, 200_000)
MEMORY_MB = (2, 20, 80, 250)


@dataclass(frozen=True)
class Bench:
    """A finished run, and copies of it as it stood before each stage; all have run in `run`, and
    are copied there again."""

    folder: Path
    config: Path

    @property
    def run(self) -> Path:
        """The run folder that the configuration names."""
        return self.folder / "run"

    def before(self, stage: str) -> Path:
        """The run as it was before a stage; "end": as it is at last."""
        return self.folder / "before" / stage

    def at(self, stage: str) -> Path:
        """Puts the run into the state before a stage."""
        return copy(self.before(stage), self.run)

    def command(
        self, *words: str, limit: float = tiny_run.SECONDS, before: Callable[[], None] | None = None
    ) -> Ended:
        """Runs a command on the run."""
        return command([words[0], str(self.config), *words[1:]], self.folder / "io", limit, before)


def make_bench(folder: Path, **changes: Any) -> Bench:
    """Runs all stages once, undisturbed."""
    folder.mkdir(parents=True, exist_ok=True)
    bench = Bench(folder, tiny_run.make_run(folder, **changes))
    tiny_run.import_libraries()
    shutil.rmtree(bench.run, ignore_errors=True)
    bench.run.mkdir()
    for stage, following in zip(NAMES, [*NAMES[1:], "end"], strict=True):
        if not bench.before(stage).exists():
            copy(bench.run, bench.before(stage))
        ended = bench.command(stage)
        if ended.code:
            raise SystemExit(f"{stage}: {ended.told}\n{ended.err[-3000:]}")
        copy(bench.run, bench.before(following))
    return bench


def differing(found: dict[str, str], wanted: dict[str, str]) -> list[str]:
    """The files that are missing, new or different."""
    return sorted(n for n in found.keys() | wanted.keys() if found.get(n) != wanted.get(n))


def kills(bench: Bench, count: int, seed: int) -> dict[str, Any]:
    """Kills a stage up to four times at random moments, lets it finish, and compares all files;
    then the next stage, until `count` kills are done."""
    draw = random.Random(seed)
    by_stage: Counter[str] = Counter()
    wrong: list[str] = []
    finished = 0
    needed = {stage: 2.0 for stage in NAMES}  # seconds, as they turn out
    while by_stage.total() < count:
        stage = NAMES[finished % len(NAMES)]
        wanted = contents(bench.before([*NAMES[1:], "end"][finished % len(NAMES)]))
        bench.at(stage)
        for _ in range(min(draw.randrange(1, 5), count - by_stage.total())):
            limit = draw.uniform(0, needed[stage])
            ended = bench.command(stage, limit=limit)
            by_stage[stage] += ended.code == tiny_run.LIMIT_CODE
        ended = bench.command(stage)
        needed[stage] = max(ended.seconds, needed[stage] / 2)
        finished += 1
        changed = differing(contents(bench.run), wanted)
        if ended.code or changed:
            wrong.append(f"{stage}: exit {ended.code} {ended.told} {changed[:6]}")
    return {
        "kills": by_stage.total(),
        "in_stage": dict(by_stage),
        "finished_stages": finished,
        "files_of_a_finished_run": len(contents(bench.before("end"))),
        "wrong": wrong,
    }


def together(bench: Bench, count: int, seed: int) -> dict[str, Any]:
    """Two equal commands on one run folder, 0 to 2 seconds apart: the second one gets a line or
    waits, and the files are those of one run."""
    draw = random.Random(seed)
    outcomes: Counter[str] = Counter()
    wrong: list[str] = []
    for number in range(count):
        stage = NAMES[number % len(NAMES)]
        following = [*NAMES[1:], "end"][number % len(NAMES)]
        bench.at(stage)
        words = [stage, str(bench.config)]
        folders = [bench.folder / "io" / part for part in ("first", "second")]
        begin = time.monotonic()
        first = tiny_run.start(words, folders[0])
        time.sleep(draw.choice((0, 0, 0.02, 0.1, 0.3, 0.7)) + draw.uniform(0, 0.6))
        second = tiny_run.start(words, folders[1])
        ended = [
            tiny_run.wait(pid, folder, begin)
            for pid, folder in ((second, folders[1]), (first, folders[0]))
        ][::-1]
        changed = differing(contents(bench.run), contents(bench.before(following)))
        codes = sorted(e.code for e in ended)
        outcomes["one got a line" if codes == [0, 1] else f"exit codes {codes}"] += 1
        lines = [e.told for e in ended if e.code]
        told = all("another rag-ft process" in line for line in lines)
        if codes[0] != 0 or not told or changed or any(e.traceback for e in ended):
            wrong.append(f"{stage}: {codes} {lines} {changed[:5]}")
    return {"pairs": count, "outcomes": dict(outcomes), "wrong": wrong}


def full_disk(limit: int) -> Callable[[], None]:
    """No file of this process grows beyond `limit` bytes: what a full disk does to a writer."""

    def before() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.getrlimit(4)[1]))

    return before


def little_memory(megabytes: int) -> Callable[[], None]:
    """This process may allocate so many megabytes more."""

    def before() -> None:
        with open("/proc/self/statm", encoding="ascii") as sizes:
            used = int(sizes.read().split()[0]) * resource.getpagesize()
        limit = used + megabytes * 2**20
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))

    return before


def as_nobody() -> None:
    """Root may write anywhere: a process of another user may not."""
    if os.getuid() == 0:
        os.setgid(NOBODY)
        os.setuid(NOBODY)


def read_only(run: Path) -> None:
    """Takes the right to write from a folder and all that is in it; everybody may read."""
    for path in [run, *run.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)


def shortages(bench: Bench, count: int, seed: int) -> dict[str, Any]:
    """A full disk, little memory and a read-only folder in each stage, `count` of all cases: one
    line, and the next run continues."""
    kinds: list[tuple[str, Callable[[], None]]] = [
        *((f"disk full after {n} bytes", full_disk(n)) for n in DISK_BYTES),
        *((f"memory of {n} MB more", little_memory(n)) for n in MEMORY_MB),
        ("read-only folder", as_nobody),
    ]
    stages = list(zip(NAMES, [*NAMES[1:], "end"], strict=True))
    cases = [(*names, *kind) for kind in kinds for names in stages]
    outcomes: Counter[str] = Counter()
    wrong: list[str] = []
    for stage, following, name, before in random.Random(seed).sample(cases, min(count, len(cases))):
        bench.at(stage)
        if before is as_nobody:
            read_only(bench.run)
        ended = bench.command(stage, before=before)
        if before is as_nobody:
            bench.at(stage)
        end = "ended well" if ended.code == 0 else "ended with one line"
        outcomes[f"{name.split(' ')[0]}: {end}"] += 1
        problem, again = badly_told(ended), bench.command(stage)
        changed = differing(contents(bench.run), contents(bench.before(following)))
        if problem or again.code or changed:
            wrong.append(
                f"{stage}, {name}: exit {ended.code} {problem} {ended.told!r}; then "
                f"{again.code} {again.told if again.code else ''} {changed[:4]}"
            )
    return {"cases": outcomes.total(), "outcomes": dict(outcomes), "wrong": wrong}


def badly_told(ended: Ended) -> str:
    """What is wrong with how a command ended: a traceback, a signal, no line; "": nothing."""
    lines = [line for line in ended.err.splitlines() if line.startswith("rag-ft: error: ")]
    if ended.traceback:
        return "traceback"
    if ended.code in (0, 2, 3):
        return ""
    if ended.code != 1:
        return f"ended with code {ended.code}"
    return "" if len(lines) == 1 else f"{len(lines)} lines of error"
