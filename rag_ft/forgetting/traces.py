"""By what a line of a run is known to be about a document: it names the document, a chunk or a pair
of it, or it says nothing of where it comes from and quotes the document."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np

from rag_ft.document_store import DocumentStore
from rag_ft.documents.near_duplicates import hash_words, splitmix64
from rag_ft.documents.sentences import split_sentences
from rag_ft.documents.splits import text_digest
from rag_ft.run_dir import RunDir
from rag_ft.schema import Document
from rag_ft.storage import read_rows
from rag_ft.text import skeleton

# So many words in a row are a quotation; a sentence of fewer, from LEAST_WORDS on, is one as a
# whole.
QUOTED_WORDS, LEAST_WORDS = 6, 3
_FACTORS = splitmix64(np.arange(QUOTED_WORDS, dtype=np.uint64)) | np.uint64(1)
# The fields that hold ids. `item` is that of a reject, `about` that of a stored reply.
IDS = {"id", "item", "pair_id", "question_id", "document_id", "chunk_id", "second_chunk_id"}
IDS |= {"chunk_ids", "citations", "about"}
# A line with one of these says which documents it comes from.
PLACES = ("document_id", "chunk_id", "chunk_ids", "about", "question_id")
PRUNED = "hard_chunk_ids"  # chunks of other documents that a pair merely lists


class Traces:
    """The ids and quotations by which one document is found. `documents` are its states in the
    versions of the run, by version; `texts` their digests."""

    def __init__(self, document_id: str, run_dirs: Sequence[RunDir]) -> None:
        """Reads what the versions say of the document.

        Raises:
            DataError: a file of a version is damaged.
        """
        self.document_id = document_id
        self.documents: dict[str, Document] = {}
        self._chunk = re.compile(re.escape(document_id) + r"#\d+(/.*)?", re.DOTALL)
        self._names, self._pairs, quoted = {document_id}, set[str](), list[str]()
        for run_dir in run_dirs:
            store = DocumentStore(run_dir.documents)
            if run_dir.documents.exists() and document_id in store:
                found = self.documents[run_dir.path.name] = store[document_id]
                quoted += [found.title, found.text]
                self._names.add(found.source)
            store.close()
        self.texts = sorted({text_digest(found.text).hex() for found in self.documents.values()})
        others: list[str] = []
        for row in pairs_of(run_dirs):
            if self.names(row.get("document_id")) or self.names(row.get("chunk_id")):
                self._pairs.add(str(row["id"]))
                quoted.append(str(row["question"]))
            else:
                others.append(str(row["question"]))
        self._quotations = quotations(quoted)
        # What another document, or a question about it, has too tells nothing.
        for text in itertools.chain(others, self._other_texts(run_dirs)):
            for number, known in self._quotations.items():
                self._quotations[number] = known[~np.isin(known, word_grams(text, number))]

    def _other_texts(self, run_dirs: Sequence[RunDir]) -> Iterator[str]:
        for run_dir in run_dirs:
            for row in read_rows(run_dir.documents) if run_dir.documents.exists() else ():
                if row["id"] != self.document_id:
                    yield row["text"]

    def names(self, value: Any) -> bool:
        """Whether an id is that of the document, of a chunk or a pair of it, or begins or ends with
        one as ids of requests and rejects do (`<pair>/2`, `replay:<pair>`, `<system> <pair>`)."""
        if not isinstance(value, str) or not value:
            return False
        if value in self._names or self._chunk.fullmatch(value):
            return True
        parts = (value, value.partition(":")[2], value.partition(" ")[2], value.rpartition("/")[0])
        return any(part in self._pairs for part in parts)

    def quotes(self, text: str) -> bool:
        """Whether a text has words in a row that the document or a question about it has."""
        return any(
            bool(np.isin(word_grams(text, number), known).any())
            for number, known in self._quotations.items()
        )

    def concern(self, row: Any) -> bool:
        """Whether a JSON value is about the document."""
        return self._named_in(row) or (not has_place(row) and self._quoted_in(row))

    def scrubbed(self, value: Any) -> Any:
        """A JSON value of a whole file without the parts that are about the document."""
        if isinstance(value, list):
            return [self.scrubbed(item) for item in value if not self.concern(item)]
        if isinstance(value, dict):
            return {
                key: self.scrubbed(item)
                for key, item in value.items()
                if not self.names(key) and not (isinstance(item, str) and self.quotes(item))
            }
        return value

    def _named_in(self, value: Any, field: str = "") -> bool:
        if isinstance(value, str):
            return field in IDS and self.names(value)
        if isinstance(value, list):
            return field != PRUNED and any(self._named_in(item, field) for item in value)
        if isinstance(value, dict):
            return any(self._named_in(item, key) for key, item in value.items())
        return False

    def _quoted_in(self, value: Any) -> bool:
        if isinstance(value, str):
            return self.quotes(value)
        inner = value.values() if isinstance(value, dict) else value
        return isinstance(inner, Iterable) and any(map(self._quoted_in, inner))


def pairs_of(run_dirs: Iterable[RunDir]) -> Iterator[dict[str, Any]]:
    """All pairs of some versions, rejected ones too."""
    for run_dir in run_dirs:
        for path in (run_dir.qa, run_dir.generated_pairs, run_dir.generated_rejects):
            yield from read_rows(path) if path.exists() else ()


def has_place(row: Any) -> bool:
    """Whether a line says which documents it comes from; a line of feedback has its exchange."""
    if not isinstance(row, dict):
        return False
    return any(row.get(field) for field in PLACES) or has_place(row.get("exchange"))


def quotations(texts: Iterable[str]) -> dict[int, np.ndarray]:
    """{number of words: hashes of the sequences of so many words}: all of QUOTED_WORDS, and the
    sentences that are shorter."""
    found: dict[int, list[np.ndarray]] = {}
    for text in texts:
        found.setdefault(QUOTED_WORDS, []).append(word_grams(text, QUOTED_WORDS))
        for start, end in split_sentences(text):
            for number in range(QUOTED_WORDS - 1, LEAST_WORDS - 1, -1):
                own = word_grams(text[start:end], number)
                if len(own):
                    # A sentence of just so many words has one sequence.
                    found.setdefault(number, []).extend([own] if len(own) == 1 else [])
                    break
    return {number: np.unique(np.concatenate(own)) for number, own in found.items() if own}


def word_grams(text: str, number: int) -> np.ndarray:
    """The hashes of a text's sequences of so many words (at most QUOTED_WORDS), uint64, ascending
    and unique."""
    words = splitmix64(hash_words(skeleton(text)))
    hashed = np.zeros(max(0, len(words) - number + 1), np.uint64)
    for n in range(number):
        hashed += words[n : n + len(hashed)] * _FACTORS[n]
    return np.unique(hashed)
