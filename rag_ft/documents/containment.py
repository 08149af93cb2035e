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

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

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
REASON = "part of a test document"


class TestParts:
    """The kept letter sequences of the test documents, 12 bytes each."""

    __test__ = False  # no test of pytest's

    def __init__(self, documents: Callable[[], Iterable[tuple[str, Split, np.ndarray]]]) -> None:
        """`documents` gives (id, split, `grams` of the text) of all documents, each time from the
        first one on."""
        self._names: list[str] = []
        found, owners = [np.zeros(0, np.uint64)], [np.zeros(0, np.int32)]
        for name, split, own in documents():
            if split == "test":
                found.append(own)
                owners.append(np.full(len(own), len(self._names), np.int32))
                self._names.append(name)
        self._known, first = np.unique(np.concatenate(found), return_index=True)
        # In how many documents each one stands.
        counts = np.zeros(len(self._known), np.int32)
        for _, _, own in documents():
            counts[self._places(own)] += 1
        rare = counts <= MANY_DOCUMENTS
        self._known, self._owners = self._known[rare], np.concatenate(owners)[first][rare]
        self._long = (self._known & np.uint64(1)).astype(bool)
        shorts = np.bincount(self._owners[~self._long], minlength=len(self._names))
        self._hidden = np.maximum(HIDDEN_SHARE * shorts, LEAST_HIDDEN)

    def _places(self, own: np.ndarray) -> np.ndarray:
        """Where those of `own` that are known stand among the known ones."""
        if not len(self._known):
            return np.zeros(0, np.intp)
        places = np.minimum(np.searchsorted(self._known, own), len(self._known) - 1)
        return places[self._known[places] == own]

    def _hidden_in(self, places: np.ndarray) -> np.ndarray:
        """Whether each test document is hidden in a text that has the sequences at these places."""
        short = places[~self._long[places]]
        return np.bincount(self._owners[short], minlength=len(self._names)) >= self._hidden

    def touch(self, own: np.ndarray) -> bool:
        """Whether a document with these sequences holds a part of a test document."""
        places = self._places(own)
        return bool(self._long[places].any() or self._hidden_in(places).any())

    def without(
        self, chunks: Iterable[dict[str, Any]], own: np.ndarray, rejects: list[Reject]
    ) -> Iterator[dict[str, Any]]:
        """The chunks (lines of chunks.jsonl) of a train or dev document with these sequences, but
        those that hold a part of a test document; these become rejects, which name it. So do those
        between two parts of a hidden document."""
        hidden = self._hidden_in(self._places(own))
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
            between, last = [], owner if hidden.any() else ""
        yield from between

    def _part(self, text: str, hidden: np.ndarray) -> str | None:
        """The test document that a chunk holds a part of. Of those that are hidden in its document
        it may be any part."""
        places = self._places(grams(text))
        owners = self._owners[places]
        shared = owners[self._long[places] | hidden[owners]]
        return self._names[np.bincount(shared).argmax()] if len(shared) else None


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
    return np.unique(np.concatenate(kept))


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
            yield sliding_window_view(hashes, min(window, number)).min(axis=1)
