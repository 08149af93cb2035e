"""Finds questions that repeat an earlier one or a test question, in the same words or in others."""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from rag_ft.generation.filters import Failure
from rag_ft.retrieval.encoder import QueryEncoder
from rag_ft.schema import QAPair, Reject
from rag_ft.storage import batched
from rag_ft.text import all_words, entity_words, is_unspaced, normalise_question

NUM_RAREST = 3
LEAST_SHARED_PAIRS = 0.7  # of the neighbouring characters of both questions
MOST_CANDIDATES = 1000
PARAPHRASE = "asked of a test document in other words"  # the reason of a Reject
Encode = Callable[[Sequence[str]], np.ndarray]


class QuestionDeduplicator:
    """The questions stored so far with their vectors, a float32 array (capacity, dim).

    A question is compared only with those that share one of its rarest words, so that the cost of
    one question does not grow with the number of questions.
    """

    def __init__(self, encode: Encode, similarity: float) -> None:
        """`encode` returns float32 (n, dim), unit norm; `similarity` is a cosine (0-1)."""
        self._encode, self._similarity = encode, similarity
        self._row_of_key: dict[str, int] = {}
        self._questions: list[str] = []
        self._rows_with: dict[str, array[int]] = {}
        self._vectors = np.empty((0, 0), dtype=np.float32)

    def repeats(self, questions: Sequence[str], keep: bool = True) -> list[str | None]:
        """For each question the earlier one that it repeats; if None, it is stored (if `keep`).

        A question repeats another if both are equal up to case and punctuation, or if their cosine
        reaches the similarity and they name the same things: "When does pump A-12 start?" does not
        repeat "When does pump A-13 start?".
        """
        keys = [normalise_question(question) for question in questions]
        # Encode each new question once, all of them in one batch.
        new = {
            key: question
            for key, question in zip(keys, questions, strict=True)
            if key not in self._row_of_key
        }
        vectors = dict(zip(new, self._encode(list(new.values())), strict=True)) if new else {}
        found: list[str | None] = []
        for key, question in zip(keys, questions, strict=True):
            row = self._row_of_key.get(key)
            if row is not None:
                found.append(self._questions[row])
                continue
            found.append(self._similar(question, vectors[key]))
            if found[-1] is not None or not keep:
                continue
            row = len(self._questions)
            # Doubling the capacity keeps the cost of growing constant for each question.
            if row >= len(self._vectors):
                grown = np.empty((max(256, 2 * row), len(vectors[key])), dtype=np.float32)
                if row:
                    grown[:row] = self._vectors[:row]
                self._vectors = grown
            self._vectors[row] = vectors[key]
            self._row_of_key[key] = row
            for word in _search_words(question):
                self._rows_with.setdefault(word, array("I")).append(row)
            self._questions.append(question)
        return found

    def _similar(self, question: str, vector: np.ndarray) -> str | None:
        """The first similar question that names the same things."""
        # Common words would select too many candidates, and are left out.
        most = max(MOST_CANDIDATES, len(self._questions) // 20)
        # Sorted, because the order of a set differs from process to process.
        rows_of_words = [self._rows_with.get(w, ()) for w in sorted(_search_words(question))]
        known = [rows for rows in rows_of_words if 0 < len(rows) <= most]
        rarest = sorted(known, key=len)[:NUM_RAREST]
        if not rarest:
            return None
        candidates = np.unique(np.concatenate([np.asarray(rows, np.int64) for rows in rarest]))
        for row in candidates[self._vectors[candidates] @ vector >= self._similarity]:
            earlier = self._questions[row]
            if same_names(question, earlier) and same_spelling(question, earlier):
                return self._questions[row]
        return None


class CachedQueryEncoder:
    """A query encoder that keeps its last results.

    The round trip searches with the vectors that the duplicate check has just computed.
    """

    MOST = 1024

    def __init__(self, encoder: QueryEncoder) -> None:
        self._encoder = encoder
        self._vectors: dict[str, np.ndarray] = {}

    def encode_queries(self, questions: Sequence[str]) -> np.ndarray:
        """float32 (n, dim), unit norm, of at least one question."""
        new = [question for question in dict.fromkeys(questions) if question not in self._vectors]
        if new:
            self._vectors |= zip(new, self._encoder.encode_queries(new), strict=True)
        found = np.stack([self._vectors[question] for question in questions])
        for oldest in list(self._vectors)[: -self.MOST]:
            del self._vectors[oldest]
        return found


def duplicate(question: str, earlier: str) -> Failure:
    """The reason for rejecting a question that repeats an earlier one."""
    return Failure("duplicate", f"{question} | earlier: {earlier}")


def without_paraphrases(
    pairs: Sequence[QAPair], encoder: QueryEncoder, least_cosine: float
) -> tuple[list[QAPair], list[Reject]]:
    """Leaves out train and dev pairs that ask in other words what a test pair asks: the questions
    have a cosine of `least_cosine` or more and name the same things. Questions without a name are
    not judged: what they ask of different documents is alike.

    Returns:
        The kept pairs in order, and a Reject for each other pair.
    """
    heldout = [p for p in pairs if p.split == "test" and entity_words(p.question)]
    judged = [p for p in pairs if p.split != "test" and entity_words(p.question)]
    if not heldout or not judged:
        return list(pairs), []
    asked = encoder.encode_queries([pair.question for pair in heldout])
    rejects: dict[str, Reject] = {}
    for batch in batched(judged, 64):
        cosines = encoder.encode_queries([pair.question for pair in batch]) @ asked.T
        for pair, row in zip(batch, cosines, strict=True):
            near = [heldout[place] for place in np.flatnonzero(row >= least_cosine)]
            twin = next((t for t in near if same_names(pair.question, t.question)), None)
            if twin:
                detail = f"{twin.id}: {pair.question} | {twin.question}"
                rejects[pair.id] = Reject(pair.id, PARAPHRASE, detail)
    return [pair for pair in pairs if pair.id not in rejects], list(rejects.values())


def same_names(a: str, b: str) -> bool:
    """Whether every name and number of each question is a word of the other."""
    return entity_words(a) <= all_words(b) and entity_words(b) <= all_words(a)


def same_spelling(a: str, b: str) -> bool:
    """Whether two texts in scripts without spaces share most pairs of neighbouring characters; True
    in other scripts.

    Nothing shows the names in such a script, and an encoder that was not trained on it may find
    different questions similar.
    """
    if not is_unspaced(a):
        return True
    pairs_a, pairs_b = ({"".join(pair) for pair in pairwise(text)} for text in (a, b))
    return len(pairs_a & pairs_b) >= LEAST_SHARED_PAIRS * len(pairs_a | pairs_b)


def _search_words(question: str) -> set[str]:
    """The words of a question, or its characters in scripts without spaces."""
    text = question.casefold()
    return {c for c in text if c.isalnum()} if is_unspaced(text) else all_words(text)
