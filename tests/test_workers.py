"""Tasks in worker processes: in order, within limits, and none takes the run with it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from rag_ft.documents.formats.content import UnreadableError
from rag_ft.documents.workers import Limits, in_workers


def work(task: str) -> str:
    """Does what the task says."""
    if task == "hang":
        time.sleep(60)
    elif task == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif task == "fill":
        return str(len(bytearray(4 * 2**30)))
    elif task == "fault":
        raise KeyError("a fault of ours")
    elif task.startswith("wait"):
        time.sleep(0.2)
    elif task == "reject":
        raise UnreadableError("corrupt", "as expected")
    return task.upper()


def outcomes(tasks: list[str], **limits: float) -> list[str]:
    options = {"seconds": 20.0, "memory_mb": 1000.0, "workers": 2, **limits}
    found = in_workers(tasks, work, Limits(**options))  # type: ignore[arg-type]
    return [f"{t}: {r.reason if isinstance(r, UnreadableError) else r}" for t, r in found]


def test_results_come_in_the_order_of_the_tasks() -> None:
    tasks = ["wait", *(f"t{n}" for n in range(40)), "wait"]
    assert outcomes(tasks) == [f"{task}: {task.upper()}" for task in tasks]
    assert outcomes([]) == []


def test_a_task_that_hangs_dies_or_fills_the_memory_costs_itself() -> None:
    begin = time.monotonic()
    tasks = ["a", "hang", "b", "die", "c", "fill", "d", "reject", "e"]
    assert outcomes(tasks, seconds=2) == [
        "a: A",
        "hang: took too long",
        "b: B",
        "die: crashed",
        "c: C",
        "fill: too large",
        "d: D",
        "reject: corrupt",
        "e: E",
    ]
    assert time.monotonic() - begin < 20


def test_a_fault_of_the_work_itself_is_raised() -> None:
    with pytest.raises(KeyError, match="a fault of ours"):
        outcomes(["a", "fault", "b"])


def test_no_worker_is_left_when_the_reader_stops_early() -> None:
    found = in_workers(["a"] * 50, lambda _: os.getpid(), Limits(20, 1000, 2))
    pids = {next(found)[1] for _ in range(5)}
    found.close()  # type: ignore[attr-defined]
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)  # type: ignore[arg-type]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("task", ["idle", "busy"])
def test_no_worker_outlives_a_parent_that_is_killed(task: str, tmp_path: Path) -> None:
    def note(which: str) -> str:
        (tmp_path / f"{os.getpid()}.pid").touch()
        time.sleep(600 if task == "busy" else 0.3)
        return which

    parent = os.fork()
    if parent == 0:
        try:
            found = in_workers([f"t{n}" for n in range(8)], note, Limits(1.5, 1000, 3))
            next(found)
            time.sleep(600)  # with idle workers
        finally:
            os._exit(1)
    deadline = time.monotonic() + 60
    while len(pids := [int(p.stem) for p in tmp_path.glob("*.pid")]) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0 if task == "busy" else 1)
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    while any(map(is_alive, pids)):
        assert time.monotonic() < deadline, "a worker is left"
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody waits for does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"
