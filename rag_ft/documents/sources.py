"""From the configured sources to documents, one at a time: walking folders, reading files and JSONL lines."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from rag_ft.config import Source
from rag_ft.documents.plain_text import MAX_TITLE_CHARS, UnreadableError, one_line, printable, readable, tidy_in_place
from rag_ft.documents.readers import check_file, read_file
from rag_ft.errors import DataError
from rag_ft.records import Reject, Split

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """A file of a source: `id` is its path under the source folder; `alone` when the source names the file itself."""

    path: Path
    id: str
    source: Source
    alone: bool


@dataclass(frozen=True)
class Draft:
    """A document before its split is known; `split` is what the user fixed, if anything. `where` names it in rejects,
    `folder` tells apart documents of two source folders with the same id."""

    id: str
    title: str
    text: str
    source: str
    split: Split | None
    metadata: dict[str, Any]
    where: str
    folder: str = ""


def find_files(sources: list[Path | Source]) -> list[Found]:
    """All files of all sources, folders in sorted order of paths, hidden files left out; a file met twice counts once.

    Raises:
        DataError: a source does not exist.
    """
    found: dict[Path, Found] = {}
    for entry in sources:
        source = entry if isinstance(entry, Source) else Source(path=entry, split=None)
        if not source.path.exists():
            raise DataError(f"ingest.sources: {source.path} does not exist (seen from {Path.cwd()}): correct the path")
        if not source.path.is_dir():
            found.setdefault(source.path.resolve(), Found(source.path, source.path.name, source, True))
            continue
        for path in _walk(source.path):
            name = printable(path.relative_to(source.path).as_posix())
            found.setdefault(path.absolute(), Found(path, name, source, False))
    return list(found.values())


def read_drafts(file: Found, max_bytes: float) -> Iterator[Draft | Reject]:
    """The document of a file, or those of a JSONL file's lines; a Reject for each that cannot be read."""
    where = printable(str(file.path))
    try:
        if file.path.suffix.lower() == ".jsonl":
            yield from _read_lines(file, where, max_bytes)
            return
        content = read_file(file.path, max_bytes)
    except UnreadableError as error:
        yield Reject(where, error.reason, error.detail)
        return
    folder = "" if file.alone else file.source.path.resolve().name
    yield Draft(file.id, content.title, content.text, where, file.source.split, content.metadata, where, folder)


def _walk(folder: Path) -> Iterator[Path]:
    """Files in sorted order, then what could not be walked: linked folders (they may lead back up) and closed ones."""
    skipped: list[Path] = []

    def skip(error: OSError) -> None:
        skipped.append(Path(error.filename))

    for root, folders, names in os.walk(folder, onerror=skip):
        folders[:] = sorted(n for n in folders if not n.startswith("."))
        skipped += [Path(root) / n for n in folders if (Path(root) / n).is_symlink()]
        yield from (Path(root) / n for n in sorted(names) if not n.startswith((".", "~$")))
    yield from skipped


def _read_lines(file: Found, name: str, max_bytes: float) -> Iterator[Draft | Reject]:
    check_file(file.path)
    num_rows = 0
    try:
        for number, line in _lines(file.path, max_bytes):
            where = f"{name} line {number}"
            try:
                row = _parse(line)
                if not num_rows and "question" in row and "text" not in row:
                    return _skip_questions(file)
                num_rows += 1
                yield _draft(row, file.source.split, name, where)
            except UnreadableError as error:
                num_rows += 1
                yield Reject(where, error.reason, error.detail)
    except OSError as error:
        raise UnreadableError("unreadable", error.strerror or str(error)) from error
    if not num_rows:
        raise UnreadableError("empty", "the file has no lines")


def _skip_questions(file: Found) -> None:
    if file.alone:
        raise UnreadableError("not documents", "its lines are questions: name it in generate.questions")
    logger.info("%s holds questions, not documents: left to generate.questions", file.path)


def _lines(path: Path, max_bytes: float) -> Iterator[tuple[int, bytes | None]]:
    """(number, line) of lines that are not blank; None for one that is too long, of which only `max_bytes` are held."""
    limit = int(max_bytes) + 1
    with path.open("rb") as raw:
        number = 0
        while line := raw.readline(limit):
            number += 1
            whole = line.endswith(b"\n") or len(line) < limit
            rest = line
            while not rest.endswith(b"\n") and (rest := raw.readline(1 << 20)):
                whole = False
            if not whole:
                yield number, None
            elif line.strip():
                yield number, line


def _parse(line: bytes | None) -> dict[str, Any]:
    if line is None:
        raise UnreadableError("too large", "a line longer than ingest.max_document_mb")
    try:
        row = json.loads(line.decode("utf-8-sig"))
        if b"\\ud" in line.lower():
            row = json.loads(printable(json.dumps(row, ensure_ascii=False)))
    except (ValueError, RecursionError) as error:
        raise UnreadableError("not JSON", str(error)[:200]) from error
    if not isinstance(row, dict):
        raise UnreadableError("not JSON", "the line is not an object {id, title, text, ...}")
    return row


def _draft(row: dict[str, Any], fixed: Split | None, source: str, where: str) -> Draft:
    text, split, metadata = row.get("text"), row.get("split"), row.get("metadata") or {}
    if row.get("id") is None or not str(row["id"]).strip() or isinstance(row["id"], dict | list):
        raise UnreadableError("no id", 'every line needs its own "id"')
    if not isinstance(text, str):
        raise UnreadableError("no text", '"text" is missing or not a string')
    if not text.strip():
        raise UnreadableError("empty", '"text" is empty')
    if split is not None and split not in get_args(Split):
        raise UnreadableError("unknown split", f"{split!r}: use train, dev, test, or leave it out")
    if not isinstance(metadata, dict):
        raise UnreadableError("bad metadata", '"metadata" is not an object')
    document_id = one_line(str(row["id"]))
    title = one_line(str(row.get("title") or ""))[:MAX_TITLE_CHARS] or readable(document_id)
    return Draft(document_id, title, tidy_in_place(text), source, split or fixed, metadata, where)
