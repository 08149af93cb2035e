"""Files of records: JSON lines, atomic writes, and appending."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import json
import math
import os
import re
import secrets
import shutil
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TextIO, TypeVar

from filelock import FileLock

from rag_ft.errors import DataError
from rag_ft.schema import (
    Chunk,
    Document,
    Evidence,
    Hit,
    Place,
    Prediction,
    QAPair,
    Reject,
    Review,
    Score,
)

_SURROGATE = re.compile("[\ud800-\udfff]")
TEMPORARY = ".tmp"
# Only setting it tells what it is.
_UMASK = os.umask(0o022)
os.umask(_UMASK)
_TEMPORARY_NAME = re.compile(r"\.[0-9a-f]{8}\.tmp$")


Item = TypeVar("Item")
Record = TypeVar("Record", Document, Chunk, QAPair, Hit, Prediction, Score, Reject, Review)


def to_json(record: Any) -> str:
    """The JSON line of a record or a dict, without its newline; see `json_text`."""
    row = record if isinstance(record, dict) else vars(record)
    # Only some records have these: the lines of the others stay as they were before there were any.
    for kind, late in ((QAPair, "filters"), (Chunk, "inner_headings")):
        if isinstance(record, kind) and not row[late]:
            row = {name: value for name, value in row.items() if name != late}
    return json_text(row)


def json_text(value: Any, **form: Any) -> str:
    """JSON of a value, in which NaN and infinity, which JSON lacks, are null. `form` as in json."""
    encoder = _encoder(**form) if form else _JSON
    try:
        return encoder.encode(value)
    except ValueError:
        plain = json.loads(json.dumps(value, default=vars), parse_constant=lambda _: None)
        return encoder.encode(plain)


# `vars` reaches the records within records: dataclasses.asdict would copy every value first, which
# takes three quarters of the time.
_encoder = functools.partial(json.JSONEncoder, ensure_ascii=False, allow_nan=False, default=vars)
_JSON = _encoder()


def from_json(line: str, kind: type[Record]) -> Record:
    """The record in a JSON line. Raises ValueError, TypeError or KeyError where it is none."""
    row = json.loads(line)
    if not isinstance(row, dict):
        raise ValueError("no JSON object")
    if kind is QAPair:
        row["evidence"] = Evidence(**row["evidence"]) if row["evidence"] else None
    if kind is Review:
        row["evidence"] = [Place(**place) for place in row["evidence"]]
    for name, value in row.items():
        if isinstance(value, list):
            row[name] = tuple(value)
    return kind(**row)


def read_rows(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file, one in each line.

    Raises:
        DataError: the file cannot be read, or a line is not a JSON object (names the line).
    """
    try:
        with path.open(encoding="utf-8", newline="\n") as lines:
            for number, line in enumerate(lines, 1):
                if not line.endswith("\n"):
                    continue  # the last line of a killed writer
                try:
                    row = json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise DataError(f"{path} line {number} is not JSON: {error}") from error
                if not isinstance(row, dict):
                    raise DataError(f"{path} line {number} is not a JSON object")
                yield row
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: {error}") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error


def read_jsonl(path: Path, kind: type[Record]) -> Iterator[Record]:
    """The records of a file that a stage of this package wrote.

    Raises:
        DataError: the file is missing, or a line is not such a record (names the line).
    """
    try:
        with path.open(encoding="utf-8", newline="\n") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    yield from_json(line, kind)
                except (ValueError, TypeError, KeyError, RecursionError) as error:
                    raise DataError(
                        f"{path} line {number} is not a {kind.__name__}: {error}"
                    ) from error
    except UnicodeDecodeError as error:
        raise DataError(f"{path} is not UTF-8: {error}; run its stage with --force") from error
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist: run the stage that writes it first") from error


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """An error of the system in the block names `path`: a full disk names no file itself."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise


def sync(path: Path) -> None:
    """Waits until a file is on the disk, and gives it the rights of any new file: some libraries
    write theirs for the owner alone."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
    with contextlib.suppress(PermissionError):
        path.chmod(0o666 & ~_UMASK)


def temporary_beside(path: Path) -> Path:
    """A new name in the folder of `path`, to write to and then rename. Makes the folder.

    Open it with mode "x": then it follows no link and overwrites no file of another process.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.with_name(f"{path.name}.{secrets.token_hex(4)}{TEMPORARY}")


def leftovers(path: Path) -> list[Path]:
    """Temporary files that killed writers of `path` left beside it or, where it is a folder, in
    it."""
    beside = [p for p in path.parent.glob("*" + TEMPORARY) if p.name.startswith(f"{path.name}.")]
    inside = path.rglob("*" + TEMPORARY) if path.is_dir() else ()
    return [p for p in (*beside, *inside) if _TEMPORARY_NAME.search(p.name)]


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[TextIO]:
    """A temporary text file that is renamed to `path` at the end, so that `path` never names a
    half-written file."""
    temporary = temporary_beside(path)
    try:
        with temporary.open("x", encoding="utf-8", newline="\n") as out:
            yield out
            with naming(path):
                out.flush()
                os.fsync(out.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_jsonl(path: Path, records: Iterable[Any]) -> int:
    """Writes a file of records (or dicts), one a line; returns their number. `path` appears when it
    is whole."""
    count = 0
    with replacing(path) as out:
        for record in records:
            with naming(path):
                out.write(to_json(record) + "\n")
            count += 1
    return count


def write_text(path: Path, text: str) -> None:
    """Writes a small file, which appears when it is whole."""
    with replacing(path) as out, naming(path):
        out.write(text)


def write_json(path: Path, value: Any, indent: int | None = None) -> None:
    """As write_text, of a JSON value and a newline."""
    write_text(path, json_text(value, indent=indent) + "\n")


class JsonlAppender:
    """Appends records or dicts to a file of JSON lines. Opening it removes the unfinished last line
    of a killed writer."""

    def __init__(self, path: Path) -> None:
        self._path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            with path.open("rb+") as raw:
                # Back to the last newline.
                position = raw.seek(0, os.SEEK_END)
                while position > 0:
                    raw.seek(position - 1)
                    if raw.read(1) == b"\n":
                        break
                    position -= 1
                raw.truncate(position)
        self._out = path.open("ab")

    def write(self, *rows: Any) -> list[int]:
        """Writes and flushes each row as one line. Returns the lengths of the lines in bytes."""
        lines = [(to_json(row) + "\n").encode() for row in rows]
        with naming(self._path):
            self._out.write(b"".join(lines))
            self._out.flush()
        return [len(line) for line in lines]

    def sync(self) -> None:
        """Waits until the written rows are on the disk."""
        with naming(self._path):
            os.fsync(self._out.fileno())

    def __enter__(self) -> JsonlAppender:
        return self

    def __exit__(self, *_: object) -> None:
        self._out.close()


def link_or_copy(file: str | Path, target: str | Path) -> None:
    """Makes `target` a hard link of a file that is never written over in place; a copy where the
    file system has no links."""
    try:
        os.link(file, target)
    except OSError:
        shutil.copy2(file, target)


def append_lines(path: Path, *rows: Any, durable: bool = True) -> None:
    """Appends records or dicts as lines; processes that append at the same time wait for each
    other. `durable`: returns when the lines are on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with append_lock(path), JsonlAppender(path) as out:
        out.write(*rows)
        if durable:
            out.sync()


def append_lock(path: Path) -> FileLock:
    """Held by whoever appends to a file that several processes append to."""
    return FileLock(path.with_name(f".{path.name}.lock"))


def now() -> str:
    """The time in UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def encodable(value: Any) -> Any:
    """A JSON value whose texts can be written as UTF-8. Half surrogate pairs, which come from
    "\\ud83d" in JSON or from file names that are not Unicode, become the replacement character."""
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", value)
    if isinstance(value, list):
        return [encodable(item) for item in value]
    if isinstance(value, dict):
        return {encodable(key): encodable(item) for key, item in value.items()}
    return value


def finite(value: Any) -> Any:
    """A JSON value without NaN and infinity, which JSON does not have: null in their place."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    return value


def batched(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items in order, the last one shorter (itertools.batched is in Python
    3.12)."""
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def text_batches(
    texts: Iterable[str], characters: int, most: int = sys.maxsize
) -> Iterator[list[str]]:
    """The texts in order, `most` at a time and so many characters together; a longer text comes
    alone."""
    batch: list[str] = []
    size = 0
    for text in texts:
        if batch and (len(batch) == most or size + len(text) > characters):
            yield batch
            batch, size = [], 0
        batch.append(text)
        size += len(text)
    if batch:
        yield batch


def file_sha256(path: Path) -> str:
    """sha256 of a file's content as 64 hex digits; computed once while size and time stay.

    Raises:
        OSError: the file cannot be read.
    """
    found = path.stat()
    # A text takes a third of the memory of a Path, and thousands are kept.
    return _sha256(str(path), found.st_size, found.st_mtime_ns)


@functools.lru_cache(maxsize=100_000)
def _sha256(path: str, size: int, mtime_ns: int) -> str:
    with open(path, "rb") as raw:
        return hashlib.file_digest(raw, "sha256").hexdigest()


def content_hash(*parts: Any) -> str:
    """16 hex digits over the JSON of the parts: the key of everything that is computed once."""
    content = json.dumps(parts, ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]
