"""Which pairs the retriever is trained on, and which decide whether the result is any good."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from rag_ft.relevance import gold_by_pair
from rag_ft.run_dir import RunDir
from rag_ft.schema import Chunk, QAPair, Reject
from rag_ft.storage import ChunkStore, read_jsonl
from rag_ft.training.dev_split import split_train_dev, train_groups
from rag_ft.training.leakage import check_no_leakage, without_test_questions
from rag_ft.training.retriever.inverse_cloze import make_clozes


@dataclass(frozen=True)
class Pairs:
    """`train` and `dev` share no document; neither holds anything of a test document. `gold` are the gold chunk ids of
    each dev pair. `chunks` are those of the train documents alone, by id; `dev_chunks` those of the others.
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

    `split_train_dev` says which documents those are; `similarity` (0-1) is what makes two of them near-duplicates.
    Training pairs that ask what a test pair asks are left out, each with a Reject. Dev
    pairs without a gold chunk are left out: nothing can be measured on them.

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
    split = split_train_dev(usable, chunks.values(), lambda: train_groups(run_dir, similarity))
    dev_chunks = {i: c for i, c in chunks.items() if c.document_id in split.dev_documents}
    gold = gold_by_pair(split.dev, dev_chunks.values())
    return Pairs(
        train=split.train,
        dev=[p for p in split.dev if gold[p.id]],
        gold=gold,
        chunks={i: c for i, c in chunks.items() if i not in dev_chunks},
        dev_chunks=dev_chunks,
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
    """Pairs whose own chunk is known and may be trained on."""
    return [pair for pair in pairs if pair.chunk_id in chunks]
