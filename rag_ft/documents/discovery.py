"""From the configured sources to documents, one at a time: walking folders, reading files and JSONL lines."""

from __future__ import annotations

import json
import logging
import os
import unicodedata
from collections.abc import Container, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, get_args

from rag_ft.config import Source
from rag_ft.documents.formats.cleaning import (
    MAX_TITLE_CHARS,
    UnreadableError,
    one_line,
    readable,
    tidy_in_place,
)
from rag_ft.documents.reading import check_file, read_file
from rag_ft.errors import DataError
from rag_ft.run_dir import RunDir
from rag_ft.schema import Reject, Split
from rag_ft.storage import content_hash, encodable

logger = logging.getLogger(__name__)

RUN_MARK = RunDir(Path()).started("ingest").name
MAX_DEPTH = (
    50  # of lists and objects in a JSONL line; some hundred more and Python cannot write them again
)


@dataclass(frozen=True)
class Found:
    """A file of a source: `id` is its path under `folder`, the source's; `alone` when the source names the file itself
    (then `folder` is where it lies). `depth` is how many folders the source's own path has."""

    path: Path
    id: str
    folder: Path
    split: Split | None
    depth: int
    alone: bool


@dataclass(frozen=True)
class Draft:
    """A document before its split is known; `split` is what the user fixed, if anything. `where` names it in rejects,
    `folder` is what an id that comes from the file's name is relative to: its name tells apart two such with one id."""

    id: str
    title: str
    text: str
    source: str
    split: Split | None
    metadata: dict[str, Any]
    where: str
    folder: Path | None = None


def find_files(sources: list[Path | Source]) -> list[Found]:
    """All files of all sources, folders in sorted order of paths, hidden files left out. A file met twice counts once;
    its split is that of the source which has one and names it most closely.

    Raises:
        DataError: a source does not exist.
    """
    found: dict[Path, Found] = {}
    for entry in sources:
        source = entry if isinstance(entry, Source) else Source(path=entry, split=None)
        for file in _files(source.path.expanduser(), source.split):
            key = (
                file.path.resolve()
                if file.alone
                else file.folder / file.path.relative_to(source.path.expanduser())
            )
            found[key] = _with_closer_split(found[key], file) if key in found else file
    return list(found.values())


def _files(path: Path, split: Split | None) -> Iterator[Found]:
    if not path.exists():
        raise DataError(
            f"ingest.sources: {path} does not exist (seen from {Path.cwd()}): correct the path"
        )
    place = path.resolve()
    depth = len(place.parts)
    if not path.is_dir():
        yield Found(path, _name(path.name), place.parent, split, depth, alone=True)
        return
    for file in _walk(path):
        yield Found(
            file, _name(file.relative_to(path).as_posix()), place, split, depth, alone=False
        )


def _with_closer_split(first: Found, other: Found) -> Found:
    if other.split is None or (first.split is not None and first.depth >= other.depth):
        return first
    return replace(first, split=other.split, depth=other.depth)


def _name(path: str) -> str:
    """A path as an id. Composed characters: some file systems take names apart, and questions name documents."""
    return unicodedata.normalize("NFC", encodable(path))


def free_id(draft: Draft, taken: Container[str]) -> str:
    """The document's id; where that is taken and comes from a file's name, with as many parent folders before it as
    tell it apart."""
    own, folder = draft.id, draft.folder
    while own in taken and folder is not None and folder.name:
        own, folder = f"{_name(folder.name)}/{own}", folder.parent
    return own


def read_drafts(file: Found, max_bytes: float) -> Iterator[Draft | Reject]:
    """The document of a file, or those of a JSONL file's lines; a Reject for each that cannot be read."""
    where = encodable(str(file.path))
    try:
        if file.path.suffix.lower() == ".jsonl":
            yield from _read_lines(file, where, max_bytes)
            return
        content = read_file(file.path, max_bytes)
    except UnreadableError as error:
        yield Reject(where, error.reason, error.detail)
        return
    yield Draft(
        file.id,
        content.title,
        content.text,
        where,
        file.split,
        content.metadata,
        where,
        file.folder,
    )


def _walk(folder: Path) -> Iterator[Path]:
    """Files in sorted order, then what could not be walked: linked folders (they may lead back up) and closed ones.
    Run folders are left out: what a run wrote of the documents is no further document."""
    skipped: list[Path] = []

    def skip(error: OSError) -> None:
        skipped.append(Path(error.filename))

    for root, folders, names in os.walk(folder, onerror=skip):
        if RUN_MARK in names:
            folders.clear()
            continue
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
                yield _draft(row, file, name, where)
            except UnreadableError as error:
                num_rows += 1
                yield Reject(where, error.reason, error.detail)
    except OSError as error:
        raise UnreadableError("unreadable", error.strerror or str(error)) from error
    if not num_rows:
        raise UnreadableError("empty", "the file has no lines")


def _skip_questions(file: Found) -> None:
    if file.alone:
        raise UnreadableError(
            "not documents", "its lines are questions: name it in generate.questions"
        )
    logger.info(
        "%s holds questions, not documents: left to generate.questions", encodable(str(file.path))
    )


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
        raise UnreadableError("too large", "a line longer than ingest.advanced.max_document_mb")
    try:
        row = json.loads(line.decode("utf-8-sig"))
        if b"\\ud" in line.lower():
            row = encodable(row)
    except (ValueError, RecursionError) as error:
        raise UnreadableError("not JSON", str(error)[:200]) from error
    if not isinstance(row, dict):
        raise UnreadableError("not JSON", "the line is not an object {id, title, text, ...}")
    if _nests_deeper(row, MAX_DEPTH):
        raise UnreadableError("too deep", f"lists or objects nested more than {MAX_DEPTH} levels")
    return row


def _nests_deeper(value: Any, levels: int) -> bool:
    if not isinstance(value, dict | list):
        return False
    inner = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_nests_deeper(v, levels - 1) for v in inner)


def _draft(row: dict[str, Any], file: Found, source: str, where: str) -> Draft:
    own, text, split, metadata = (
        row.get("id"),
        row.get("text"),
        row.get("split"),
        row.get("metadata") or {},
    )
    if isinstance(own, dict | list):
        raise UnreadableError("bad id", '"id" is not a string')
    if not isinstance(text, str):
        raise UnreadableError("no text", '"text" is missing or not a string')
    if not text.strip():
        raise UnreadableError("empty", '"text" is empty')
    if split is not None and split not in get_args(Split):
        raise UnreadableError("unknown split", f"{split!r}: use train, dev, test, or leave it out")
    if not isinstance(metadata, dict):
        raise UnreadableError("bad metadata", '"metadata" is not an object')
    named = one_line("" if own is None else str(own))
    title = one_line(str(row.get("title") or ""))[:MAX_TITLE_CHARS] or readable(
        named or encodable(file.path.stem)
    )
    # Without an id the text's hash: a line's number would change with every line put before it.
    return Draft(
        named or content_hash(text),
        title,
        tidy_in_place(text),
        source,
        split or file.split,
        metadata,
        where,
    )
