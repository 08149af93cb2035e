"""From a file or lines of a file to documents with their chunks: the work of one worker."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rag_ft.config import IngestConfig
from rag_ft.documents.chunking import ChunkPlace, chunk_blocks
from rag_ft.documents.containment import grams
from rag_ft.documents.discovery import (
    RawDocument,
    check_link,
    jsonl_lines,
    read_documents,
    read_rows_of,
)
from rag_ft.documents.formats.content import UnreadableError
from rag_ft.documents.formats.ocr import can_recognise
from rag_ft.documents.languages import language_of
from rag_ft.documents.near_duplicates import signature
from rag_ft.documents.reading import ReadSettings
from rag_ft.documents.sensitive import count_kinds, find_sensitive, masked_values
from rag_ft.documents.source_files import SourceFile
from rag_ft.documents.workers import Limits, in_workers
from rag_ft.model_hub import TokenCounter, load_token_counter
from rag_ft.schema import Reject, Split
from rag_ft.storage import batched, encodable

# Lines of a JSONL file, or small files, that a worker reads at once.
MAX_BATCH_ROWS, MAX_BATCH_BYTES = 64, 2**18
MAX_BATCH_FILES = 16
# Only files that are read within milliseconds: the limits of a file are those of a whole batch.
SMALL_BYTES = 2**16
QUICK = frozenset({".txt", ".md", ".html", ".htm", ".rst", ".csv", ".tsv", ".xml", ".json"})


@dataclass(frozen=True)
class PrepareSettings:
    """How documents are read and cut: see `ReadSettings` and `chunk_blocks`. `encoder` is the
    folder of the encoder whose tokens are counted. `sensitive` and `phone_regions` are settings of
    the section `ingest`."""

    read: ReadSettings
    encoder: Path
    chunk_tokens: int
    overlap_tokens: int
    sensitive: Literal["report", "mask", "off"] = "off"
    phone_regions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Prepared:
    """A document and its chunks in order; `near_duplicates.signature` and `containment.grams` of
    its text; how much of each kind is sensitive in it; and its language."""

    document: RawDocument
    chunks: list[ChunkPlace]
    signature: np.ndarray
    grams: np.ndarray
    sensitive: dict[str, int]
    language: str


@dataclass(frozen=True)
class ReadTask:
    """Files to read, or lines of one file as (number, line). `failure` is why there is nothing to
    read."""

    files: tuple[SourceFile, ...]
    rows: tuple[tuple[int, bytes | None], ...] = ()
    failure: UnreadableError | None = None


def prepare_settings(config: IngestConfig, encoder: Path) -> PrepareSettings:
    """Returns how the section `ingest` says that documents are read; `encoder` is a folder."""
    advanced = config.advanced
    read = ReadSettings(
        advanced.max_document_mb * 2**20,
        tuple(advanced.parser_command),
        tuple(f".{suffix.lstrip('.').lower()}" for suffix in advanced.parser_suffixes),
        advanced.ocr == "auto" and can_recognise(),
        advanced.follow_links,
    )
    return PrepareSettings(
        read,
        encoder,
        config.chunk_tokens,
        advanced.chunk_overlap_tokens,
        config.sensitive,
        tuple(advanced.phone_regions),
    )


def limits_of(config: IngestConfig) -> Limits:
    """Returns what the section `ingest` allows a file to take."""
    advanced = config.advanced
    return Limits(advanced.max_file_seconds, advanced.max_file_memory_mb, advanced.workers)


def prepare_all(
    files: Iterable[SourceFile], settings: PrepareSettings, limits: Limits
) -> Iterator[Prepared | Reject]:
    """Yields the documents of the files, in their order, and a Reject for what cannot be read.

    Files are read in worker processes; a file that breaks a limit gives a Reject. Small files and
    lines of a JSONL file are read many at once, and one by one where that breaks a limit.

    Raises:
        ConfigError: the encoder's tokenizer cannot be read.
    """
    tasks = read_tasks(files, settings.read)
    return (item for _, item in prepare_tasks(tasks, settings, limits))


def prepare_tasks(
    tasks: Iterable[ReadTask], settings: PrepareSettings, limits: Limits
) -> Iterator[tuple[int, Prepared | Reject]]:
    """As prepare_all, of tasks; each result comes with the number of its task, from 0."""
    _counter(settings.encoder)  # says at once what is missing
    work = functools.partial(prepare, settings=settings)

    def results(tasks: Iterable[ReadTask]) -> Iterator[tuple[int, Prepared | Reject]]:
        for number, (task, found) in enumerate(in_workers(tasks, work, limits)):
            # A task that broke a limit is divided.
            parts: list[ReadTask] = []
            if not isinstance(found, UnreadableError):
                yield from ((number, item) for item in found)
            elif len(task.files) > 1:
                parts = [ReadTask((file,)) for file in task.files]
            elif len(task.rows) > 1:
                parts = [ReadTask(task.files, (row,)) for row in task.rows]
            else:
                line = f" line {task.rows[0][0]}" if task.rows else ""
                where = encodable(str(task.files[0].path)) + line
                yield number, Reject(where, found.reason, found.detail)
            if parts:
                yield from ((number, item) for _, item in results(parts))

    return results(tasks)


def prepare(task: ReadTask, settings: PrepareSettings) -> list[Prepared | Reject]:
    """Returns what a task gives: documents with their chunks, and rejects."""
    if task.failure is not None:
        raise task.failure
    found: Iterable[RawDocument | Reject]
    if task.rows:
        found = read_rows_of(task.files[0], task.rows)
    else:
        found = itertools.chain.from_iterable(
            read_documents(file, settings.read) for file in task.files
        )
    return [
        document if isinstance(document, Reject) else _prepared(document, settings)
        for document in found
    ]


def _prepared(document: RawDocument, settings: PrepareSettings) -> Prepared:
    sensitive: dict[str, int] = {}
    if settings.sensitive != "off":
        sensitive = count_kinds(find_sensitive(document.text, settings.phone_regions))
    if settings.sensitive == "mask":
        # Before all else, so that neither a chunk nor a heading nor a title holds any of it.
        hidden = {
            name: masked_values(getattr(document, name), settings.phone_regions)
            for name in ("text", "title", "metadata")
        }
        document = replace(document, **hidden)
    count_tokens = _counter(settings.encoder)
    chunks = chunk_blocks(
        document.text,
        document.blocks,
        count_tokens.numbers,
        settings.chunk_tokens,
        settings.overlap_tokens,
        adds_up=count_tokens.adds_up,
    )
    text = document.text
    return Prepared(
        document, list(chunks), signature(text), grams(text), sensitive, language_of(text)
    )


def read_tasks(files: Iterable[SourceFile], read: ReadSettings) -> Iterator[ReadTask]:
    """Yields the files as tasks: small ones together, a JSONL file by lines."""
    for is_quick, group in itertools.groupby(files, lambda file: _is_quick(file, read)):
        if is_quick:
            yield from (ReadTask(tuple(batch)) for batch in batched(group, MAX_BATCH_FILES))
            continue
        for file in group:
            if file.path.suffix.lower() == ".jsonl":
                yield from _row_tasks(file, read)
            else:
                yield ReadTask((file,))


def _is_quick(file: SourceFile, read: ReadSettings) -> bool:
    suffix = file.path.suffix.lower()
    if suffix not in QUICK or (read.parser_command and suffix in read.parser_suffixes):
        return False
    try:
        return file.path.stat().st_size <= SMALL_BYTES
    except OSError:  # the reader says what is wrong with it
        return False


def _row_tasks(file: SourceFile, read: ReadSettings) -> Iterator[ReadTask]:
    rows: list[tuple[int, bytes | None]] = []
    size = 0
    try:
        check_link(file, read.follow_links)
        for number, line in jsonl_lines(file, read.max_bytes):
            rows.append((number, line))
            size += len(line or b"")
            if len(rows) >= MAX_BATCH_ROWS or size >= MAX_BATCH_BYTES:
                yield ReadTask((file,), tuple(rows))
                rows, size = [], 0
    except UnreadableError as error:
        yield ReadTask((file,), failure=error)
    if rows:
        yield ReadTask((file,), tuple(rows))


@lru_cache(maxsize=1)
def _counter(encoder: Path) -> TokenCounter:
    return load_token_counter(encoder)


def document_row(row: dict[str, Any], split: Split) -> dict[str, Any]:
    """Returns the line of documents.jsonl for a row of the temporary file."""
    kept = {name: value for name, value in row.items() if name not in ("chunks", "metadata")}
    return {**kept, "split": split, "metadata": row["metadata"]}


def chunk_rows(row: dict[str, Any], split: Split) -> Iterator[dict[str, Any]]:
    """Yields the lines of chunks.jsonl for a row of the temporary file, with ids
    `<document id>#<number from 0>`."""
    for number, chunk in enumerate(row["chunks"]):
        place = ChunkPlace(*chunk)
        yield {
            "id": f"{row['id']}#{number}",
            "document_id": row["id"],
            "title": row["title"],
            "text": row["text"][place.start : place.end],
            "start": place.start,
            "end": place.end,
            "num_tokens": place.num_tokens,
            "split": split,
            "page": place.page,
            "page_end": place.page_end,
            "headings": place.headings,
            **({"inner_headings": place.inner_headings} if place.inner_headings else {}),
        }
