"""How a text becomes words for the metrics: SQuAD's normal form, and a tokenizer that keeps every script."""

from __future__ import annotations

import re
import string
import unicodedata
from functools import lru_cache
from typing import Any

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ASCII_WORDS = re.compile(r"[a-z0-9]+")
# Scripts written without spaces: every character is a word of its own, or no two texts would ever share a word.
_UNSPACED = re.compile(
    r"[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]"
)
# Function words of English and of question templates: sharing them supports no answer.
STOP_WORDS = """
    a about after all also an and any are as at be because been before both but by can could did do does for from had
    has have he her his how i if in into is it its may more most no not of on one only or other our out over shall she
    should so some such than that the their them then there these they this those to under up was we were what when
    where which while who whom whose why will with would you your"""


@lru_cache(maxsize=1 << 16)
def normalise(text: str) -> str:
    """SQuAD's normal form: lower case, ASCII punctuation and English articles removed, white space single."""
    return " ".join(_ARTICLES.sub(" ", without_punctuation(text)).split())


def without_punctuation(text: str) -> str:
    """Lower case, ASCII punctuation removed, white space single: SQuAD's normal form with its articles left in."""
    return " ".join(text.lower().translate(_PUNCTUATION).split())


def single_spaced(text: str) -> str:
    """Case folded, white space single, all else left in."""
    return " ".join(text.casefold().split())


@lru_cache(maxsize=1 << 14)
def stems(text: str) -> tuple[str, ...]:
    """Words, lower case and Porter-stemmed as rouge-score does it; letters, marks and digits of every script are kept.

    On ASCII text it equals rouge-score's own tokenizer with `use_stemmer=True` (which drops everything else).
    """
    text = text.lower()
    words = _ASCII_WORDS.findall(text) if text.isascii() else _words_of_any_script(text)
    return tuple(_stem(word) for word in words)


def content_words(text: str) -> set[str]:
    """Stems that carry meaning: without English function words."""
    return {stem for stem in stems(text) if stem not in _stopped_stems()}


def is_unspaced(text: str) -> bool:
    """Whether a text has characters of a script written without spaces (Chinese, Japanese, Thai ...)."""
    return not text.isascii() and bool(_UNSPACED.search(text))


def _words_of_any_script(text: str) -> list[str]:
    kept = "".join(c if unicodedata.category(c)[0] in "LMN" else " " for c in text)
    return _UNSPACED.sub(r" \g<0> ", kept).split()


@lru_cache(maxsize=1 << 16)
def _stem(word: str) -> str:
    return _stemmer().stem(word) if len(word) > 3 and word.isascii() else word


@lru_cache(maxsize=1)
def _stopped_stems() -> frozenset[str]:
    return frozenset(_stem(word) for word in STOP_WORDS.split())


@lru_cache(maxsize=1)
def _stemmer() -> Any:
    from nltk.stem.porter import (
        PorterStemmer,
    )  # with nltk about a second: only when a text is scored

    return PorterStemmer()
