"""What a question is about, as far as its letters tell: the words that are names or numbers."""

from __future__ import annotations

import re

_WORD = re.compile(r"\w+")


def names(question: str) -> set[str]:
    """Words with a digit, and words in upper case after the first, casefolded."""
    found = _WORD.findall(question)
    return {
        word.casefold()
        for place, word in enumerate(found)
        if any(c.isdigit() for c in word) or (place > 0 and word[0].isupper())
    }


def words(text: str) -> set[str]:
    """All words, casefolded."""
    return {word.casefold() for word in _WORD.findall(text)}
