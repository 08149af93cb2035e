"""From a file or lines of a file to documents with their chunks: the work of one worker."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from rag_ft.config import IngestConfig
from rag_ft.documents.chunking import ChunkPlace, chunk_blocks
from rag_ft.documents.discovery import (
    RawDocument,
    SourceFile,
    check_link,
    jsonl_lines,
    read_documents,
    read_rows_of,
)
from rag_ft.documents.formats.content import UnreadableError
from rag_ft.documents.formats.ocr import can_recognise
from rag_ft.documents.near_duplicates import signature
from rag_ft.documents.reading import ReadSettings
from rag_ft.documents.workers import Limits, in_workers
from rag_ft.model_hub import TokenCounter, load_token_counter
from rag_ft.schema import Reject
from rag_ft.storage import encodable

# Lines of a JSONL file that a worker reads at once.
MAX_BATCH_ROWS, MAX_BATCH_BYTES = 64, 2**18


@dataclass(frozen=True)
class PrepareSettings:
    """How documents are read and cut: see `ReadSettings` and `chunk_blocks`. `encoder` is the
    folder of the encoder whose tokens are counted."""

    read: ReadSettings
    encoder: Path
    chunk_tokens: int
    overlap_tokens: int


@dataclass(frozen=True)
class Prepared:
    """A document, its chunks in order, and its signature; see `near_duplicates.signature`."""

    document: RawDocument
    chunks: list[ChunkPlace]
    signature: np.ndarray


@dataclass(frozen=True)
class ReadTask:
    """A file to read, or lines of it as (number, line). `failure` is why there is nothing to
    read."""

    file: SourceFile
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
    return PrepareSettings(read, encoder, config.chunk_tokens, advanced.chunk_overlap_tokens)


def limits_of(config: IngestConfig) -> Limits:
    """Returns what the section `ingest` allows a file to take."""
    advanced = config.advanced
    return Limits(advanced.max_file_seconds, advanced.max_file_memory_mb, advanced.workers)


def prepare_all(
    files: Iterable[SourceFile], settings: PrepareSettings, limits: Limits
) -> Iterator[Prepared | Reject]:
    """Yields the documents of the files, in their order, and a Reject for what cannot be read.

    Files are read in worker processes; a file that breaks a limit gives a Reject. Lines of a JSONL
    file are read many at once, and one by one where that breaks a limit.

    Raises:
        ConfigError: the encoder's tokenizer cannot be read.
    """
    _counter(settings.encoder)  # says at once what is missing

    def work(task: ReadTask) -> list[Prepared | Reject]:
        return prepare(task, settings)

    def results(tasks: Iterable[ReadTask]) -> Iterator[Prepared | Reject]:
        for task, found in in_workers(tasks, work, limits):
            if not isinstance(found, UnreadableError):
                yield from found
            elif len(task.rows) > 1:
                yield from results([ReadTask(task.file, (row,)) for row in task.rows])
            else:
                line = f" line {task.rows[0][0]}" if task.rows else ""
                where = encodable(str(task.file.path)) + line
                yield Reject(where, found.reason, found.detail)

    yield from results(_tasks(files, settings.read))


def prepare(task: ReadTask, settings: PrepareSettings) -> list[Prepared | Reject]:
    """Returns what a task gives: documents with their chunks, and rejects."""
    if task.failure is not None:
        raise task.failure
    found: Iterator[RawDocument | Reject]
    if task.rows:
        found = read_rows_of(task.file, task.rows)
    else:
        found = read_documents(task.file, settings.read)
    count_tokens = _counter(settings.encoder)
    done: list[Prepared | Reject] = []
    for document in found:
        if isinstance(document, Reject):
            done.append(document)
            continue
        chunks = chunk_blocks(
            document.text,
            document.blocks,
            count_tokens.numbers,
            settings.chunk_tokens,
            settings.overlap_tokens,
            adds_up=count_tokens.adds_up,
        )
        done.append(Prepared(document, list(chunks), signature(document.text)))
    return done


def _tasks(files: Iterable[SourceFile], read: ReadSettings) -> Iterator[ReadTask]:
    for file in files:
        if file.path.suffix.lower() != ".jsonl":
            yield ReadTask(file)
            continue
        rows: list[tuple[int, bytes | None]] = []
        size = 0
        try:
            check_link(file, read.follow_links)
            for number, line in jsonl_lines(file, read.max_bytes):
                rows.append((number, line))
                size += len(line or b"")
                if len(rows) >= MAX_BATCH_ROWS or size >= MAX_BATCH_BYTES:
                    yield ReadTask(file, tuple(rows))
                    rows, size = [], 0
        except UnreadableError as error:
            yield ReadTask(file, failure=error)
        if rows:
            yield ReadTask(file, tuple(rows))


@lru_cache(maxsize=1)
def _counter(encoder: Path) -> TokenCounter:
    return load_token_counter(encoder)
