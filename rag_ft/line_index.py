"""Where each line of a file of records begins, and which line has an id. It is made once and kept
beside the file, memory-mapped: opening reads nothing, whatever the size of the file."""

from __future__ import annotations

import bisect
import contextlib
import hashlib
import os
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rag_ft.errors import DataError
from rag_ft.storage import temporary_beside

# A line's beginning and mark; and, in ascending order, the hashes of ids with their lines. The last
# row holds the end of the file.
_ROW = [("start", "<u8"), ("mark", "u1"), ("hash", "<u8"), ("line", "<u4")]


class LineIndex:
    """The lines of a file, by number and by id. Threads may share it."""

    def __init__(
        self, path: Path, kind: str, head_of: Callable[[bytes], tuple[str, int] | None]
    ) -> None:
        """`head_of` gives the id in a line and a mark (0-255) to keep; None where it is no record.
        `kind` is what errors call a record.

        Raises:
            DataError: the file cannot be read, or a line is no record.
        """
        self._path = path
        try:
            self._file = path.open("rb")
        except FileNotFoundError as error:
            raise DataError(f"{path} does not exist: run the stage that writes it first") from error
        except OSError as error:
            raise DataError(f"cannot read {path}: {error.strerror or error}") from error
        table = self._kept()
        if table is None:
            table = self._scanned(kind, head_of)
        self._starts, self.marks = table["start"], table["mark"][:-1]
        self._hashes, self._lines = table["hash"][:-1], table["line"][:-1]

    def __len__(self) -> int:
        """The number of lines."""
        return len(self.marks)

    def find(self, wanted: str) -> Iterator[int]:
        """The lines that may have this id: several ids may share a hash."""
        key = _hash(wanted)
        place = bisect.bisect_left(self._hashes, key)
        while place < len(self._hashes) and self._hashes[place] == key:
            yield int(self._lines[place])
            place += 1

    def read(self, line: int, limit: int | None = None) -> bytes:
        """The bytes of a line, or its first `limit`."""
        start, end = int(self._starts[line]), int(self._starts[line + 1])
        return os.pread(self._file.fileno(), min(end - start, limit or end - start), start)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()

    @property
    def _table_path(self) -> Path:
        return offsets_of(self._path)

    def _kept(self) -> Any:
        """The table of an earlier time, if it belongs to the file as it is; else None."""
        import numpy as np  # not above: most commands read records without it

        with contextlib.suppress(OSError, ValueError, EOFError):
            now = os.fstat(self._file.fileno())
            table = np.load(self._table_path, mmap_mode="r", allow_pickle=False)
            newer = self._table_path.stat().st_mtime_ns >= now.st_mtime_ns
            if newer and table.dtype == np.dtype(_ROW) and table["start"][-1] == now.st_size:
                return table
        return None

    def _scanned(self, kind: str, head_of: Callable[[bytes], tuple[str, int] | None]) -> Any:
        """Reads the whole file once. Keeps the table where the folder can be written to."""
        import numpy as np

        starts, marks, hashes = array("Q", [0]), bytearray(), array("Q")
        for number, line in enumerate(self._file):
            head = head_of(line)
            if head is None:
                raise DataError(
                    f"{self._path} line {number + 1} is not a {kind}: run `rag-ft ingest CONFIG "
                    "--force`"
                )
            hashes.append(_hash(head[0]))
            marks.append(head[1])
            starts.append(starts[-1] + len(line))
        table = np.zeros(len(starts), dtype=_ROW)
        table["start"], table["mark"][:-1] = starts, np.frombuffer(marks, dtype=np.uint8)
        found = np.array(hashes, dtype=np.uint64)
        order = np.argsort(found, kind="stable")
        table["hash"][:-1], table["line"][:-1] = found[order], order
        with contextlib.suppress(OSError):
            temporary = temporary_beside(self._table_path)
            with temporary.open("xb") as out:
                np.save(out, table)
            os.replace(temporary, self._table_path)
        return table


def offsets_of(path: Path) -> Path:
    """Where the table of a file is kept."""
    return path.with_name(f"{path.stem}.offsets.npy")


def _hash(text: str) -> int:
    """Of an id: the same in every process."""
    digest = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest()
    return int.from_bytes(digest, "little")
