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
from rag_ft.schema import Document, Reject
from rag_ft.text import skeleton

GRAM_WORDS = 13
# Words in a row that stand in more documents than this are a template's.
MANY_DOCUMENTS = 5
REASON = "part of a test document"


class TestParts:
    """The word 13-grams of the test documents, 16 bytes each."""

    __test__ = False  # no test of pytest's

    def __init__(self, documents: Callable[[], Iterable[Document]]) -> None:
        """`documents` gives all documents, each time from the first one on."""
        self._names: list[str] = []
        found, owners = [np.zeros(0, np.uint64)], [np.zeros(0, np.int32)]
        for document in documents():
            if document.split == "test":
                found.append(grams(document.text))
                owners.append(np.full(len(found[-1]), len(self._names), np.int32))
                self._names.append(document.id)
        known, first = np.unique(np.concatenate(found), return_index=True)
        # In how many documents each one stands.
        counts = np.zeros(len(known), np.int32)
        for document in documents():
            counts[places(known, grams(document.text))] += 1
        self._known = known[counts <= MANY_DOCUMENTS]
        self._owners = np.concatenate(owners)[first][counts <= MANY_DOCUMENTS]

    def find(self, text: str) -> tuple[float, str]:
        """The share (0-1) of the text's 13-grams that stand in a test document, and the document
        that holds most of them; (0, "") where there is none."""
        own = grams(text)
        found = places(self._known, own)
        if not len(found):
            return 0.0, ""
        owner = np.bincount(self._owners[found]).argmax()
        return len(found) / len(own), self._names[owner]

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


def places(known: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Where `values` stand in `known`, both ascending and unique; those that do not are left out.
    The time does not grow with `known`, but for its logarithm."""
    if not len(known):
        return np.zeros(0, np.int64)
    found = np.searchsorted(known, values).clip(max=len(known) - 1)
    return found[known[found] == values]


def grams(text: str) -> np.ndarray:
    """The hashes of a text's word 13-grams, uint64, ascending and unique. A shorter text has
    none: it is too short to be known again."""
    words = hash_words(skeleton(text))
    number = len(words) - GRAM_WORDS + 1
    if number <= 0:
        return np.zeros(0, np.uint64)
    hashed = np.zeros(number, np.uint64)
    for n in range(GRAM_WORDS):
        hashed = splitmix64(hashed * np.uint64(31) + words[n : n + number])
    return np.unique(hashed)
