"""Which chunks of train documents hold a part of a test document: they are not trained on.

Two texts share a part where 13 words in a row are equal, as a reader sees them (the length by
which language models' training data is cleaned of test sets, Brown et al. 2020). What stands in
many documents, such as a licence or a template, is no part of any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from rag_ft.documents.near_duplicates import hash_words, splitmix64
from rag_ft.schema import Reject, Split
from rag_ft.text import skeleton

GRAM_WORDS = 13
# Words in a row that stand in more documents than this are a template's.
MANY_DOCUMENTS = 5
_FACTORS = splitmix64(np.arange(GRAM_WORDS, dtype=np.uint64)) | np.uint64(1)
REASON = "part of a test document"


class TestParts:
    """The word 13-grams of the test documents, 16 bytes each."""

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
        self._known = self._known[counts <= MANY_DOCUMENTS]
        self._owners = np.concatenate(owners)[first][counts <= MANY_DOCUMENTS]

    def _places(self, own: np.ndarray) -> np.ndarray:
        """Where those of `own` that are known stand among the known ones."""
        if not len(self._known):
            return np.zeros(0, np.intp)
        places = np.minimum(np.searchsorted(self._known, own), len(self._known) - 1)
        return places[self._known[places] == own]

    def touches(self, own: np.ndarray) -> bool:
        """Whether a text with these 13-grams holds a part of a test document."""
        return bool(len(self._places(own)))

    def find(self, text: str) -> tuple[float, str]:
        """The share (0-1) of the text's 13-grams that stand in a test document, and the document
        that holds most of them; (0, "") where there is none."""
        own = grams(text)
        places = self._places(own)
        if not len(places):
            return 0.0, ""
        owner = np.bincount(self._owners[places]).argmax()
        return len(places) / len(own), self._names[owner]

    def without(
        self, chunks: Iterable[dict[str, Any]], rejects: list[Reject]
    ) -> Iterator[dict[str, Any]]:
        """The chunks (lines of chunks.jsonl) but those that hold a part of a test document; these
        become rejects, which name it."""
        for chunk in chunks:
            shared, owner = (0.0, "") if chunk["split"] == "test" else self.find(chunk["text"])
            if not shared:
                yield chunk
                continue
            detail = f"{shared:.0%} of its {GRAM_WORDS}-word sequences stand in {owner}"
            rejects.append(Reject(chunk["id"], REASON, detail))


def grams(text: str, num_words: int = GRAM_WORDS) -> np.ndarray:
    """The hashes of a text's sequences of `num_words` words (at most 13), uint64, ascending and
    unique. A shorter text has none: it is too short to be known again."""
    words = splitmix64(hash_words(skeleton(text)))
    number = len(words) - num_words + 1
    if number <= 0:
        return np.zeros(0, np.uint64)
    hashed = np.zeros(number, np.uint64)
    for n in range(num_words):
        hashed += words[n : n + number] * _FACTORS[n]
    return np.unique(hashed)
