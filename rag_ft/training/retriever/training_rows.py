"""The rows that the retriever is trained on, and their dataset for sentence-transformers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_ft.schema import Chunk, QAPair
from rag_ft.storage import read_rows
from rag_ft.training.retriever.hard_negatives import Searcher
from rag_ft.training.retriever.inverse_cloze import Cloze

if TYPE_CHECKING:
    from datasets import Dataset

TextOf = Callable[[Chunk], str]


@dataclass(frozen=True)
class RowChunk:
    """A chunk of a training row. `text` is what the encoder reads; `score` is the language model's
    mean log-probability of the answer given this chunk, in nats, or None where it was not asked."""

    id: str
    text: str
    score: float | None = None


@dataclass(frozen=True)
class TrainingRow:
    """One question with its chunks; `id` is the id of the pair or cloze that it is made from.

    Contrastive rows hold the gold chunk first and then the negatives. LM-supervised rows hold the
    chunks that the language model scored, the gold chunk first where it may be trained on.
    `gold_chunk_id` is None where it is not among `chunks`.
    """

    id: str
    question: str
    gold_chunk_id: str | None
    chunks: tuple[RowChunk, ...]


def contrastive_rows(
    pairs: Iterable[QAPair],
    negatives: Mapping[str, Sequence[str]],
    chunks: Mapping[str, Chunk],
    text_of: TextOf,
) -> list[TrainingRow]:
    """A row for each pair: its gold chunk, then its negatives.

    Args:
        pairs: each with a chunk_id among `chunks`.
        negatives: chunk ids by pair id.
        chunks: by id.
        text_of: what the encoder reads of a chunk.
    """
    rows = []
    for pair in pairs:
        ids = [pair.chunk_id or "", *negatives[pair.id]]
        row_chunks = tuple(RowChunk(chunk_id, text_of(chunks[chunk_id])) for chunk_id in ids)
        rows.append(TrainingRow(pair.id, pair.question, pair.chunk_id, row_chunks))
    return rows


def cloze_rows(clozes: Iterable[Cloze], text_of: TextOf) -> list[TrainingRow]:
    """A row for each cloze: the rest of its chunk. Negatives are the other rows of the batch."""
    rows = []
    for cloze in clozes:
        rest = RowChunk(cloze.chunk.id, text_of(cloze.chunk))
        rows.append(TrainingRow(cloze.id, cloze.question, cloze.chunk.id, (rest,)))
    return rows


def scored_rows(
    pairs: Iterable[QAPair],
    retrieved: Mapping[str, Sequence[str]],
    scores: Mapping[tuple[str, str], float],
    chunks: Mapping[str, Chunk],
    text_of: TextOf,
) -> list[TrainingRow]:
    """A row for each pair: the chunks that the language model scored.

    Args:
        pairs: those to make rows of.
        retrieved: chunk ids by pair id, as many for every pair.
        scores: by (pair id, chunk id).
        chunks: by id.
        text_of: what the encoder reads of a chunk.
    """
    rows = []
    for pair in pairs:
        ids = retrieved[pair.id]
        row_chunks = tuple(RowChunk(i, text_of(chunks[i]), scores[pair.id, i]) for i in ids)
        gold = pair.chunk_id if pair.chunk_id in ids else None
        rows.append(TrainingRow(pair.id, pair.question, gold, row_chunks))
    return rows


def read_training_rows(path: Path) -> list[TrainingRow]:
    """The rows of a file that `write_jsonl` wrote."""
    return [
        TrainingRow(**{**row, "chunks": tuple(RowChunk(**chunk) for chunk in row["chunks"])})
        for row in read_rows(path)
    ]


def to_dataset(
    rows: Sequence[TrainingRow], query_prompt: str, chunk_prompt: str, with_chunk_ids: bool = False
) -> Dataset:
    """The columns question, chunk_0, chunk_1, ..., with the prompts in front of the texts.

    Where the language model scored the chunks, the column `label` holds a row's scores in the order
    of its chunks: sentence-transformers hands it to the loss. Every row gets as many chunks as the
    shortest one has. `with_chunk_ids` adds the column `chunk_ids`, for encoders whose chunk vectors
    stay as they are.
    """
    from datasets import Dataset

    num_chunks = min((len(row.chunks) for row in rows), default=0)
    columns: dict[str, list[Any]] = {"question": [query_prompt + row.question for row in rows]}
    for n in range(num_chunks):
        columns[f"chunk_{n}"] = [chunk_prompt + row.chunks[n].text for row in rows]
    if with_chunk_ids:
        columns["chunk_ids"] = [[chunk.id for chunk in row.chunks[:num_chunks]] for row in rows]
    if rows and all(chunk.score is not None for row in rows for chunk in row.chunks):
        columns["label"] = [[chunk.score for chunk in row.chunks[:num_chunks]] for row in rows]
    return Dataset.from_dict(columns)


def retrieved_chunks(
    pairs: Sequence[QAPair], retriever: Searcher, chunks: Mapping[str, Chunk], k: int, depth: int
) -> dict[str, list[str]]:
    """The k chunk ids of each pair that the language model scores, by pair id.

    The gold chunk comes first, then the closest ones that the encoder finds among `chunks` (those
    that may be trained on). Pairs that get fewer than k are left out.
    """
    rankings = retriever.search([pair.question for pair in pairs], depth, "dense")
    found = {}
    for pair, ranking in zip(pairs, rankings, strict=True):
        gold = [pair.chunk_id] if pair.chunk_id and pair.chunk_id in chunks else []
        closest = (chunk_id for chunk_id, _ in ranking if chunk_id in chunks)
        ids = list(dict.fromkeys([*gold, *closest]))[:k]
        if len(ids) == k:
            found[pair.id] = ids
    return found
