"""Buckets: the parts of a stage's work that processes and machines do on their own.

The work is a list of rows, such as chunks to encode or requests to a language model. A hash of its
content gives a row its bucket, and the number of buckets follows from the number of rows alone. A
bucket is a file `plan/<number>-<hash>.jsonl`. Its result, `done/<number>-<hash>`, is a file or a
folder that appears by a rename: where it is, it is whole. A batch never crosses a bucket, and a
worker computes with one thread. So the results are the same bytes whatever the engine, the number
of workers and shards, and the interruptions.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import secrets
import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

from rag_ft.errors import ConfigError, RagFtError, first_line
from rag_ft.storage import read_rows, to_json

log = logging.getLogger(__name__)

# Rows of a plan that wait in memory before they are appended to the files of their buckets.
MAX_WAITING_ROWS = 4096


class Work(Protocol):
    """What a worker does with buckets. It is pickled: it opens a model with its first bucket, and
    keeps it for the next ones."""

    folder: Path
    has_processes: bool  # it uses all cores of a machine itself

    def do(self, name: str) -> None:
        """Writes the result of a bucket, whole."""
        ...

    def close(self) -> None:
        """Gives back what `do` has opened."""
        ...


def number_of_buckets(num_rows: int, rows_per_bucket: int) -> int:
    """At least 1; depends on nothing else, so that every machine finds the same buckets."""
    return max(1, -(-num_rows // rows_per_bucket))


def bucket_of(content: str, num_buckets: int) -> int:
    """The bucket of a row with this content."""
    return int(hashlib.sha256(content.encode()).hexdigest()[:15], 16) % num_buckets


def plan_buckets(folder: Path, rows: Iterable[tuple[int, dict[str, Any]]]) -> list[str]:
    """Writes the plan of every bucket from (bucket, row); returns the names of the buckets.

    Several shards may plan at the same time: they write the same files.
    """
    mark = f"{os.getpid()}-{secrets.token_hex(4)}.tmp"
    hashes: dict[int, Any] = defaultdict(hashlib.sha256)
    waiting: dict[int, list[bytes]] = defaultdict(list)
    plan = folder / "plan"
    plan.mkdir(parents=True, exist_ok=True)

    def append() -> None:
        for number, lines in waiting.items():
            with (plan / f"{number:06}-{mark}").open("ab") as out:
                out.writelines(lines)
        waiting.clear()

    for place, (number, row) in enumerate(rows, 1):
        line = (to_json(row) + "\n").encode()
        hashes[number].update(line)
        waiting[number].append(line)
        if place % MAX_WAITING_ROWS == 0:
            append()
    append()
    names = []
    for number in sorted(hashes):
        names.append(f"{number:06}-{hashes[number].hexdigest()[:16]}")
        os.replace(plan / f"{number:06}-{mark}", plan / f"{names[-1]}.jsonl")
    return names


def planned_rows(folder: Path, name: str) -> Iterator[dict[str, Any]]:
    """The rows of a bucket, in the order in which they were planned."""
    return read_rows(folder / "plan" / f"{name}.jsonl")


def result_of(folder: Path, name: str) -> Path:
    """Where the result of a bucket stands once it is done."""
    return folder / "done" / name


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A new folder that becomes `path` at the end. Where another worker was faster, its folder
    stays: it has the same bytes."""
    temporary = path.with_name(f"tmp-{secrets.token_hex(6)}-{path.name}")
    temporary.mkdir(parents=True)
    try:
        yield temporary
        os.rename(temporary, path)
    except OSError:
        if not path.exists():
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def check_alike(found: str, wanted: str, what: str) -> None:
    """Raises ConfigError where a worker's model is not the one that the work was planned for."""
    if found != wanted:
        raise ConfigError(
            f"on {platform.node()} the {what} is {found}, where the work was planned {wanted}: use "
            "the same model files and the same number format everywhere (run.dtype, not auto)"
        )


def try_bucket(work: Work, name: str) -> str | None:
    """Does a bucket; returns why it failed, or None.

    Raises:
        RagFtError: what the user can fix, and what other buckets would meet too.
    """
    try:
        if not result_of(work.folder, name).exists():
            work.do(name)
        return None
    except RagFtError:
        raise
    except Exception as error:
        log.info("bucket %s", name, exc_info=True)
        return f"{type(error).__name__}: {first_line(error)}"
