"""One stage at a time in a run folder. Readers need no lock: files appear whole, by a rename."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from filelock import FileLock, Timeout

from rag_ft.errors import ConfigError, RagFtError
from rag_ft.run_dir import RunDir


@contextmanager
def locked(run_dir: RunDir, stage: str) -> Iterator[None]:
    """Holds the run folder for a stage; the operating system frees it when the process is killed.

    Raises:
        RagFtError: another process works in the folder.
        ConfigError: the folder cannot be written to.
    """
    lock = FileLock(run_dir.lock, blocking=False, is_singleton=True)
    try:
        run_dir.path.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise RagFtError(
            f"another rag-ft process ({_holder(run_dir)}) is working in {run_dir.path}: "
            "wait for it, or use another run.dir"
        ) from error
    except OSError as error:
        raise ConfigError(
            f"cannot write to the run folder {run_dir.path}: {error.strerror}; set run.dir"
        ) from error
    try:
        mine = {"pid": os.getpid(), "host": socket.gethostname(), "stage": stage}
        run_dir.lock.write_text(json.dumps(mine) + "\n", encoding="utf-8")
        yield
    finally:
        lock.release()


def _holder(run_dir: RunDir) -> str:
    try:
        found = json.loads(run_dir.lock.read_text(encoding="utf-8"))
        return f"pid {found['pid']} on {found['host']}, {found['stage']}"
    except (OSError, ValueError, LookupError, TypeError):  # it is just writing who it is
        return "which has just started"
