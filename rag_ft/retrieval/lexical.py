"""BM25 for text of any script: a Unicode tokenizer, and bm25s over memory-mapped numpy files."""

from __future__ import annotations

import functools
import logging
import re
import unicodedata
from array import array
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rag_ft.errors import DataError
from rag_ft.retrieval.fusion import Ranking, best_first

# bm25s sets its own logger to DEBUG.
logging.getLogger("bm25s").setLevel(logging.WARNING)
K1, B = 1.2, 0.75
_ASCII_WORD = re.compile(r"\w+")
# Vowel points of Hebrew and Arabic and the Arabic stretching stroke: writers may leave them out.
_POINTS = dict.fromkeys([*range(0x591, 0x5BE), *range(0x64B, 0x660)]) | dict.fromkeys(
    [0x5BF, 0x5C1, 0x5C2, 0x5C4, 0x5C5, 0x5C7, 0x640, 0x670]
)
# Thai, Lao, Myanmar, Khmer, Chinese and Japanese put no space between words. Korean does.
_UNSPACED = re.compile(
    "([\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u2e80-\u2fdf\u3040-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003134f]+)"
)


def words(text: str) -> list[str]:
    """The lower-case words of a text after NFKC normalisation, without vowel points.

    A run of a script without spaces becomes its overlapping pairs of characters, or itself where
    it has one character.
    """
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    # Each word is split where its script changes between spaced and unspaced.
    found: list[str] = []
    for word in _any_word().findall(unicodedata.normalize("NFKC", text).lower().translate(_POINTS)):
        for part in _UNSPACED.split(word):
            if len(part) > 1 and _UNSPACED.match(part):
                found += [part[i : i + 2] for i in range(len(part) - 1)]
            elif part:
                found.append(part)
    return found


@functools.cache
def _any_word() -> re.Pattern[str]:
    r"""\w and combining marks, which are part of a word in India and South-East Asia."""
    codes = range(0x300, 0x10000)
    marks = [chr(code) for code in codes if unicodedata.category(chr(code)).startswith("M")]
    return re.compile(rf"[\w{''.join(marks)}]+")


class LexicalBuilder:
    """Takes texts block by block and keeps four bytes a word until `save`."""

    def __init__(self) -> None:
        self._vocabulary: dict[str, int] = {}
        self._rows: list[array[int]] = []

    def add(self, texts: Sequence[str]) -> None:
        """Appends `texts`; their rows continue those of the texts before."""
        vocabulary = self._vocabulary
        for text in texts:
            ids = [vocabulary.setdefault(word, len(vocabulary)) for word in words(text)]
            self._rows.append(array("i", ids))

    def save(self, folder: Path) -> None:
        """Writes the index of all texts added, in their order."""
        import bm25s

        bm25 = bm25s.BM25(k1=K1, b=B, method="lucene", csc_backend="scipy", backend="numpy")
        # bm25s needs a word, also where no text has one.
        vocabulary = self._vocabulary or {"": 0}
        # A corpus without words has a mean length of 0, by which bm25s divides.
        with np.errstate(divide="ignore", invalid="ignore"):
            bm25.scores = bm25.build_index_from_ids(
                list(vocabulary.values()), self._rows, show_progress=False
            )
        bm25.vocab_dict = vocabulary
        bm25.save(folder, allow_pickle=False, show_progress=False)


class LexicalIndex:
    """A saved index. Its rows are the texts in the order in which they were added."""

    def __init__(self, folder: Path) -> None:
        """Raises DataError where the files are missing or damaged."""
        import bm25s

        try:
            self._bm25 = bm25s.BM25.load(folder, mmap=True, allow_pickle=False, show_progress=False)
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{folder} is not a BM25 index ({error}): run `rag-ft index CONFIG --force`"
            ) from error

    def search(
        self, questions: Sequence[str], k: int, allowed: np.ndarray | None = None
    ) -> list[Ranking]:
        """For every question the rows and BM25 scores (above 0) of its best texts, best first,
        ties by row: at most `k`, and only texts that share a word with the question.

        `allowed` (a boolean a row) leaves out the other rows. It changes no score: how rare a word
        is, is counted over all texts.
        A word that the question repeats counts each time.
        """
        vocabulary: dict[str, int] = self._bm25.vocab_dict
        found = []
        for question in questions:
            ids = [vocabulary[word] for word in words(question) if word in vocabulary]
            scores = np.asarray(self._bm25.get_scores_from_ids(ids))
            rows = np.flatnonzero(scores > 0 if allowed is None else (scores > 0) & allowed)
            # Sorting is slow over a large corpus: first drop what scores below the k-th best.
            if len(rows) > k:
                least = np.partition(scores[rows], len(rows) - k)[len(rows) - k]
                rows = rows[scores[rows] >= least]
            rows, best = best_first(rows, scores[rows])
            found.append((rows[:k], best[:k]))
        return found

    def compare(self, question: str, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Three values of each of `rows`: its BM25 score; the share (0-1) of the question's words
        that it contains, weighted by idf; the highest idf of a word that both contain, or 0."""
        vocabulary: dict[str, int] = self._bm25.vocab_dict
        asked = words(question)
        known = {vocabulary[word]: asked.count(word) for word in asked if word in vocabulary}
        matrix, num_texts = self._bm25.scores, int(self._bm25.scores["num_docs"])
        scores, shared, rarest = (np.zeros(len(rows)) for _ in range(3))
        # A word that no text has is as rare as can be.
        most = float(np.log(1 + (num_texts + 0.5) / 0.5))
        total = most * sum(word not in vocabulary for word in set(asked))
        for word, count in known.items():
            start, end = int(matrix["indptr"][word]), int(matrix["indptr"][word + 1])
            texts = matrix["indices"][start:end]
            idf = float(np.log(1 + (num_texts - len(texts) + 0.5) / (len(texts) + 0.5)))
            total += idf
            place = np.minimum(np.searchsorted(texts, rows), max(len(texts) - 1, 0))
            has = texts[place] == rows if len(texts) else np.zeros(len(rows), bool)
            scores[has] += count * matrix["data"][start:end][place[has]]
            shared[has] += idf
            rarest[has] = np.maximum(rarest[has], idf)
        return scores, shared / total if total else shared, rarest
