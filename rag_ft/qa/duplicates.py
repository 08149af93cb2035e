"""Questions asked before, in the same words or in others: each is found as it comes, the first one stays."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence

import numpy as np

Encode = Callable[[Sequence[str]], np.ndarray]


class AskedBefore:
    """All questions kept so far with their vectors: float32 (capacity, dim), doubled when full."""

    def __init__(self, encode: Encode, similarity: float) -> None:
        self._encode, self._similarity = encode, similarity
        self._exact: dict[str, int] = {}
        self._questions: list[str] = []
        self._vectors = np.empty((0, 0), dtype=np.float32)

    def repeats(self, questions: Sequence[str]) -> list[str | None]:
        """For each question the earlier one that it repeats, else None; it then counts as asked.

        Two questions are the same when they are equal up to case and punctuation, or when their cosine reaches the
        similarity and they name the same things: "When does pump A-12 start?" and "... A-13 start?" are not.
        """
        vectors = self._encode(questions)
        return [self._repeat(question, vector) for question, vector in zip(questions, vectors, strict=True)]

    def _repeat(self, question: str, vector: np.ndarray) -> str | None:
        key = plain(question)
        if key in self._exact:
            return self._questions[self._exact[key]]
        count = len(self._questions)
        similar = np.flatnonzero(self._vectors[:count] @ vector >= self._similarity) if count else ()
        for place in similar:
            if same_names(question, self._questions[place]):
                return self._questions[place]
        self._exact[key] = count
        self._questions.append(question)
        self._store(vector, count)
        return None

    def _store(self, vector: np.ndarray, row: int) -> None:
        if row >= len(self._vectors):
            grown = np.empty((max(256, 2 * row), len(vector)), dtype=np.float32)
            grown[:row] = self._vectors[:row]
            self._vectors = grown
        self._vectors[row] = vector


def plain(question: str) -> str:
    """Letters and digits alone, compatibility forms unified, in lower case."""
    kept = (c if c.isalnum() else " " for c in unicodedata.normalize("NFKC", question).casefold())
    return " ".join("".join(kept).split())


def same_names(a: str, b: str) -> bool:
    """Whether every name and number of each question is a word of the other."""
    return _names(a) <= _words(b) and _names(b) <= _words(a)


def _names(question: str) -> set[str]:
    """Words with a digit, and words in upper case after the first."""
    words = re.findall(r"\w+", question)
    return {
        word.casefold()
        for place, word in enumerate(words)
        if any(c.isdigit() for c in word) or (place > 0 and word[0].isupper())
    }


def _words(question: str) -> set[str]:
    return {word.casefold() for word in re.findall(r"\w+", question)}
