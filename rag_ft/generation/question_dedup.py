"""Questions asked before, in the same words or in others: each is found as it comes, the first one stays."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence

import numpy as np

from rag_ft.generation.filters import Failure
from rag_ft.retrieval.encoder import QueryEncoder
from rag_ft.text import all_words, entity_words, is_unspaced, normalise_question

NUM_RAREST = 3
MOST_CANDIDATES = 1000
Encode = Callable[[Sequence[str]], np.ndarray]


class AskedBefore:
    """All questions kept so far with their vectors: float32 (capacity, dim), doubled when full.

    A question is compared with those that share one of its rarest words, not with all: so that the cost of one does
    not grow with their number.
    """

    def __init__(self, encode: Encode, similarity: float) -> None:
        self._encode, self._similarity = encode, similarity
        self._exact: dict[str, int] = {}
        self._questions: list[str] = []
        self._rows_with: dict[str, array[int]] = {}
        self._vectors = np.empty((0, 0), dtype=np.float32)

    def repeats(self, questions: Sequence[str], keep: bool = True) -> list[str | None]:
        """For each question the earlier one that it repeats, else None; it then counts as asked (if `keep`).

        Two questions are the same when they are equal up to case and punctuation, or when their cosine reaches the
        similarity and they name the same things: "When does pump A-12 start?" and "... A-13 start?" are not.
        """
        keys = [normalise_question(question) for question in questions]
        new = {
            key: question
            for key, question in zip(keys, questions, strict=True)
            if key not in self._exact
        }
        vectors = dict(zip(new, self._encode(list(new.values())), strict=True)) if new else {}
        found: list[str | None] = []
        for key, question in zip(keys, questions, strict=True):
            same = self._exact.get(key)
            found.append(
                self._questions[same] if same is not None else self._similar(question, vectors[key])
            )
            if found[-1] is None and keep:
                self._store(key, question, vectors[key])
        return found

    def _similar(self, question: str, vector: np.ndarray) -> str | None:
        """The first similar question that names the same things."""
        rows = self._candidates(question)
        similar = rows[self._vectors[rows] @ vector >= self._similarity] if len(rows) else rows
        return next(
            (self._questions[row] for row in similar if same_names(question, self._questions[row])),
            None,
        )

    def _candidates(self, question: str) -> np.ndarray:
        """Rows of the questions that share one of the rarest known words of this one; very common words are none."""
        most = max(MOST_CANDIDATES, len(self._questions) // 20)
        known = [
            rows
            for word in _keys(question)
            if (rows := self._rows_with.get(word)) and len(rows) <= most
        ]
        rarest = sorted(known, key=len)[:NUM_RAREST]
        return np.unique(
            np.concatenate(
                [np.asarray(rows, dtype=np.int64) for rows in rarest] or [np.empty(0, np.int64)]
            )
        )

    def _store(self, key: str, question: str, vector: np.ndarray) -> None:
        row = len(self._questions)
        if row >= len(self._vectors):
            grown = np.empty((max(256, 2 * row), len(vector)), dtype=np.float32)
            if row:
                grown[:row] = self._vectors[:row]
            self._vectors = grown
        self._vectors[row] = vector
        self._exact[key] = row
        for word in _keys(question):
            self._rows_with.setdefault(word, array("I")).append(row)
        self._questions.append(question)


class RecentVectors:
    """An encoder of questions that remembers its last results: the round trip searches with the very vectors that the
    duplicate check has just compared."""

    MOST = 1024

    def __init__(self, encoder: QueryEncoder) -> None:
        self._encoder = encoder
        self._vectors: dict[str, np.ndarray] = {}

    def encode_queries(self, questions: Sequence[str]) -> np.ndarray:
        """float32 (n, dim), unit norm; at least one question."""
        if new := [
            question for question in dict.fromkeys(questions) if question not in self._vectors
        ]:
            self._vectors |= zip(new, self._encoder.encode_queries(new), strict=True)
        found = np.stack([self._vectors[question] for question in questions])
        for oldest in list(self._vectors)[: -self.MOST]:
            del self._vectors[oldest]
        return found


def duplicate(question: str, earlier: str) -> Failure:
    return Failure("duplicate", f"{question} | earlier: {earlier}")


def same_names(a: str, b: str) -> bool:
    """Whether every name and number of each question is a word of the other."""
    return entity_words(a) <= all_words(b) and entity_words(b) <= all_words(a)


def _keys(question: str) -> set[str]:
    """What a question is found by: its words, or its characters in scripts without spaces."""
    text = question.casefold()
    return {c for c in text if c.isalnum()} if is_unspaced(text) else all_words(text)
