"""The files of the sources in buckets, which machines read on their own.

A piece of work is a ReadTask of prepare.py: some small files, one large file, or some lines of a
JSONL file. Its bucket follows from its name; see engine/work.py. The result of a bucket is a file
with what prepare_all gives. It is joined in the order of the sources, so that of equal documents
the same one is kept as without buckets.
"""

from __future__ import annotations

import base64
import functools
import heapq
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rag_ft.config import EngineConfig, IngestConfig
from rag_ft.documents.chunking import ChunkPlace
from rag_ft.documents.discovery import RawDocument, jsonl_lines
from rag_ft.documents.formats.content import UnreadableError
from rag_ft.documents.prepare import (
    Prepared,
    PrepareSettings,
    ReadTask,
    limits_of,
    prepare_all,
    prepare_settings,
    prepare_tasks,
    read_tasks,
)
from rag_ft.documents.source_files import SourceFile
from rag_ft.documents.workers import Limits
from rag_ft.engine.shards import end_shard, run_buckets
from rag_ft.engine.work import (
    bucket_of,
    number_of_buckets,
    plan_buckets,
    planned_rows,
    result_of,
)
from rag_ft.schema import Reject
from rag_ft.storage import read_rows, write_jsonl

Reader = Callable[[Iterable[SourceFile]], Iterator[Prepared | Reject]]
FILES_PER_BUCKET = 1024
MAX_BUCKETS = 512  # the results of all are read side by side


def reader_of(config: IngestConfig, encoder: Path, engine: EngineConfig, folder: Path) -> Reader:
    """What reads files as the section `ingest` says, in buckets of `folder` where the engine wants
    them; `encoder` is a folder."""
    settings, limits = prepare_settings(config, encoder), limits_of(config)
    if not engine.in_buckets:
        return functools.partial(prepare_all, settings=settings, limits=limits)
    read = functools.partial(prepare_in_buckets, settings=settings, limits=limits)
    return functools.partial(read, folder=folder, engine=engine)


def prepare_in_buckets(
    files: Iterable[SourceFile],
    settings: PrepareSettings,
    limits: Limits,
    folder: Path,
    engine: EngineConfig,
) -> Iterator[Prepared | Reject]:
    """As prepare_all, by the workers of the engine; their results stand in `folder`.

    Raises:
        ConfigError: the encoder's tokenizer cannot be read.
        RagFtError, ShardDone: see run_buckets.
    """
    found = list(files)
    num_buckets = min(MAX_BUCKETS, number_of_buckets(_num_pieces(found), FILES_PER_BUCKET))

    def rows() -> Iterator[tuple[int, dict[str, Any]]]:
        for number, task in enumerate(read_tasks(found, settings.read)):
            row = _task_to_row(task)
            content = f"{task.files[0].id} {row['first']}"
            yield bucket_of(content, num_buckets), {"number": number, **row}

    names = plan_buckets(folder, rows())
    if engine.kind == "ray":
        limits = replace(limits, workers=max(1, int(engine.advanced.cpus_per_worker)))
    run_buckets(ReadWork(folder, settings, limits), names, engine, "ingest: read files")
    end_shard(engine)
    results = (read_rows(result_of(folder, name)) for name in names)
    for row in heapq.merge(*results, key=lambda row: row["number"]):
        yield _result_from_row(row)


def _num_pieces(files: Iterable[SourceFile]) -> int:
    """About the number of documents: a JSONL file counts for its size."""
    return sum(
        max(1, file.path.stat().st_size // 2048)
        if file.path.suffix.lower() == ".jsonl" and file.path.exists()
        else 1
        for file in files
    )


@dataclass
class ReadWork:
    """Reads the files of a bucket; see engine/work.Work. It has processes of its own, with limits
    of time and memory."""

    folder: Path
    settings: PrepareSettings
    limits: Limits
    has_processes: bool = True

    def do(self, name: str) -> None:
        """Writes a {number of the task, document or reject} a line."""
        rows = list(planned_rows(self.folder, name))
        limits = self.limits
        if "ray" in sys.modules:  # a process with Ray's threads cannot be forked
            limits = replace(limits, method="spawn")
        found = prepare_tasks(self._tasks(rows), self.settings, limits)
        numbers = [row["number"] for row in rows]
        write_jsonl(
            result_of(self.folder, name),
            ({"number": numbers[place], **_result_to_row(item)} for place, item in found),
        )

    def close(self) -> None:
        """Nothing stays open."""

    def _tasks(self, rows: list[dict[str, Any]]) -> list[ReadTask]:
        """The tasks of the rows; a JSONL file is read once for all of its lines."""
        tasks = [_task_from_row(row) for row in rows]
        places: dict[Path, list[int]] = defaultdict(list)
        for place, row in enumerate(rows):
            if row["first"] and not row["failure"]:
                places[tasks[place].files[0].path].append(place)
        for own in places.values():
            lines: dict[int, list[tuple[int, bytes | None]]] = defaultdict(list)
            waiting = iter(own)
            place = next(waiting)
            try:
                for number, line in jsonl_lines(
                    tasks[place].files[0], self.settings.read.max_bytes
                ):
                    while number > rows[place]["last"]:
                        place = next(waiting)
                    if number >= rows[place]["first"]:
                        lines[place].append((number, line))
            except StopIteration:
                pass  # no task wants the lines that are left
            except UnreadableError:
                pass  # the plan has a task of its own for it
            for place, found in lines.items():
                tasks[place] = replace(tasks[place], rows=tuple(found))
        return tasks


def _task_to_row(task: ReadTask) -> dict[str, Any]:
    failure = task.failure
    return {
        "files": [
            {**vars(file), "path": _path_to_hex(file.path), "folder": _path_to_hex(file.folder)}
            for file in task.files
        ],
        "first": task.rows[0][0] if task.rows else 0,
        "last": task.rows[-1][0] if task.rows else 0,
        "failure": [failure.reason, failure.detail] if failure else None,
    }


def _task_from_row(row: dict[str, Any]) -> ReadTask:
    files = tuple(
        SourceFile(**file | {name: _path_from_hex(file[name]) for name in ("path", "folder")})
        for file in row["files"]
    )
    return ReadTask(files, failure=UnreadableError(*row["failure"]) if row["failure"] else None)


def _result_to_row(item: Prepared | Reject) -> dict[str, Any]:
    if isinstance(item, Reject):
        return {"reject": vars(item)}
    document = {name: value for name, value in vars(item.document).items() if name != "blocks"}
    folder = item.document.folder
    return {
        "document": {**document, "folder": folder and _path_to_hex(folder)},
        "chunks": item.chunks,
        "signature": base64.b64encode(item.signature.tobytes()).decode(),
        "grams": base64.b64encode(item.grams.tobytes()).decode(),
        "sensitive": item.sensitive,
        "language": item.language,
    }


def _result_from_row(row: dict[str, Any]) -> Prepared | Reject:
    if "reject" in row:
        return Reject(**row["reject"])
    document = row["document"]
    document["folder"] = document["folder"] and _path_from_hex(document["folder"])
    return Prepared(
        RawDocument(**document),
        [ChunkPlace(*chunk) for chunk in row["chunks"]],
        np.frombuffer(base64.b64decode(row["signature"]), np.uint32),
        np.frombuffer(base64.b64decode(row["grams"]), np.uint64),
        row["sensitive"],
        row["language"],
    )


def _path_to_hex(path: Path) -> str:
    """A path as hex digits: its name may be no valid Unicode."""
    return os.fsencode(path).hex()


def _path_from_hex(digits: str) -> Path:
    return Path(os.fsdecode(bytes.fromhex(digits)))
