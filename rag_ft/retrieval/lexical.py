"""BM25 for text of any script: a Unicode tokenizer, and bm25s over memory-mapped numpy files."""

from __future__ import annotations

import functools
import itertools
import logging
import re
import tempfile
import unicodedata
from array import array
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from rag_ft.errors import DataError
from rag_ft.retrieval.fusion import Ranking, best_first
from rag_ft.text import UNSPACED, in_form

# bm25s sets its own logger to DEBUG.
logging.getLogger("bm25s").setLevel(logging.WARNING)
K1, B = 1.2, 0.75
# The words that are counted at once; four times as many postings are written at once: some 40 MB.
BLOCK_WORDS = 500_000
# Files of bm25s.
DATA, INDICES = "data.csc.index.npy", "indices.csc.index.npy"
_ASCII_WORD = re.compile(r"\w+")
# Vowel points of Hebrew and Arabic and the Arabic stretching stroke: writers may leave them out.
_POINTS = dict.fromkeys([*range(0x591, 0x5BE), *range(0x64B, 0x660)]) | dict.fromkeys(
    [0x5BF, 0x5C1, 0x5C2, 0x5C4, 0x5C5, 0x5C7, 0x640, 0x670]
)
_UNSPACED = re.compile(f"({UNSPACED}+)")


def words(text: str) -> list[str]:
    """The lower-case words of a text after NFKC normalisation, without vowel points.

    A run of a script without spaces becomes its overlapping pairs of characters, or itself where
    it has one character.
    """
    if text.isascii():
        return _ASCII_WORD.findall(text.lower())
    # Each word is split where its script changes between spaced and unspaced.
    found: list[str] = []
    for word in _any_word().findall(in_form("NFKC", text).lower().translate(_POINTS)):
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


class _Block(NamedTuple):
    """Texts that were counted together: where their postings stand in the file, by word and then by
    text; the words that they have, and the number of postings of each."""

    start: int
    words: np.ndarray
    numbers: np.ndarray


class LexicalBuilder:
    """Takes texts block by block. It counts the words of a block at once and keeps the counts in a
    file, so that its memory is that of the vocabulary and of one block.

    The result is that of `bm25s.BM25.index`, which takes five times as long and ten times the
    memory for a million texts.
    """

    def __init__(self, scratch: Path | None = None) -> None:
        """`scratch` is the folder of the file, which is gone at the end; None: the system's."""
        self._file = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115 - `save` closes it
        self._vocabulary: dict[str, int] = {}
        self._blocks: list[_Block] = []
        self._lengths: list[np.ndarray] = []  # words of each text, for each block
        self._words, self._new_lengths = array("i"), array("I")  # of the texts in no block yet

    def add(self, texts: Sequence[str]) -> None:
        """Appends `texts`; their rows continue those of the texts before."""
        vocabulary = self._vocabulary
        for text in texts:
            ids = [vocabulary.setdefault(word, len(vocabulary)) for word in words(text)]
            self._words.extend(ids)
            self._new_lengths.append(len(ids))
            if len(self._words) >= BLOCK_WORDS:
                self._count()

    def save(self, folder: Path) -> None:
        """Writes the index of all texts added, in their order."""
        import bm25s

        self._count()
        bm25 = bm25s.BM25(k1=K1, b=B, method="lucene", csc_backend="scipy", backend="numpy")
        # bm25s needs a word, also where no text has one.
        bm25.vocab_dict, bm25.nonoccurrence_array = self._vocabulary or {"": 0}, None
        lengths, texts_of = np.concatenate(self._lengths), np.zeros(len(bm25.vocab_dict), np.int64)
        for block in self._blocks:
            texts_of[block.words] += block.numbers
        starts = np.concatenate([[0], np.cumsum(texts_of)])
        idf = np.log(1 + (len(lengths) - texts_of + 0.5) / (texts_of + 0.5)).astype(np.float32)

        pointers = starts.astype(np.int32) if starts[-1] < 2**31 else starts
        none = np.empty(0, np.float32)
        bm25.scores = {"data": none, "indices": none, "indptr": pointers, "num_docs": len(lengths)}
        bm25.save(folder, allow_pickle=False, show_progress=False)

        # The scores of a word stand together, those of some words at a time: each block's go behind
        # those of the blocks before.
        edges = np.searchsorted(starts, np.arange(0, starts[-1], 4 * BLOCK_WORDS), side="right") - 1
        norms = K1 * ((1 - B) + B * lengths / lengths.mean())
        with (folder / DATA).open("wb") as data, (folder / INDICES).open("wb") as indices:
            for out, kind in ((data, "<f4"), (indices, "<i4")):
                header = {"descr": kind, "fortran_order": False, "shape": (int(starts[-1]),)}
                np.lib.format.write_array_header_1_0(out, header)
            for first, last in itertools.pairwise([*np.unique(edges).tolist(), len(idf)]):
                scores, texts = self._scores(first, last, starts, idf, norms)
                data.write(scores.tobytes())
                indices.write(texts.tobytes())
        self._file.close()

    def _scores(
        self, first: int, last: int, starts: np.ndarray, idf: np.ndarray, norms: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """(score, text) of each posting of the words from `first` to before `last`. `starts` says
        where a word's postings begin, `norms` what a text's length costs."""
        number = int(starts[last] - starts[first])
        data, indices = np.empty(number, np.float32), np.empty(number, np.int32)
        after = starts[first:last] - starts[first]
        for block in self._blocks:
            here = slice(*np.searchsorted(block.words, [first, last]))
            words, numbers = block.words[here].astype(np.int64), block.numbers[here]
            texts, counts = self._postings(block, here)
            before = np.cumsum(numbers) - numbers
            places = np.repeat(after[words - first] - before, numbers) + np.arange(len(texts))
            data[places] = np.repeat(idf[words], numbers) * (counts / (norms[texts] + counts))
            indices[places] = texts
            after[words - first] += numbers
        return data, indices

    def _count(self) -> None:
        """Makes a block of the texts that are in none."""
        lengths = np.array(self._new_lengths, dtype=np.int64)
        rows = np.repeat(np.arange(len(lengths)), lengths)
        pairs = np.array(self._words, dtype=np.int64) << 32 | rows
        pairs, counts = np.unique(pairs, return_counts=True)
        present, numbers = np.unique(pairs >> 32, return_counts=True)
        first = sum(map(len, self._lengths))
        small = (present.astype(np.uint32), numbers.astype(np.int32))
        self._blocks.append(_Block(self._file.tell(), *small))
        for values in ((pairs & 0xFFFFFFFF) + first, counts):
            self._file.write(values.astype(np.uint32).tobytes())
        self._lengths.append(lengths)
        self._words, self._new_lengths = array("i"), array("I")

    def _postings(self, block: _Block, words: slice) -> tuple[np.ndarray, np.ndarray]:
        """(text, how often it has the word) of each posting of some of the block's words."""
        skipped, number = (int(block.numbers[w].sum()) for w in (slice(words.start), words))
        found = []
        for column in (0, int(block.numbers.sum())):
            self._file.seek(block.start + 4 * (column + skipped))
            found.append(np.frombuffer(self._file.read(4 * number), dtype=np.uint32))
        return found[0].astype(np.int64), found[1].astype(np.float64)


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
