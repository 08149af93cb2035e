"""Which pairs the retriever is trained on, and which decide whether the result is any good."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from rag_ft.metrics.retrieval import gold_chunk_ids
from rag_ft.paths import RunDir
from rag_ft.records import Chunk, ChunkStore, QAPair, Reject, read_jsonl
from rag_ft.training.cloze import make_clozes
from rag_ft.training.held_out import held_out, train_groups
from rag_ft.training.leakage import check_no_leakage, without_test_questions
from rag_ft.training.rows import by_document

LEAST_DEV_QUESTIONS = 20  # fewer cannot tell a gain from a loss: part of train then joins them
DEV_SHARE = 0.15  # of the train documents, by hash of their ids


@dataclass(frozen=True)
class Pairs:
    """`train` and `dev` share no document; neither holds anything of a test document. `gold` are the chunk ids that
    prove a dev pair. `chunks` are those of the train documents alone, by id; `dev_chunks` those of the others.
    `clozed`: where dev pairs are clozes, the chunks they ask for as they are searched, without the sentence."""

    train: list[QAPair]
    dev: list[QAPair]
    gold: dict[str, set[str]]
    chunks: dict[str, Chunk]
    dev_chunks: dict[str, Chunk]
    rejects: list[Reject] = field(default_factory=list)
    clozed: dict[str, Chunk] = field(default_factory=dict)


def select_pairs(run_dir: RunDir, store: ChunkStore, similarity: float) -> Pairs:
    """Answerable pairs of the run: those of train documents to train on, those of dev documents to decide by.

    Where there are fewer than LEAST_DEV_QUESTIONS dev questions, DEV_SHARE of the train documents serve as dev too (of
    those with questions; where there are none and no dev document either, of all), near-duplicates together:
    `similarity` is what makes them (ingest.advanced.near_duplicate_similarity).
    Training pairs that ask what a test pair asks are left out, each with a Reject.

    Raises:
        DataError: something of a test document is among the pairs to train on.
    """
    everything = list(read_jsonl(run_dir.qa, QAPair))
    heldout = [pair for pair in everything if pair.split == "test"]
    chunks = {chunk.id: chunk for chunk in store.of_splits({"train", "dev"})}
    usable, rejects = without_test_questions(
        (p for p in everything if p.split != "test" and p.answerable), heldout
    )
    check_no_leakage(usable, heldout, store.of_splits({"test"}))
    dev_documents = _dev_documents(
        usable, chunks.values(), lambda: train_groups(run_dir, similarity)
    )
    chunks_of = by_document(c for c in chunks.values() if c.document_id in dev_documents)
    dev = [p for p in usable if p.document_id in dev_documents]
    gold = {p.id: gold_chunk_ids(p, chunks_of[p.document_id or ""]) for p in dev}
    return Pairs(
        train=[p for p in usable if p.document_id not in dev_documents and p.split == "train"],
        dev=[p for p in dev if gold[p.id]],
        gold=gold,
        chunks={i: c for i, c in chunks.items() if c.document_id not in dev_documents},
        dev_chunks={i: c for i, c in chunks.items() if c.document_id in dev_documents},
        rejects=rejects,
    )


def with_cloze_dev(pairs: Pairs, seed: int) -> Pairs:
    """Where nobody asked about a dev document, what training without questions is judged by: a sentence of each dev
    chunk asks for the rest of its chunk."""
    if pairs.dev:
        return pairs
    clozes = list(make_clozes(pairs.dev_chunks.values(), 1, seed, kept_share=0))
    dev = [
        QAPair(
            c.id,
            c.question,
            (),
            c.chunk.id,
            c.chunk.document_id,
            None,
            "factoid",
            "dev",
            "generated",
        )
        for c in clozes
    ]
    gold = {pair.id: {cloze.chunk.id} for pair, cloze in zip(dev, clozes, strict=True)}
    return replace(
        pairs, dev=dev, gold=gold, clozed={cloze.chunk.id: cloze.chunk for cloze in clozes}
    )


def with_positive(pairs: Iterable[QAPair], chunks: dict[str, Chunk]) -> list[QAPair]:
    """Pairs whose proving chunk is known and may be trained on."""
    return [pair for pair in pairs if pair.chunk_id in chunks]


def _dev_documents(
    pairs: Sequence[QAPair], chunks: Iterable[Chunk], groups: Callable[[], Mapping[str, str]]
) -> set[str]:
    split_of = {chunk.document_id: chunk.split for chunk in chunks}
    dev = {document_id for document_id, split in split_of.items() if split == "dev"}
    if sum(pair.document_id in dev for pair in pairs) >= LEAST_DEV_QUESTIONS:
        return dev
    asked = {p.document_id for p in pairs if p.document_id in split_of} or (
        set() if dev else set(split_of)
    )
    return dev | held_out(asked - dev, groups(), DEV_SHARE)
