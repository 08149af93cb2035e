"""Buckets on one machine: one after the other, or in processes."""

from __future__ import annotations

import math
import os
import sys
import tempfile
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from rag_ft.config import EngineConfig
from rag_ft.documents.formats.content import UnreadableError
from rag_ft.documents.workers import Limits, in_workers
from rag_ft.engine.work import Work, try_bucket


def run_in_order(work: Work, waiting: deque[str]) -> Iterator[tuple[str, str | None]]:
    """The buckets one after the other in this process, with one thread."""
    with nullcontext() if work.has_processes else one_thread():
        try:
            while waiting:
                name = waiting.popleft()
                yield name, try_bucket(work, name)
        finally:
            work.close()


def run_in_processes(
    work: Work, waiting: deque[str], engine: EngineConfig
) -> Iterator[tuple[str, str | None]]:
    """The buckets in `engine.num_workers` processes. What a process was doing when it died has
    failed."""
    task = _InProcess(work, engine.advanced.gpus_per_worker)

    def taken() -> Iterator[str]:
        while waiting:
            yield waiting.popleft()

    # What failed last may be put back when the processes have ended.
    while waiting:
        limits = Limits(math.inf, 0, min(engine.num_workers, len(waiting)), "spawn")
        for name, error in in_workers(taken(), task, limits):
            yield name, str(error) if isinstance(error, UnreadableError) else error


@dataclass
class _InProcess:
    """The work in a process of its own."""

    work: Work
    gpus: float
    gpu_locks: tuple[FileLock, ...] = ()

    def __call__(self, name: str) -> str | None:
        os.environ["TQDM_DISABLE"] = "1"  # the parent shows the progress
        if self.gpus >= 1 and not self.gpu_locks:
            self.gpu_locks = claim_gpus(int(self.gpus))
        use_one_thread()
        return try_bucket(self.work, name)


def claim_gpus(number: int) -> tuple[FileLock, ...]:
    """Makes only so many GPUs visible to this process, which no other worker of this machine uses.
    They are free again when the process ends. Without enough free GPUs all stay visible."""
    import torch

    folder = Path(tempfile.gettempdir()) / f"rag_ft-gpus-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    claimed: dict[str, FileLock] = {}
    seen = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    for gpu in seen.split(",") if seen else map(str, range(torch.cuda.device_count())):
        lock = FileLock(folder / f"{gpu}.lock", blocking=False)
        try:
            lock.acquire()
        except Timeout:
            continue
        claimed[gpu] = lock
        if len(claimed) == number:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(claimed)
            return tuple(claimed.values())
    for lock in claimed.values():
        lock.release()
    return ()


def use_one_thread() -> None:
    """PyTorch computes with one thread in this worker, also where it is loaded later."""
    os.environ["OMP_NUM_THREADS"] = "1"
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch computes with one thread, so that results are the same bytes on every machine."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
