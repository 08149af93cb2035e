"""What the retriever is trained on: which pairs, the questions made from the corpus alone, the rows
of a phase, and their dataset for sentence-transformers."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_ft.chunk_store import ChunkStore
from rag_ft.documents.sentences import split_sentences
from rag_ft.relevance import gold_by_pair
from rag_ft.run_dir import RunDir
from rag_ft.schema import Chunk, QAPair, Reject
from rag_ft.storage import content_hash, read_rows
from rag_ft.training.dev_split import select_train_dev

if TYPE_CHECKING:
    from datasets import Dataset

TextOf = Callable[[Chunk], str]
LEAST_WORDS = 5  # of a sentence that serves as a question
KEPT_SHARE = 0.1  # of trained clozes keep their sentence, so that exact words still count


# The pairs: those to train on, and those that decide.


@dataclass(frozen=True)
class Pairs:
    """The pairs of a run that may be trained on or selected by.

    `train` and `dev` share no document; neither contains anything of a test document. `gold` are
    the gold chunk ids by dev pair id. `chunks` are those of train documents alone, by id;
    `dev_chunks` those of the others. `clozed`: where dev pairs are clozes, the chunks they ask for
    as they are searched, without the sentence. `pooled`: dev pairs are among those to train on.
    """

    train: list[QAPair]
    dev: list[QAPair]
    gold: dict[str, set[str]]
    chunks: dict[str, Chunk]
    dev_chunks: dict[str, Chunk]
    rejects: list[Reject] = field(default_factory=list)
    clozed: dict[str, Chunk] = field(default_factory=dict)
    pooled: bool = False


def select_pairs(run_dir: RunDir, store: ChunkStore, similarity: float) -> Pairs:
    """Answerable pairs of the run: those of train documents to train on, those of dev documents to
    select by.

    Pairs that are left out get a Reject: train pairs that ask what a test pair asks, and dev pairs
    without a gold chunk, on which nothing can be measured.

    Args:
        run_dir: the run, whose pairs and documents are read.
        store: its chunks.
        similarity: 0-1, from which on two documents are near-duplicates (see `select_train_dev`).

    Raises:
        DataError: something of a test document is among the pairs to train on.
    """
    split = select_train_dev(run_dir, store, similarity, answerable=True)
    chunks = {chunk.id: chunk for chunk in store.of_splits({"train", "dev"})}
    dev_chunks = {i: c for i, c in chunks.items() if c.document_id in split.dev_documents}

    # Recall is measured where the right chunks are known.
    gold, rejects = gold_by_pair(split.dev, dev_chunks.values()), list(split.rejects)
    for pair in split.dev:
        if not gold[pair.id]:
            rejects.append(Reject(pair.id, "dev pair without a gold chunk", pair.question))
    return Pairs(
        train=split.train,
        dev=[pair for pair in split.dev if gold[pair.id]],
        gold=gold,
        chunks={i: c for i, c in chunks.items() if i not in dev_chunks},
        dev_chunks=dev_chunks,
        rejects=rejects,
    )


def pool(pairs: Pairs) -> Pairs:
    """All pairs as pairs to train on."""
    train, chunks = [*pairs.train, *pairs.dev], {**pairs.chunks, **pairs.dev_chunks}
    return replace(pairs, train=train, dev=[], gold={}, chunks=chunks, dev_chunks={}, pooled=True)


def with_cloze_dev(pairs: Pairs, seed: int) -> Pairs:
    """The pairs with clozes of the dev chunks as dev pairs, if there are no dev pairs.

    They measure a training without questions: a sentence of each dev chunk asks for the rest of
    its chunk.
    """
    if pairs.dev:
        return pairs
    dev, gold, clozed = [], {}, {}
    for cloze in make_clozes(pairs.dev_chunks.values(), 1, seed, kept_share=0):
        dev.append(
            QAPair(
                id=cloze.id,
                question=cloze.question,
                answers=(),
                chunk_id=cloze.chunk.id,
                document_id=cloze.chunk.document_id,
                evidence=None,
                kind="factoid",
                split="dev",
                origin="generated",
            )
        )
        gold[cloze.id] = {cloze.chunk.id}
        clozed[cloze.chunk.id] = cloze.chunk
    return replace(pairs, dev=dev, gold=gold, clozed=clozed)


def with_positive(pairs: Iterable[QAPair], chunks: Mapping[str, Chunk]) -> list[QAPair]:
    """Pairs whose own chunk is known and may be trained on."""
    return [pair for pair in pairs if pair.chunk_id in chunks]


# Questions made from the corpus alone.


@dataclass(frozen=True)
class Cloze:
    """`question` is a sentence of the chunk; `chunk` has the same id, its text mostly without that
    sentence."""

    id: str
    question: str
    chunk: Chunk


def make_clozes(
    chunks: Iterable[Chunk], per_chunk: int, seed: int, kept_share: float = KEPT_SHARE
) -> Iterator[Cloze]:
    """The inverse cloze task (Lee et al. 2019): a sentence is the question, the rest of its chunk
    is the positive.

    Args:
        chunks: chunks with fewer than two sentences of LEAST_WORDS words are passed over.
        per_chunk: most sentences of one chunk.
        seed: of the draw, which depends on it and the chunk alone.
        kept_share: share (0-1) of the clozes whose chunk keeps the sentence.
    """
    for chunk in chunks:
        rng = random.Random(content_hash(seed, chunk.id, chunk.text))
        spans = []
        for start, end in split_sentences(chunk.text):
            if len(chunk.text[start:end].split()) >= LEAST_WORDS:
                spans.append((start, end))
        if len(spans) < 2:
            continue
        for number, (start, end) in enumerate(rng.sample(spans, min(per_chunk, len(spans)))):
            rest = chunk.text
            if rng.random() >= kept_share:
                rest = f"{chunk.text[:start]}{chunk.text[end:].lstrip()}".strip()
            yield Cloze(f"{chunk.id}/{number}", chunk.text[start:end], replace(chunk, text=rest))


# The rows of a phase.


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

    All rows have as many negatives as the pair with the most. Pairs with fewer get no row, so that
    they do not cost the other rows theirs.

    Args:
        pairs: each with a chunk_id among `chunks`.
        negatives: chunk ids by pair id.
        chunks: by id.
        text_of: what the encoder reads of a chunk.
    """
    most = max(map(len, negatives.values()), default=0)
    rows = []
    for pair in pairs:
        if len(negatives[pair.id]) < most:
            continue
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
    scores: Mapping[tuple[str, str], float] | None,
    chunks: Mapping[str, Chunk],
    text_of: TextOf,
) -> list[TrainingRow]:
    """A row for each pair: the chunks retrieved for it, with the language model's scores.

    Args:
        pairs: those to make rows of.
        retrieved: chunk ids by pair id.
        scores: by (pair id, chunk id); None where the language model was not asked.
        chunks: by id.
        text_of: what the encoder reads of a chunk.
    """
    rows = []
    for pair in pairs:
        ids = retrieved[pair.id]
        score_of = {i: None if scores is None else scores[pair.id, i] for i in ids}
        row_chunks = tuple(RowChunk(i, text_of(chunks[i]), score_of[i]) for i in ids)
        gold = pair.chunk_id if pair.chunk_id in ids else None
        rows.append(TrainingRow(pair.id, pair.question, gold, row_chunks))
    return rows


def without_row(pairs: Iterable[QAPair], rows: Iterable[TrainingRow], detail: str) -> list[Reject]:
    """A Reject for each of the pairs that no row is made from."""
    with_row = {row.id for row in rows}
    return [Reject(p.id, "no training row", detail) for p in pairs if p.id not in with_row]


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
    of its chunks: sentence-transformers hands it to the loss. `with_chunk_ids` adds the column
    `chunk_ids`, for encoders whose chunk vectors stay as they are.

    Raises:
        ValueError: the rows do not all have the same number of chunks.
    """
    from datasets import Dataset

    num_chunks = len(rows[0].chunks) if rows else 0
    for row in rows:
        if len(row.chunks) != num_chunks:
            raise ValueError(f"{row.id} has {len(row.chunks)} chunks, {rows[0].id} {num_chunks}")

    columns: dict[str, list[Any]] = {"question": [query_prompt + row.question for row in rows]}
    for n in range(num_chunks):
        columns[f"chunk_{n}"] = [chunk_prompt + row.chunks[n].text for row in rows]
    if with_chunk_ids:
        columns["chunk_ids"] = [[chunk.id for chunk in row.chunks] for row in rows]
    if rows and all(chunk.score is not None for row in rows for chunk in row.chunks):
        columns["label"] = [[chunk.score for chunk in row.chunks] for row in rows]
    return Dataset.from_dict(columns)
