"""Random access to the chunks of a run, which are read once and parsed when they are asked for."""

from __future__ import annotations

import bisect
import functools
import itertools
import json
import os
import re
from array import array
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from rag_ft.errors import DataError
from rag_ft.schema import SPLITS, Chunk, Split
from rag_ft.storage import from_json, read_jsonl

# The ids at the head of a chunk's line, and its split further on.
_CHUNK_HEAD = re.compile(
    rb'\{"id": ("(?:[^"\\]|\\.)*"), "document_id": ("(?:[^"\\]|\\.)*"), '
    rb'.*, "split": "(train|dev|test)"[,}]',
    re.DOTALL,
)


class ChunkStore:
    """The chunks of a run: by id, by document, by split, and in file order.

    Opening reads nothing. The first access by id, document or split scans the file once for ids and
    splits, and keeps about 30 bytes a chunk. Only chunks that are asked for are parsed. Threads may
    share a store.

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
        return len(self._lines.splits)

    def __contains__(self, chunk_id: str) -> bool:
        """Whether the run has a chunk of this id."""
        return self._find(chunk_id) is not None

    def __getitem__(self, chunk_id: str) -> Chunk:
        """Raises KeyError where the run has no such chunk."""
        found = self._find(chunk_id)
        if found is None:
            raise KeyError(chunk_id)
        return found[1]

    def select(self, chunk_ids: Iterable[str]) -> dict[str, Chunk]:
        """{id: chunk} in file order; ids that the run does not have are left out."""
        found = [row for chunk_id in set(chunk_ids) if (row := self._find(chunk_id)) is not None]
        return {chunk.id: chunk for _, chunk in sorted(found, key=lambda item: item[0])}

    def of_documents(self, document_ids: Iterable[str | None]) -> list[Chunk]:
        """All chunks of these documents, in file order."""
        rows = [self._lines.documents[i] for i in {*document_ids} if i in self._lines.documents]
        return [self._read(row) for row in sorted(itertools.chain.from_iterable(rows))]

    def of_splits(self, splits: Container[Split]) -> Iterator[Chunk]:
        """The chunks of these splits, in file order; the others are not parsed."""
        wanted = {number for number, split in enumerate(SPLITS) if split in splits}
        return (self._read(row) for row, split in enumerate(self._lines.splits) if split in wanted)

    def count_by_document(self, splits: Container[Split]) -> dict[str, int]:
        """{document id: number of its chunks} of the documents of these splits, in file order."""
        of_row, documents = self._lines.splits, self._lines.documents.items()
        return {name: len(rows) for name, rows in documents if SPLITS[of_row[rows[0]]] in splits}

    @property
    def rows_by_document(self) -> Mapping[str, Sequence[int]]:
        """{document id: the lines of its chunks, from 0}, both in file order."""
        return self._lines.documents

    def close(self) -> None:
        """Closes the file; the next access opens it again."""
        if "_lines" in self.__dict__:
            self._lines.file.close()
            del self._lines

    @functools.cached_property
    def _lines(self) -> _ChunkLines:
        return _ChunkLines.scan(self.path)

    def _find(self, chunk_id: str) -> tuple[int, Chunk] | None:
        """(row, chunk). Several ids may share a hash, so the id in the line decides."""
        hashes, wanted = self._lines.hashes, hash(chunk_id)
        place = bisect.bisect_left(hashes, wanted)
        while place < len(hashes) and hashes[place] == wanted:
            row = int(self._lines.rows[place])
            if (chunk := self._read(row)).id == chunk_id:
                return row, chunk
            place += 1
        return None

    def _read(self, row: int) -> Chunk:
        start, end = self._lines.starts[row], self._lines.starts[row + 1]
        line = os.pread(self._lines.file.fileno(), end - start, start)
        try:
            return from_json(line.decode("utf-8"), Chunk)
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"{self.path} line {row + 1} is not a Chunk: {error}") from error


@dataclass(frozen=True)
class _ChunkLines:
    """`starts`: where each line begins, and the end of the file. `splits`: an index into SPLITS for
    each line. `hashes` of the ids in ascending order, and the `rows` they belong to."""

    file: BinaryIO
    starts: array[int]
    splits: bytearray
    documents: dict[str, Sequence[int]]
    hashes: Any
    rows: Any

    @classmethod
    def scan(cls, path: Path) -> _ChunkLines:
        """Reads ids and splits from the head and the tail of each line, without parsing its
        text."""
        import numpy as np  # not above: most commands read records without it

        try:
            file = path.open("rb")
        except FileNotFoundError as error:
            raise DataError(f"{path} does not exist: run the stage that writes it first") from error
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror or error}") from error
        starts, splits, hashes = array("Q", [0]), bytearray(), array("q")
        documents: dict[str, Any] = {}
        for row, line in enumerate(file):
            # Our own writer puts the ids first. Quotes inside a text are escaped, so that no text
            # can look like a split.
            head = _CHUNK_HEAD.match(line)
            if head is None:
                raise DataError(
                    f"{path} line {row + 1} is not a Chunk: run `rag-ft ingest CONFIG --force`"
                )
            document_id = json.loads(head[2])
            rows = documents.get(document_id, range(row, row))
            if isinstance(rows, list):
                rows.append(row)
            else:
                # Nearly always the chunks of a document follow each other: a range is enough.
                follows = rows.stop == row
                documents[document_id] = range(rows.start, row + 1) if follows else [*rows, row]
            starts.append(starts[-1] + len(line))
            splits.append(SPLITS.index(head[3].decode()))
            hashes.append(hash(json.loads(head[1])))
        found = np.frombuffer(hashes, dtype=np.int64) if hashes else np.empty(0, dtype=np.int64)
        order = np.argsort(found, kind="stable")
        return cls(file, starts, splits, documents, found[order], order.astype(np.uint32))
