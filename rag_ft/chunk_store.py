"""Random access to the chunks of a run, which are parsed when they are asked for."""

from __future__ import annotations

import functools
import itertools
import json
import re
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rag_ft.errors import DataError
from rag_ft.line_index import LineIndex
from rag_ft.schema import SPLITS, Chunk, Split
from rag_ft.storage import from_json, read_jsonl

# The ids at the head of a chunk's line, and its split further on. Quotes inside a text are escaped,
# so that no text can look like a split.
_IDS = rb'\{"id": ("(?:[^"\\]|\\.)*"), "document_id": ("(?:[^"\\]|\\.)*"), '
_CHUNK_IDS = re.compile(_IDS)
_CHUNK_HEAD = re.compile(_IDS + rb'.*, "split": "(train|dev|test)"[,}]', re.DOTALL)
# The mark of a line: an index into SPLITS, and this where a document begins.
_FIRST = 16
_HEAD_BYTES = 1024


class ChunkStore:
    """The chunks of a run: by id, by document, by split, and in file order.

    Opening reads nothing. The first access by id, document or split of a new file reads it once and
    keeps the places of its lines beside it (see LineIndex). Only chunks that are asked for are
    parsed. Threads may share a store.

    Raises:
        DataError: (on first access) the file is missing, or a line is not a chunk.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __iter__(self) -> Iterator[Chunk]:
        """Every chunk in file order, parsed one at a time."""
        return read_jsonl(self.path, Chunk)

    def __len__(self) -> int:
        """The number of chunks."""
        return len(self._lines)

    def __contains__(self, chunk_id: str) -> bool:
        """Whether the run has a chunk of this id."""
        return self._find(chunk_id) is not None

    def __getitem__(self, chunk_id: str) -> Chunk:
        """Raises KeyError where the run has no such chunk."""
        chunk = self.get(chunk_id)
        if chunk is None:
            raise KeyError(chunk_id)
        return chunk

    def get(self, chunk_id: str | None) -> Chunk | None:
        """The chunk of this id, or None where the run has none."""
        found = self._find(chunk_id) if chunk_id else None
        return found[1] if found else None

    def select(self, chunk_ids: Iterable[str]) -> dict[str, Chunk]:
        """{id: chunk} in file order; ids that the run does not have are left out."""
        found = [row for chunk_id in set(chunk_ids) if (row := self._find(chunk_id)) is not None]
        return {chunk.id: chunk for _, chunk in sorted(found, key=lambda item: item[0])}

    def at(self, rows: Iterable[int]) -> Iterator[Chunk]:
        """The chunks on these lines, counted from 0."""
        return map(self._read, rows)

    def of_documents(self, document_ids: Iterable[str | None]) -> list[Chunk]:
        """All chunks of these documents, in file order."""
        wanted, of = {*document_ids}, self.rows_by_document
        rows = [of[name] for name in wanted if name is not None and name in of]
        return [self._read(row) for row in sorted(itertools.chain.from_iterable(rows))]

    def of_splits(self, splits: Container[Split]) -> Iterator[Chunk]:
        """The chunks of these splits, in file order; the others are not parsed."""
        wanted = {number for number, split in enumerate(SPLITS) if split in splits}
        marks = self._lines.marks.tobytes()
        return (self._read(row) for row, mark in enumerate(marks) if mark % _FIRST in wanted)

    def split_by_document(self) -> dict[str, Split]:
        """{document id: its split}, in file order. Parses no chunk."""
        marks, documents = self._lines.marks, self.rows_by_document.items()
        return {name: SPLITS[marks[rows[0]] % _FIRST] for name, rows in documents}

    def count_by_document(self, splits: Container[Split]) -> dict[str, int]:
        """{document id: number of its chunks} of the documents of these splits, in file order."""
        found = self.split_by_document().items()
        return {n: len(self.rows_by_document[n]) for n, split in found if split in splits}

    @functools.cached_property
    def rows_by_document(self) -> Mapping[str, Sequence[int]]:
        """{document id: the lines of its chunks, from 0}, both in file order."""
        documents: dict[str, Any] = {}
        marks = self._lines.marks.tobytes()
        firsts = [row for row, mark in enumerate(marks) if mark >= _FIRST]
        for start, end in itertools.pairwise([*firsts, len(marks)]):
            head = _CHUNK_IDS.match(self._lines.read(start, _HEAD_BYTES))
            head = head or _CHUNK_IDS.match(self._lines.read(start))
            if head is None:
                raise DataError(
                    f"{self.path} line {start + 1} is not a Chunk: run `rag-ft ingest CONFIG "
                    "--force`"
                )
            name, rows = json.loads(head[2]), range(start, end)
            # Nearly always the chunks of a document follow each other: a range is enough.
            documents[name] = [*documents[name], *rows] if name in documents else rows
        return documents

    def close(self) -> None:
        """Closes the file; the next access opens it again."""
        if "_lines" in self.__dict__:
            self._lines.close()
            del self._lines
        self.__dict__.pop("rows_by_document", None)

    @functools.cached_property
    def _lines(self) -> LineIndex:
        before = b""

        def head_of(line: bytes) -> tuple[str, int] | None:
            nonlocal before
            head = _CHUNK_HEAD.match(line)
            if head is None:
                return None
            mark = SPLITS.index(head[3].decode()) + _FIRST * (head[2] != before)
            before = head[2]
            return json.loads(head[1]), mark

        return LineIndex(self.path, "Chunk", head_of)

    def _find(self, chunk_id: str) -> tuple[int, Chunk] | None:
        """(row, chunk); the id in the line decides."""
        for row in self._lines.find(chunk_id):
            if (chunk := self._read(row)).id == chunk_id:
                return row, chunk
        return None

    def _read(self, row: int) -> Chunk:
        try:
            return from_json(self._lines.read(row).decode("utf-8"), Chunk)
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"{self.path} line {row + 1} is not a Chunk: {error}") from error
