"""Reads the documents of source files, one at a time."""

from __future__ import annotations

import json
import logging
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from rag_ft.documents.blocks import PlacedBlock, blocks_of_text
from rag_ft.documents.formats.cleaning import MAX_TITLE_CHARS, one_line, readable, tidy_in_place
from rag_ft.documents.formats.content import UnreadableError
from rag_ft.documents.reading import (
    ReadFile,
    ReadSettings,
    check_file,
    holds_documents,
    read_file,
    read_parts,
)
from rag_ft.documents.source_files import SourceFile, leads_out, path_id
from rag_ft.schema import Reject, Split
from rag_ft.storage import content_hash, encodable

logger = logging.getLogger(__name__)

# The levels of lists and objects in a JSONL line. Python cannot write some hundred levels again.
MAX_DEPTH = 50


@dataclass(frozen=True)
class RawDocument:
    """A document before its split is decided.

    `split` is what the user fixed, if anything. `where` names the document in rejects. `folder` is
    set where the id is a path: it is the folder that the path is relative to.
    """

    id: str
    title: str
    text: str
    source: str
    split: Split | None
    metadata: dict[str, Any]
    where: str
    folder: Path | None = None
    blocks: list[PlacedBlock] = field(default_factory=list)


def check_link(file: SourceFile, follow_links: bool) -> None:
    """Raises UnreadableError for a file that leads out of its source folder, unless links are
    followed."""
    if not follow_links and leads_out(file):
        detail = "it leads out of the source folder or to nothing: set ingest.advanced.follow_links"
        raise UnreadableError("link", detail)


def free_id(document: RawDocument, taken: Container[str]) -> str:
    """Returns the document's id, if possible one that is not taken.

    An id that comes from a path gets parent folders in front until it is unique. An id that the
    user gave is not changed.
    """
    own, folder = document.id, document.folder
    while own in taken and folder is not None and folder.name:
        own, folder = f"{path_id(folder.name)}/{own}", folder.parent
    return own


def read_documents(file: SourceFile, settings: ReadSettings) -> Iterator[RawDocument | Reject]:
    """Yields the document of a file, or those of an archive or a mailbox, with a partial Reject for
    each part that could not be read. What cannot be read at all gives a Reject."""
    where = encodable(str(file.path))
    try:
        check_link(file, settings.follow_links)
        if not holds_documents(file.path):
            yield from _document(file, read_file(file.path, settings), file.id, where)
            return
        for name, found in read_parts(file.path, settings):
            inner = f"{where}/{encodable(name)}"
            if isinstance(found, UnreadableError):
                yield Reject(inner, found.reason, found.detail)
            else:
                yield from _document(file, found, f"{file.id}/{path_id(name)}", inner)
    except UnreadableError as error:
        yield Reject(where, error.reason, error.detail)


def _document(
    file: SourceFile, found: ReadFile, own_id: str, where: str
) -> Iterator[RawDocument | Reject]:
    yield RawDocument(
        id=own_id,
        title=found.title,
        text=found.text,
        source=where,
        split=file.split,
        metadata=found.metadata,
        where=where,
        folder=file.folder,
        blocks=found.blocks,
    )
    for part, reason in found.notes:
        yield Reject(f"{where} {part}", "partly read", reason, partial=True)


def read_rows_of(
    file: SourceFile, rows: Iterable[tuple[int, bytes | None]]
) -> Iterator[RawDocument | Reject]:
    """Yields the documents of lines of a JSONL file, given as (number, line); see `jsonl_lines`."""
    for number, line in rows:
        where = f"{encodable(str(file.path))} line {number}"
        try:
            yield raw_document(parse_row(line), file, where)
        except UnreadableError as error:
            yield Reject(where, error.reason, error.detail)


def jsonl_lines(file: SourceFile, max_bytes: float) -> Iterator[tuple[int, bytes | None]]:
    """Yields (number from 1, line) of a JSONL file of documents; nothing for one of questions.

    Raises:
        UnreadableError: the file cannot be read, has no lines, or holds questions although it is a
            source of its own.
    """
    check_file(file.path)
    empty = True
    try:
        for number, line in lines_within(file.path, max_bytes):
            if empty and _is_question(line):
                if file.alone:
                    raise UnreadableError(
                        "not documents",
                        "the lines are questions: list the file in generate.questions",
                    )
                # A file of questions may lie among the documents: that is no error.
                logger.info("%s skipped: it has questions, not documents", file.path)
                return
            empty = False
            yield number, line
    except OSError as error:
        raise UnreadableError("unreadable", error.strerror or str(error)) from error
    if empty:
        raise UnreadableError("empty", "the file has no lines")


def _is_question(line: bytes | None) -> bool:
    try:
        row = parse_row(line)
    except UnreadableError:
        return False
    return "question" in row and "text" not in row


def lines_within(path: Path, max_bytes: float) -> Iterator[tuple[int, bytes | None]]:
    """Yields (number from 1, line) of the lines that are not blank; None for a line over the limit.

    At most `max_bytes` of a line are held in memory.
    """
    limit = int(max_bytes) + 1
    with path.open("rb") as raw:
        number = 0
        while line := raw.readline(limit):
            number += 1
            too_long = len(line) >= limit and not line.endswith(b"\n")
            # Read to the end of the long line, without keeping it.
            rest = line
            while too_long and not rest.endswith(b"\n") and (rest := raw.readline(1 << 20)):
                pass
            if too_long:
                yield number, None
            elif line.strip():
                yield number, line


def parse_row(line: bytes | None) -> dict[str, Any]:
    """Returns the object of a JSONL line (see `lines_within`).

    Raises:
        UnreadableError: "too large", "not JSON", or "too deep".
    """
    if line is None:
        raise UnreadableError("too large", "line longer than ingest.advanced.max_document_mb")
    try:
        # NaN and Infinity are no JSON, and no reader of what is written here knows them.
        row = json.loads(line.decode("utf-8-sig"), parse_constant=lambda _: None)
        # An escape can write a lone surrogate, which no UTF-8 file can hold.
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


def raw_document(row: dict[str, Any], file: SourceFile, where: str) -> RawDocument:
    """Returns the document of a JSONL row {text, id?, title?, split?, metadata?}.

    Raises:
        UnreadableError: a field has a value that is not allowed.
    """
    own, text, split = row.get("id"), row.get("text"), row.get("split")
    metadata = row.get("metadata") or {}
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
    own_id = one_line("" if own is None else str(own))
    title = one_line(str(row.get("title") or ""))[:MAX_TITLE_CHARS]
    kept = tidy_in_place(text)
    return RawDocument(
        # Without an id the hash of the text: a line number changes when lines are added.
        id=own_id or content_hash(text),
        title=title or readable(own_id or encodable(file.path.stem)),
        text=kept,
        source=encodable(str(file.path)),
        split=split or file.split,
        metadata=metadata,
        where=where,
        blocks=blocks_of_text(kept),
    )
