"""Which chunks of train documents hold a part of a test document: they are not trained on.

Texts are compared as a reader sees them, letter by letter: no accents, blanks, case, punctuation
and hyphens, and look-alikes are one letter. Of all sequences of letters some are kept, the same
ones in both texts (winnowing, Schleimer et al. 2003). A chunk holds a part of a test document
where 60 letters in a row are equal, about the 13 words by which language models' training data is
cleaned of test sets (Brown et al. 2020). A document that holds a fifth of the short sequences of a
test document hides it: in other words here and there, or in another order. Then every chunk with
one of them is left out. What stands in many documents, such as a licence or a template, is no part
of any.
"""

from __future__ import annotations

import tempfile
from array import array
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from rag_ft.documents.near_duplicates import splitmix64
from rag_ft.schema import Reject, Split
from rag_ft.text import all_letters

# The letters of a sequence, and of how many neighbours the one of the least hash is kept: of 60
# letters in a row at least one long sequence.
SHORT, SHORT_WINDOW = 20, 16
LONG, LONG_WINDOW = 55, 6
# The share of a test document's short sequences, and their number, that are a hidden document.
# Articles about one subject share less than 0.01, the demo's letters, made from templates, 0.18.
HIDDEN_SHARE, LEAST_HIDDEN = 0.2, 8
# So many chunks between two parts of a hidden document are parts too, with more words changed.
MOST_BETWEEN = 3
# Sequences that stand in more documents than this are a template's.
MANY_DOCUMENTS = 5
# The letters hashed at once: 20 MB.
BLOCK_LETTERS = 1 << 18
# The sequences that are sorted at once, or those of so many documents; and the parts of all hashes
# that are looked at one after the other.
BLOCK_SEQUENCES, MANY_WAITING = 1 << 18, 4096
PART_BITS = 8
NUM_PARTS = 1 << PART_BITS
_SEQUENCE = np.dtype([("hash", "<u8"), ("document", "<i4")])
REASON = "part of a test document"


class TestParts:
    """The kept letter sequences of the test documents, in a file, and which of them other documents
    have.

    The sequences of all documents are sorted in a file, a part at a time, so that memory does not
    grow with them: it holds 4 bytes a document, and what documents share with test documents.
    """

    __test__ = False  # no test of pytest's

    def __init__(
        self, documents: Iterable[tuple[str, Split, np.ndarray]], scratch: Path | None = None
    ) -> None:
        """`documents` gives (id, split, `grams` of the text) of each one; they are numbered from 0.
        The files, which are gone at the end, stand in the folder `scratch` (None: the system's)."""
        self._names: list[str] = []
        test_numbers, sequences = array("i"), _Sequences(scratch)
        for name, split, own in documents:
            test_numbers.append(len(self._names) if split == "test" else -1)
            if split == "test":
                self._names.append(name)
            sequences.add(own)
        known, owners = _Column(np.uint64, scratch), _Column(np.int32, scratch)
        shorts, shares = np.zeros(len(self._names), np.int64), list[np.ndarray]()
        tests_of = np.array(test_numbers, np.int32)
        for rows in sequences.parts():
            hashes, own, shared = _of_tests(rows, tests_of)
            known.write(hashes)
            owners.write(own)
            shorts += np.bincount(own[hashes & np.uint64(1) == 0], minlength=len(shorts))
            shares.append(shared)
        self._known, self._owners = known.mapped(), owners.mapped()

        # What each document shares with each test document.
        pairs, counts = np.unique(np.concatenate(shares), return_counts=True)
        numbers, tests, long = pairs >> 32, pairs >> 1 & 0x7FFFFFFF, pairs & 1 == 1
        hides = ~long & (counts >= np.maximum(HIDDEN_SHARE * shorts, LEAST_HIDDEN)[tests])
        self._touched = set(numbers[long | hides].tolist())
        self._hidden: dict[int, list[int]] = defaultdict(list)
        for number, test in zip(numbers[hides].tolist(), tests[hides].tolist(), strict=True):
            self._hidden[number].append(test)

    def touches(self, number: int) -> bool:
        """Whether the document of this number, which is no test document, holds a part of one."""
        return number in self._touched

    def without(
        self, chunks: Iterable[dict[str, Any]], number: int, rejects: list[Reject]
    ) -> Iterator[dict[str, Any]]:
        """The chunks (lines of chunks.jsonl) of the train or dev document of this number, but those
        that hold a part of a test document; these become rejects, which name it. So do those
        between two parts of a hidden document."""
        hidden = self._hidden.get(number, [])
        between: list[dict[str, Any]] = []  # since the last part of a hidden document
        last = ""
        for chunk in chunks:
            owner = self._part(chunk["text"], hidden)
            if owner is None:
                between.append(chunk)
                continue
            if last != owner or len(between) > MOST_BETWEEN:
                yield from between
            else:
                rejects += (_reject(passed, owner) for passed in between)
            rejects.append(_reject(chunk, owner))
            between, last = [], owner if hidden else ""
        yield from between

    def _part(self, text: str, hidden: list[int]) -> str | None:
        """The test document that a chunk holds a part of. Of those that are hidden in its document
        it may be any part."""
        if not len(self._known):
            return None
        own = grams(text)
        places = np.minimum(np.searchsorted(self._known, own), len(self._known) - 1)
        places = places[self._known[places] == own]
        owners, long = self._owners[places], self._known[places] & np.uint64(1) == 1
        shared = owners[long | np.isin(owners, hidden)]
        return self._names[np.bincount(shared).argmax()] if len(shared) else None


class _Sequences:
    """The sequences of documents in a file, as (hash, number of the document): blocks of them, each
    sorted by hash."""

    def __init__(self, scratch: Path | None) -> None:
        self._file = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115 - `parts` closes it
        self._waiting: list[np.ndarray] = []
        self._num_waiting = 0  # sequences
        self._first = self._number = 0  # of the documents that wait
        self._blocks: list[np.ndarray] = []  # where each part begins in a block

    def add(self, own: np.ndarray) -> None:
        """Appends the sequences of the next document."""
        self._waiting.append(own)
        self._number += 1
        self._num_waiting += len(own)
        if self._num_waiting >= BLOCK_SEQUENCES or len(self._waiting) >= MANY_WAITING:
            self._write()

    def parts(self) -> Iterator[np.ndarray]:
        """Yields all rows by hash, and those of one hash by document; a part of the hashes at a
        time."""
        self._write()
        for part in range(NUM_PARTS):
            rows = [np.zeros(0, _SEQUENCE)]
            for starts in self._blocks:
                self._file.seek(int(starts[part]))
                size = int(starts[part + 1] - starts[part])
                rows.append(np.frombuffer(self._file.read(size), _SEQUENCE))
            found = np.concatenate(rows)
            yield found[np.argsort(found["hash"], kind="stable")]
        self._file.close()

    def _write(self) -> None:
        hashes = np.concatenate([np.zeros(0, np.uint64), *self._waiting])
        numbers = np.arange(self._first, self._number, dtype=np.int32)
        rows = np.empty(len(hashes), _SEQUENCE)
        order = np.argsort(hashes, kind="stable")
        rows["hash"] = hashes[order]
        rows["document"] = np.repeat(numbers, list(map(len, self._waiting)))[order]
        edges = np.arange(1, NUM_PARTS, dtype=np.uint64) << np.uint64(64 - PART_BITS)
        inner = np.searchsorted(hashes[order], edges)
        starts = np.concatenate([[0], inner, [len(rows)]]) * _SEQUENCE.itemsize
        self._blocks.append(self._file.tell() + starts)
        self._file.write(rows.tobytes())
        self._waiting, self._num_waiting, self._first = [], 0, self._number


class _Column:
    """Values of one type, written one after the other to a file, and mapped from there."""

    def __init__(self, dtype: Any, scratch: Path | None) -> None:
        self._dtype, self._file = dtype, tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115

    def write(self, values: np.ndarray) -> None:
        """Appends values."""
        self._file.write(values.astype(self._dtype).tobytes())

    def mapped(self) -> np.ndarray:
        """All values; an empty file cannot be mapped."""
        self._file.flush()
        if not self._file.tell():
            return np.zeros(0, self._dtype)
        return np.memmap(self._file, self._dtype, mode="r")


def _of_tests(
    rows: np.ndarray, test_numbers: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of sorted rows: the hashes that test documents have, but not those that stand in many
    documents; the first test document of each; and what other documents share with it, as numbers
    of 32 bits document, 31 bits test document and 1 bit long."""
    starts = np.flatnonzero(np.diff(rows["hash"], prepend=~rows["hash"][:1]))
    sizes = np.diff(starts, append=len(rows))
    group, tests = np.repeat(np.arange(len(starts)), sizes), test_numbers[rows["document"]]
    with_test, first = np.unique(group[tests >= 0], return_index=True)
    owner = np.full(len(starts), -1, np.int32)
    owner[with_test] = tests[tests >= 0][first]
    owner[sizes > MANY_DOCUMENTS] = -1
    others = (tests < 0) & (owner[group] >= 0)
    long = (rows["hash"][others] & np.uint64(1)).astype(np.int64)
    documents, owners = rows["document"][others].astype(np.int64), owner[group[others]]
    shared = documents << 32 | owners.astype(np.int64) << 1 | long
    return rows["hash"][starts[owner >= 0]], owner[owner >= 0], shared


def _reject(chunk: dict[str, Any], owner: str) -> Reject:
    return Reject(chunk["id"], REASON, f"holds a part of {owner}")


def grams(text: str) -> np.ndarray:
    """The hashes of the letter sequences of a text that are kept, uint64, ascending and unique; of
    long ones they are odd, of short ones even. A text of fewer letters has none."""
    letters = np.frombuffer(all_letters(text).encode("utf-32-le"), np.uint32)
    step = BLOCK_LETTERS - LONG - LONG_WINDOW + 2
    kept = [np.zeros(0, np.uint64)]
    for start in range(0, max(1, len(letters) - LONG + 1), step):
        kept += _kept_hashes(letters[start : start + BLOCK_LETTERS])
    found = np.sort(np.concatenate(kept))
    return found[_begins(found)]


def _powers(number: int) -> np.ndarray:
    return np.multiply.accumulate(np.array([1] + [number] * BLOCK_LETTERS, np.uint64))


# Powers of an odd number and of its inverse modulo 2^64: the hash of a sequence is the difference
# of two sums (Karp and Rabin 1987).
_BASE = 0x9E3779B97F4A7C15
_RISING, _FALLING = _powers(_BASE), _powers(pow(_BASE, -1, 2**64))


def _kept_hashes(letters: np.ndarray) -> Iterator[np.ndarray]:
    """The least of each window of neighbouring hashes, of short and of long sequences; of all where
    they are fewer."""
    sums = np.zeros(len(letters) + 1, np.uint64)
    np.cumsum(splitmix64(letters.astype(np.uint64)) * _RISING[: len(letters)], out=sums[1:])
    for size, window in ((SHORT, SHORT_WINDOW), (LONG, LONG_WINDOW)):
        number = len(letters) - size + 1
        if number > 0:
            hashes = splitmix64((sums[size:] - sums[:number]) * _FALLING[:number])
            hashes = hashes >> np.uint64(1) << np.uint64(1) | np.uint64(size == LONG)
            least = _least_of_windows(hashes, min(window, number))
            # Neighbouring windows mostly keep the same one.
            yield least[_begins(least)]


def _begins(values: np.ndarray) -> np.ndarray:
    """Which values differ from the one before. With a sort it does what np.unique does, in half of
    the time for the few values of a text."""
    found = np.ones(len(values), dtype=bool)
    np.not_equal(values[1:], values[:-1], out=found[1:])
    return found


def _least_of_windows(values: np.ndarray, window: int) -> np.ndarray:
    """The least value of each `window` neighbours, by windows of 2, 4, 8, ... of them, which takes
    less time than `sliding_window_view`."""
    size = 1
    least = values
    while 2 * size <= window:
        least = np.minimum(least[:-size], least[size:])
        size *= 2
    rest = window - size
    return np.minimum(least[:-rest], least[rest:]) if rest else least
