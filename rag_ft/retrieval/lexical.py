"""BM25 over any script: a Unicode tokenizer and bm25s, kept as numpy and JSON files, memory-mapped when opened."""

from __future__ import annotations

import functools
import json
import logging
import re
import unicodedata
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from rag_ft.errors import DataError

K1, B = 1.2, 0.75
_ASCII_WORD = re.compile(r"\w+")
# Vowel points of Hebrew and Arabic and the Arabic stretching stroke: written or left out at will.
_POINTS = dict.fromkeys(
    [
        *range(0x591, 0x5BE),
        0x5BF,
        0x5C1,
        0x5C2,
        0x5C4,
        0x5C5,
        0x5C7,
        0x640,
        *range(0x64B, 0x660),
        0x670,
    ]
)
# Scripts written without spaces between words: Thai, Lao, Myanmar, Khmer, CJK, kana, Hangul is spaced and left out.
_UNSPACED = re.compile(
    "([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u2fdf\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\U00020000-\U0003134f]+)"
)


def words(text: str) -> list[str]:
    """Lower-case words of a text after compatibility normalisation (full-width forms, ligatures, Arabic presentation
    forms; no vowel points). Runs of a script without spaces become overlapping character pairs, a lone character
    itself."""
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    found: list[str] = []
    for word in _any_word().findall(unicodedata.normalize("NFKC", text).lower().translate(_POINTS)):
        for part in _UNSPACED.split(word):
            found.extend(_pairs(part) if _UNSPACED.match(part) else [part] if part else [])
    return found


@functools.cache
def _any_word() -> re.Pattern[str]:
    r"""\w and combining marks, which are part of a word in the scripts of India and South-East Asia."""
    marks = (
        chr(code)
        for code in range(0x300, 0x10000)
        if unicodedata.category(chr(code)).startswith("M")
    )
    return re.compile(rf"[\w{''.join(marks)}]+")


class LexicalBuilder:
    """Takes texts as they come and keeps four bytes a word until `save`."""

    def __init__(self) -> None:
        self._vocabulary: dict[str, int] = {}
        self._rows: list[array[int]] = []

    def add(self, texts: Sequence[str]) -> None:
        vocabulary = self._vocabulary
        for text in texts:
            self._rows.append(
                array("i", [vocabulary.setdefault(word, len(vocabulary)) for word in words(text)])
            )

    def save(self, folder: Path) -> None:
        """Writes the index of all texts added, in their order."""
        import bm25s

        bm25 = bm25s.BM25(k1=K1, b=B, method="lucene", csc_backend="scipy", backend="numpy")
        vocabulary = self._vocabulary or {"": 0}
        with np.errstate(divide="ignore", invalid="ignore"):  # texts without a word have length 0
            bm25.scores = bm25.build_index_from_ids(
                list(vocabulary.values()), self._rows, show_progress=False
            )
        bm25.vocab_dict = vocabulary
        bm25.save(folder, allow_pickle=False, show_progress=False)


class LexicalIndex:
    """A saved index. Scores are sums over the question's words, repeated words counting again; chunk order is that of
    the texts added."""

    def __init__(self, folder: Path) -> None:
        """Raises DataError where the files are missing or damaged."""
        import bm25s

        try:
            self._bm25 = bm25s.BM25.load(folder, mmap=True, allow_pickle=False, show_progress=False)
        except (OSError, ValueError, json.JSONDecodeError) as error:
            raise DataError(
                f"{folder} is not a BM25 index ({error}): run `rag-ft index CONFIG --force`"
            ) from error

    def search(self, questions: Sequence[str], k: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """For every question the rows and scores of its best chunks, best first, ties by row; at most `k`, and only
        chunks that share a word with the question."""
        return [_best(self._scores(question), k) for question in questions]

    def _scores(self, question: str) -> np.ndarray:
        vocabulary: dict[str, int] = self._bm25.vocab_dict
        ids = [vocabulary[word] for word in words(question) if word in vocabulary]
        scores: Any = self._bm25.get_scores_from_ids(ids)
        return np.asarray(scores)


def _pairs(run: str) -> list[str]:
    return [run[i : i + 2] for i in range(len(run) - 1)] or [run]


def _best(scores: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    rows = np.flatnonzero(scores > 0)
    if len(rows) > k:
        least = np.partition(scores[rows], len(rows) - k)[len(rows) - k]
        rows = rows[scores[rows] >= least]
    rows = rows[np.lexsort((rows, -scores[rows]))][:k]
    return rows, scores[rows]


logging.getLogger("bm25s").setLevel(logging.WARNING)  # it sets itself to DEBUG
