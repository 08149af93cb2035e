"""Sentences in the index: a question is often close to one sentence of a chunk, and far from the
rest of it.

They stand in an index of their own, in the folder SENTENCES of that of their chunks.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from rag_ft.documents.sentences import split_sentences
from rag_ft.retrieval.fusion import Ranking, best_first
from rag_ft.retrieval.index_files import SENTENCES, open_vectors, read_ids, read_manifest
from rag_ft.retrieval.lexical import words
from rag_ft.retrieval.segments import ChunkVectors
from rag_ft.schema import Chunk

LEAST_WORDS = 4


def sentences_of(chunks: Iterable[Chunk]) -> Iterator[Chunk]:
    """The sentences of each chunk as chunks, in its order: their ids are the chunk's, "/" and a
    number. Short ones, and a chunk that is one sentence, are left out."""
    for chunk in chunks:
        spans = [
            (start, end)
            for start, end in split_sentences(chunk.text)
            if len(words(chunk.text[start:end])) >= LEAST_WORDS
        ]
        if len(spans) < 2:
            continue
        for number, (start, end) in enumerate(spans):
            place = (chunk.start + start, chunk.start + end)
            name, text = f"{chunk.id}/{number}", chunk.text[start:end]
            yield replace(chunk, id=name, text=text, start=place[0], end=place[1])


class Closeness:
    """How close chunks are to a question: their cosine (-1..1), or where the index holds sentences
    the mean of it and of the closest sentence's."""

    def __init__(self, folder: Path, chunk_ids: Sequence[str], vectors: ChunkVectors) -> None:
        """`vectors` are those of the chunks, in the order of their ids. The sentences are read from
        the index `folder`, where it has some."""
        self._chunks, self._sentences = vectors, None
        if not read_manifest(folder).sentences:
            return
        folder = folder / SENTENCES
        self._sentences = open_vectors(folder)
        row_of = {chunk_id: row for row, chunk_id in enumerate(chunk_ids)}
        names = (name.rpartition("/")[0] for name in read_ids(folder, read_manifest(folder)))
        # Sentences follow each other in the order of their chunks.
        owners = np.array([row_of[name] for name in names], dtype=np.int64)
        self._first = np.searchsorted(owners, np.arange(len(chunk_ids) + 1))

    def of(self, rows: np.ndarray, vector: np.ndarray) -> np.ndarray:
        """For each of the chunks `rows` how close it is to the vector of a question."""
        own: np.ndarray = self._chunks[rows] @ vector
        if self._sentences is None or not len(rows):
            return own
        first, number = self._first[rows], self._first[rows + 1] - self._first[rows]
        has, best = number > 0, own.copy()
        if has.any():
            # The sentences of all chunks behind one another, and where those of each begin.
            starts = np.cumsum(number[has]) - number[has]
            steps = np.arange(number.sum()) - np.repeat(starts, number[has])
            cosines = self._sentences[np.repeat(first[has], number[has]) + steps] @ vector
            best[has] = np.maximum.reduceat(cosines, starts)
        return (own + best) / 2

    def ranked(self, vectors: np.ndarray, found: list[Ranking]) -> list[Ranking]:
        """The chunks that a vector store found for each question, by closeness."""
        if self._sentences is None:
            return found
        pairs = zip(vectors, found, strict=True)
        return [best_first(rows, self.of(rows, vector)) for vector, (rows, _) in pairs]
