"""Chunks by id, read from chunks.jsonl when they are needed: only where each line begins is held."""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from pathlib import Path

from rag_ft.errors import DataError
from rag_ft.records import Chunk, from_json


class ChunkFile:
    """Used as a context manager. `row_of` (the retriever's) tells which line a chunk id is on."""

    def __init__(self, path: Path, row_of: Mapping[str, int]) -> None:
        self._row_of = row_of
        try:
            self._file = path.open("rb")
        except OSError as error:
            raise DataError(f"cannot read {path} ({error.strerror}): run ingest first") from error
        self._starts = array("Q", _line_starts(self._file))

    def __getitem__(self, chunk_id: str) -> Chunk:
        self._file.seek(self._starts[self._row_of[chunk_id]])
        return from_json(self._file.readline().decode("utf-8"), Chunk)

    def __enter__(self) -> ChunkFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


def _line_starts(lines: Iterator[bytes]) -> Iterator[int]:
    start = 0
    for line in lines:
        yield start
        start += len(line)
