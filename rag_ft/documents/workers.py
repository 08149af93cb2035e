"""Runs a function over tasks in worker processes, so that a task that hangs, crashes or takes all
memory costs itself and not the run."""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Generic, Literal, TypeVar

from rag_ft.documents.formats.content import UnreadableError
from rag_ft.hardware import num_cores

Task = TypeVar("Task")
Result = TypeVar("Result")

# The tasks that are finished but wait for an earlier one, for each worker.
WINDOW = 8


@dataclass(frozen=True)
class Limits:
    """What a task may take: seconds, and megabytes on top of what the process has at its start (0:
    any). `workers` run at once; 0: one for each processor that this process may use. They are
    started by `method`; by default a fork on Linux."""

    seconds: float
    memory_mb: float
    workers: int = 0
    method: Literal["fork", "spawn"] = "fork" if sys.platform == "linux" else "spawn"

    @property
    def num_workers(self) -> int:
        """The number of processes."""
        return self.workers or num_cores()


@dataclass
class _Worker(Generic[Task]):
    process: BaseProcess
    connection: Connection
    number: int = -1  # of its task; -1: it is idle
    task: Task | None = None
    deadline: float = 0.0


def in_workers(
    tasks: Iterable[Task], work: Callable[[Task], Result], limits: Limits
) -> Iterator[tuple[Task, Result | UnreadableError]]:
    """Yields each task with the result of `work`, in the order of the tasks.

    `work` runs in other processes; what it returns is pickled. A task over a limit, and one that
    ends its process, gives an UnreadableError ("took too long", "too large", "crashed"). Other
    exceptions of `work` are raised here.
    """
    waiting = enumerate(tasks)
    workers: list[_Worker[Task]] = []
    finished: dict[int, tuple[Task, Any]] = {}
    order: deque[int] = deque()
    more = True
    try:
        while more or order:
            # Give every idle worker a task, unless too much waits for the oldest one.
            while more and len(order) < WINDOW * limits.num_workers:
                idle = next((w for w in workers if w.number < 0), None)
                if idle is None and len(workers) >= limits.num_workers:
                    break
                following = next(waiting, None)
                if following is None:
                    more = False
                    break
                if idle is None:
                    idle = _start(work, limits, [w.connection for w in workers])
                    workers.append(idle)
                idle.number, idle.task = following
                order.append(idle.number)
                idle.deadline = time.monotonic() + limits.seconds
                _send(idle)
            for worker in _ready(workers):
                assert worker.task is not None
                finished[worker.number] = worker.task, _receive(worker, limits)
                worker.number, worker.task = -1, None
            workers = [w for w in workers if not w.connection.closed]
            while order and order[0] in finished:
                task, result = finished.pop(order.popleft())
                if isinstance(result, BaseException) and not isinstance(result, UnreadableError):
                    raise result
                yield task, result
    finally:
        for worker in workers:
            _end(worker)


def _start(
    work: Callable[[Any], Any], limits: Limits, others: Sequence[Connection]
) -> _Worker[Any]:
    # A forked worker has all modules already and begins in 10 ms. Elsewhere threads of system
    # libraries forbid it, and here those of PyTorch: a worker that computes is spawned.
    context = multiprocessing.get_context(limits.method)
    ours, theirs = context.Pipe()
    # A forked worker has our ends of all pipes too. It would wait for tasks for ever where this
    # process is killed, since its own copies stay open.
    inherited = [*others, ours] if limits.method == "fork" else []
    process = context.Process(  # type: ignore[attr-defined]
        target=_serve, args=(theirs, inherited, work, limits), daemon=True
    )
    process.start()
    theirs.close()
    return _Worker(process, ours)


def _serve(
    connection: Connection,
    inherited: Sequence[Connection],
    work: Callable[[Any], Any],
    limits: Limits,
) -> None:
    """Answers tasks until the other end is closed."""
    for end in inherited:
        end.close()
    # Ctrl-C is for the parent, which ends its workers.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
    if hasattr(os, "setpgrp"):
        os.setpgrp()  # a program that the work starts ends with this process
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    if limits.memory_mb:
        limit_memory(limits.memory_mb)
    while True:
        try:
            task = connection.recv()
        except (EOFError, OSError):
            return
        # Our parent ends a task that takes too long, unless it was killed: then this timer does.
        _end_after(2 * limits.seconds)
        try:
            result: Any = work(task)
        except MemoryError:
            result = UnreadableError(
                "too large", f"needs more than {limits.memory_mb:.0f} MB of memory"
            )
        except Exception as error:
            result = error
        _end_after(0)
        try:
            connection.send(result)
        except (MemoryError, ValueError) as error:
            connection.send(UnreadableError("too large", f"its text is too long: {error}"))
        except OSError:
            return  # nobody waits for it


def _end_after(seconds: float) -> None:
    """Ends this process after so many seconds; 0: not any more."""
    if hasattr(signal, "setitimer") and math.isfinite(seconds):
        signal.setitimer(signal.ITIMER_REAL, seconds)


def limit_memory(megabytes: float) -> None:
    """Limits what this process may allocate from now on, where the system allows that."""
    try:
        import resource

        with open("/proc/self/statm", encoding="ascii") as sizes:
            used = int(sizes.read().split()[0]) * resource.getpagesize()
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = used + int(megabytes * 2**20)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    except (ImportError, OSError, ValueError):
        return


def _send(worker: _Worker[Any]) -> None:
    try:
        worker.connection.send(worker.task)
    except OSError:
        worker.deadline = 0.0  # it has died: `_receive` says so


def _ready(workers: list[_Worker[Any]]) -> list[_Worker[Any]]:
    """Waits until workers have answered, died, or run out of time, and returns them."""
    busy = [worker for worker in workers if worker.number >= 0]
    if not busy:
        return []
    left = max(0.0, min(worker.deadline for worker in busy) - time.monotonic())
    connections = [worker.connection for worker in busy]
    answered = set(map(id, wait(connections, None if left == math.inf else left)))
    now = time.monotonic()
    return [w for w in busy if id(w.connection) in answered or w.deadline <= now]


def _receive(worker: _Worker[Any], limits: Limits) -> Any:
    """Returns the answer of a worker, or why there is none; then the worker is ended."""
    try:
        if worker.connection.poll():
            return worker.connection.recv()
        failure = UnreadableError("took too long", f"more than {limits.seconds:g} seconds")
    except (EOFError, OSError):
        worker.process.join(1)
        code = worker.process.exitcode
        failure = UnreadableError("crashed", f"the reader ended with code {code}")
    _end(worker)
    return failure


def _end(worker: _Worker[Any]) -> None:
    """Ends a worker and what it started."""
    pid = worker.process.pid
    try:
        if pid and hasattr(os, "killpg"):
            os.killpg(pid, signal.SIGKILL)
    except OSError:
        pass  # it has ended, or has no group of its own yet
    worker.process.kill()
    worker.process.join()
    worker.connection.close()
