"""Rows for the phases of the retriever's training: texts in columns, as sentence-transformers' trainer takes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rag_ft.records import Chunk, QAPair
from rag_ft.relevance import chunks_by_document, evidence_chunk_ids
from rag_ft.training.batches import Apart
from rag_ft.training.cloze import Cloze
from rag_ft.training.negatives import Searcher

TextOf = Callable[[Chunk], str]


@dataclass(frozen=True)
class Rows:
    """One list per column. `chunk_ids[i]` are the chunks of row i in column order: positive first and then negatives,
    or the k chunks that the LM scored, `scores[i]`, the proving one first where it is known. `proving[i]` are the
    chunks that prove its answer (several, where chunks overlap), its own first."""

    questions: list[str]
    chunk_ids: list[list[str]]
    texts: list[list[str]]
    proving: list[list[str]]
    scores: list[list[float]] = field(default_factory=list)
    notes: dict[str, Any] = field(default_factory=dict)

    def columns(self, query_prefix: str, chunk_prefix: str) -> dict[str, list[Any]]:
        """question, chunk_0, chunk_1, ..., label: prefixes in place, `label` the row's number."""
        columns: dict[str, list[Any]] = {
            "question": [query_prefix + question for question in self.questions]
        }
        for n in range(min(map(len, self.texts), default=0)):
            columns[f"chunk_{n}"] = [chunk_prefix + texts[n] for texts in self.texts]
        return {**columns, "label": list(range(len(self.questions)))}

    def apart(self) -> list[Apart]:
        """What keeps each row out of a batch: chunks count by id and by text, since two may read the same."""
        columns = zip(self.questions, self.texts, self.chunk_ids, self.proving, strict=True)
        return [
            Apart(frozenset([question, texts[0], *proving]), frozenset([question, *texts, *ids]))
            for question, texts, ids, proving in columns
        ]


def contrastive_rows(
    pairs: Sequence[QAPair],
    negatives: Mapping[str, Sequence[str]],
    chunks: Mapping[str, Chunk],
    text_of: TextOf,
) -> Rows:
    """A row a pair: its proving chunk, then its negatives."""
    ids = [[pair.chunk_id or "", *negatives[pair.id]] for pair in pairs]
    texts = [[text_of(chunks[i]) for i in row] for row in ids]
    of_document = chunks_by_document(chunks.values())
    proving = [evidence_chunk_ids(pair, of_document[pair.document_id or ""]) for pair in pairs]
    return Rows([p.question for p in pairs], ids, texts, proving)


def cloze_rows(clozes: Sequence[Cloze], text_of: TextOf) -> Rows:
    """A row a cloze: the rest of its chunk; the other rows of the batch are the negatives."""
    chunks = chunks_by_document(cloze.chunk for cloze in clozes)
    proving = [
        [
            c.chunk.id,
            *(
                o.id
                for o in chunks[c.chunk.document_id]
                if c.question in o.text and o.id != c.chunk.id
            ),
        ]
        for c in clozes
    ]
    ids, texts = [[c.chunk.id] for c in clozes], [[text_of(c.chunk)] for c in clozes]
    return Rows([c.question for c in clozes], ids, texts, proving)


def retrieved_chunks(
    pairs: Sequence[QAPair], retriever: Searcher, chunks: Mapping[str, Chunk], k: int, depth: int
) -> dict[str, list[str]]:
    """The k chunks of each pair that the LM scores: the pair's own first, then the closest ones the encoder finds
    among `chunks` (those that may be trained on). Pairs that get fewer than k are left out."""
    rankings = retriever.search([pair.question for pair in pairs], depth, "dense")
    found = {}
    for pair, ranking in zip(pairs, rankings, strict=True):
        own = [pair.chunk_id] if pair.chunk_id in chunks else []
        ids = list(
            dict.fromkeys([*own, *(chunk_id for chunk_id, _ in ranking if chunk_id in chunks)])
        )[:k]
        if len(ids) == k:
            found[pair.id] = [i for i in ids if i]
    return found
