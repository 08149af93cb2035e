"""Finds which of many texts may stand in a document, without searching each of them in it."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from functools import lru_cache
from typing import Generic, Protocol, TypeVar

from rag_ft.text import composed

KEY_CHARACTERS = 8
_ALPHANUMERIC = re.compile(r"[^\W_]+")


class WantsTexts(Protocol):
    """A row that is found where a document contains one of its wanted texts."""

    @property
    def wanted(self) -> list[str]:
        """The wanted texts."""
        ...


Wanting = TypeVar("Wanting", bound=WantsTexts)


class RareWordIndex(Generic[Wanting]):
    """Finds rows by the rarest word of each wanted text, so that not every row is searched in every
    document. A text that contains a wanted text contains that word, possibly inside a longer one.
    """

    def __init__(self, rows: Iterable[Wanting]) -> None:
        wanted = [
            (row, _ALPHANUMERIC.findall(composed(text))) for row in rows for text in row.wanted
        ]
        num_rows = Counter(word for _, words in wanted for word in set(words))
        self._rows: dict[str, list[Wanting]] = defaultdict(list)
        for row, words in wanted:
            if words:  # a text without a letter or digit is found nowhere
                rarest = min(words, key=lambda word: (num_rows[word], -len(word)))
                self._rows[rarest].append(row)
        # The words by their first characters, for the search inside longer words.
        self._beginning: dict[str, list[str]] = defaultdict(list)
        for word in self._rows:
            self._beginning[word[:KEY_CHARACTERS]].append(word)
        self._lengths = sorted({len(key) for key in self._beginning})
        self._within = lru_cache(maxsize=1 << 16)(self._find_within)

    def candidates(self, text: str) -> list[Wanting]:
        """The rows that may be found in a text, each once. No other row is found in it."""
        words = set(_ALPHANUMERIC.findall(composed(text))) if self._rows else ()
        wanted = {found for word in words for found in self._within(word)}
        return list({id(row): row for word in wanted for row in self._rows[word]}.values())

    def _find_within(self, word: str) -> tuple[str, ...]:
        """The words of rows that stand inside `word`: a wanted text may begin or end there."""
        parts: set[str] = set()
        for size in self._lengths:
            parts.update(word[at : at + size] for at in range(len(word) - size + 1))
        begun = [
            found for part in parts & self._beginning.keys() for found in self._beginning[part]
        ]
        return tuple(found for found in begun if found in word)
