"""Pairs and the served index -> the formats of other tools, written to a path or any fsspec
address."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from rag_ft.chunk_store import ChunkStore
from rag_ft.commands.arguments import checked_config_of
from rag_ft.config import Config
from rag_ft.document_store import DocumentStore
from rag_ft.errors import ConfigError, DataError
from rag_ft.freshness import require_pairs
from rag_ft.integrations import argilla, label_studio, spreadsheets
from rag_ft.integrations import export_rows as rows
from rag_ft.integrations.vector_stores import INDEX_FORMATS, IndexedChunk
from rag_ft.llm.interface import Messages
from rag_ft.publishing import note_copy, publish
from rag_ft.relevance import gold_chunk_ids, gold_chunks, locate
from rag_ft.retrieval.index_files import open_vectors, read_manifest
from rag_ft.review.deck import open_deck
from rag_ft.review.exchange import ReviewRow, review_rows
from rag_ft.run_dir import RunDir
from rag_ft.schema import SPLITS, Chunk, QAPair, Split
from rag_ft.session import Session
from rag_ft.storage import batched, json_text, read_jsonl, write_jsonl
from rag_ft.terminal import say
from rag_ft.text import cell_id

SEARCH_BATCH = 64  # questions
VECTOR_BATCH = 1024


def export(
    config: Config,
    format: str,
    to: str,
    with_context: bool = False,
    splits: Sequence[Split] | None = None,
) -> dict[str, int]:
    """Writes the accepted pairs of a run, or its index; returns {"rows": written, "left_out": pairs
    that the format cannot express}.

    Args:
        config: of the run.
        format: openai, gemini, sharegpt, alpaca, trl: one tuning example a line; squad: one SQuAD
            v2 JSON file over the chunks; beir: a folder with corpus.jsonl, queries.jsonl and
            qrels/<split>.tsv; csv, xlsx, argilla: a file for review, label-studio: a folder. The
            served index instead of pairs: parquet: a file; qdrant, elasticsearch, opensearch: a
            folder.
        to: a path or an fsspec address (s3://, gs://, hf://, ...). A file appears whole or not at
            all.
        with_context: tuning formats: put the question in the serving prompt, with the chunks that
            the serving retriever finds; where none of them is a gold chunk, the pair's own chunk
            replaces the last one.
        splits: pairs of these splits. None: train, and for beir and review all three.

    Raises:
        ConfigError: an unknown format, or an address that cannot be written to.
        DataError: the run has no pairs.
    """
    session = Session.of(config)
    if format in INDEX_FORMATS:
        tuned, encoder = session.serves_tuned_retriever, str(config.encoder.model)
        return export_index(session.run_dir, tuned, encoder, format, to)
    if format not in FORMATS:
        known = ", ".join((*FORMATS, *INDEX_FORMATS))
        raise ConfigError(f"no export format '{format}': choose from {known}")
    run_dir = session.run_dir
    require_pairs(run_dir)
    # A test collection needs every split, a training set only pairs to train on.
    wanted = splits or (SPLITS if format in ("beir", *REVIEW_FORMATS) else ("train",))
    task = Task(session, tuple(wanted), with_context)

    def write(target: Path) -> None:
        FORMATS[format](task, target)
        if not task.counts["rows"]:
            raise DataError(
                f"no pair of {run_dir.qa} in the splits {', '.join(wanted)} fits the format "
                f"{format}: name other splits, or another format"
            )

    publish(write, to, is_folder=format in ("beir", "label-studio"))
    note_copy(run_dir, "export", to)
    return task.counts


def export_index(
    run_dir: RunDir, tuned: bool, encoder: str, format: str, to: str
) -> dict[str, int]:
    """Writes the index of the tuned encoder or of `encoder`, with the texts and their documents'
    metadata.

    Raises:
        ConfigError: the address cannot be written to.
        DataError: the run has no finished index of its chunks.
    """
    chunks = ChunkStore(run_dir.chunks)
    folder = run_dir.retriever_index if tuned else run_dir.index
    manifest = read_manifest(folder)
    if manifest.num_chunks != len(chunks):
        raise DataError(f"{folder} is not the index of {run_dir.chunks}: run index again")
    name = run_dir.retriever.name if tuned else encoder
    about = {"encoder": name, "fingerprint": manifest.encoder, "context": manifest.context}
    counts = {"rows": 0}

    def rows() -> Iterator[IndexedChunk]:
        documents, vectors = DocumentStore(run_dir.documents), open_vectors(folder)
        owner, metadata, first = "", dict[str, Any](), 0
        for batch in batched(chunks, VECTOR_BATCH):
            found = vectors[first : first + len(batch)]
            first += len(batch)
            for chunk, vector in zip(batch, found, strict=True):
                if chunk.document_id != owner:
                    owner, metadata = chunk.document_id, documents[chunk.document_id].metadata
                yield IndexedChunk(chunk, vector, metadata)

    def write(target: Path) -> None:
        counts["rows"] = INDEX_FORMATS[format](rows(), manifest.dim, about, target)

    publish(write, to, is_folder=format != "parquet")
    note_copy(run_dir, "export", to)
    return counts


@dataclass
class Task:
    """One export; `counts` is filled while writing."""

    session: Session
    splits: tuple[Split, ...]
    with_context: bool
    counts: dict[str, int] = field(default_factory=lambda: {"rows": 0, "left_out": 0})

    def pairs(self) -> Iterator[QAPair]:
        """The run's pairs of these splits, in file order."""
        pairs = read_jsonl(self.session.run_dir.qa, QAPair)
        return (pair for pair in pairs if pair.split in self.splits)

    def count(self, is_written: bool) -> bool:
        """Counts a pair as written or left out; returns `is_written`."""
        self.counts["rows" if is_written else "left_out"] += 1
        return is_written


# Tuning examples.


def tuning(shape: Callable[[Messages, str], dict[str, Any]]) -> Callable[[Task, Path], None]:
    """A writer of one tuning example a line; `shape` makes the row of messages and answer."""

    def write(task: Task, target: Path) -> None:
        examples = examples_in_context(task) if task.with_context else plain_examples(task)
        write_jsonl(target, (shape(messages, answer) for messages, answer in examples))

    return write


def plain_examples(task: Task) -> Iterator[tuple[Messages, str]]:
    """The bare question. Unanswerable ones are left out: without chunks they look like the
    others."""
    for pair in task.pairs():
        if task.count(pair.answerable):
            yield ({"role": "user", "content": pair.question},), pair.answer


def examples_in_context(task: Task) -> Iterator[tuple[Messages, str]]:
    """The prompt that is served, over the chunks that the serving retriever finds."""
    session, num = task.session, task.session.config.retrieval.num_shown
    retriever = session.retriever(session.tuned_components)
    for batch in batched(task.pairs(), SEARCH_BATCH):
        questions, filters = [pair.question for pair in batch], [pair.filters for pair in batch]
        found = retriever.search(questions, num, filters=filters)
        for pair, hits in zip(batch, found, strict=True):
            chunks = [session.chunks[chunk_id] for chunk_id, _ in hits]
            context = with_gold(pair, chunks, session.chunks)
            if task.count(context is not None):
                yield session.answer_prompt.messages(pair.question, context or ()), pair.answer


def with_gold(pair: QAPair, found: list[Chunk], chunks: ChunkStore) -> list[Chunk] | None:
    """The chunks found, with a gold chunk among them; None where no gold chunk is known."""
    if not pair.answerable:
        return found
    if not pair.chunk_id:
        return None
    own = chunks[pair.chunk_id]
    shows_gold = not gold_chunk_ids(pair, [*found, own]).isdisjoint(c.id for c in found)
    return found if shows_gold else [*found[:-1], own]


# Test collections.


def write_beir(task: Task, folder: Path) -> None:
    """The chunks as corpus, answerable questions as queries, gold chunks as relevant."""
    write_jsonl(folder / "corpus.jsonl", map(rows.beir_row, task.session.chunks))
    (folder / "qrels").mkdir()
    places = {split: folder / "qrels" / f"{split}.tsv" for split in task.splits}
    tables = {split: path.open("x", encoding="utf-8") for split, path in places.items()}

    def queries() -> Iterator[dict[str, Any]]:
        for pair, chunks in pairs_with_chunks(task):
            gold = gold_chunks(pair, chunks)
            if task.count(bool(gold)):
                for chunk in gold:
                    tables[pair.split].write(f"{cell_id(pair.id)}\t{cell_id(chunk.id)}\t1\n")
                metadata = {"answers": pair.answers, "kind": pair.kind}
                yield {"_id": cell_id(pair.id), "text": pair.question, "metadata": metadata}

    try:
        for table in tables.values():
            table.write("query-id\tcorpus-id\tscore\n")
        write_jsonl(folder / "queries.jsonl", queries())
    finally:
        for table in tables.values():
            table.close()


def write_squad(task: Task, target: Path) -> None:
    """Streams one SQuAD v2 JSON file, an article for each document with questions."""
    with target.open("x", encoding="utf-8", newline="\n") as out:
        out.write('{"version": "v2.0", "data": [')
        separator = "\n"
        for _, group in groupby(pairs_with_chunks(task), key=lambda item: item[0].document_id):
            title = ""
            paragraphs: dict[str, dict[str, Any]] = {}
            for pair, chunks in group:
                chunk_id = pair.chunk_id or pair.provenance.get("chunk_id")
                chunk = next((chunk for chunk in chunks if chunk.id == chunk_id), None)
                question = squad_question(pair, chunk) if chunk else None
                if task.count(question is not None) and chunk:
                    title = chunk.title
                    paragraph = {"context": chunk.text, "qas": []}
                    paragraphs.setdefault(chunk.id, paragraph)["qas"].append(question)
            if paragraphs:
                article = {"title": title, "paragraphs": list(paragraphs.values())}
                out.write(separator + json_text(article))
                separator = ",\n"
        out.write("\n]}\n")


def squad_question(pair: QAPair, chunk: Chunk) -> dict[str, Any] | None:
    """The pair as a question about the chunk; None where no answer is a span of the chunk."""
    # An answer in SQuAD is a span of the chunk: of several, the one nearest to the evidence.
    answers = []
    if pair.answerable:
        near = None
        if pair.evidence:
            near = (pair.evidence.start - chunk.start, pair.evidence.end - chunk.start)
        for answer in pair.answers:
            if span := locate(answer, chunk.text, near):
                text = chunk.text[span[0] : span[1]]
                answers.append({"text": text, "answer_start": span[0]})
        if not answers:
            return None
    row = {"id": pair.id, "question": pair.question, "is_impossible": not pair.answerable}
    return row | {"answers": answers}


def pairs_with_chunks(task: Task) -> Iterator[tuple[QAPair, list[Chunk]]]:
    """Each pair with all chunks of its document. Both files have the same order of documents, so
    that the chunks of one document are in memory at a time."""
    documents = groupby(task.session.chunks, key=lambda chunk: chunk.document_id)
    current: tuple[str | None, list[Chunk]] = (None, [])
    for pair in task.pairs():
        while pair.document_id is not None and current[0] != pair.document_id:
            found = next(documents, None)
            if found is None:
                run_dir = task.session.run_dir
                raise DataError(
                    f"{run_dir.qa} is not in the order of {run_dir.chunks}: run generate again"
                )
            current = (found[0], list(found[1]))
        yield pair, current[1] if pair.document_id is not None else []


# Review in another tool; `rag-ft import` reads what comes back.


def reviewing(
    write: Callable[[Iterable[ReviewRow], Path], None],
) -> Callable[[Task, Path], None]:
    """A writer of pairs for review, the most doubtful first."""

    def write_rows(task: Task, target: Path) -> None:
        deck = open_deck(task.session.run_dir, task.session.chunks)
        rows = (row for row in review_rows(deck) if row.card.pair.split in task.splits)
        write((row for row in rows if task.count(True)), target)

    return write_rows


REVIEW_FORMATS: dict[str, Callable[[Iterable[ReviewRow], Path], None]] = {
    "label-studio": label_studio.write,
    "argilla": argilla.write,
    "csv": spreadsheets.write_csv,
    "xlsx": spreadsheets.write_xlsx,
}
FORMATS: dict[str, Callable[[Task, Path], None]] = {
    "openai": tuning(rows.openai_row),
    "gemini": tuning(rows.gemini_row),
    "sharegpt": tuning(rows.sharegpt_row),
    "alpaca": tuning(rows.alpaca_row),
    "trl": tuning(rows.trl_row),
    "beir": write_beir,
    "squad": write_squad,
    **{name: reviewing(write) for name, write in REVIEW_FORMATS.items()},
}


def export_command(args: argparse.Namespace) -> None:
    """`rag-ft export`."""
    config = checked_config_of(
        args, "ingest", "index", "generate", "train_retriever", "train_reranker"
    )
    counts = export(config, args.format, args.to, args.with_context)
    left_out = counts.get("left_out", 0)
    rest = f"; {left_out:,} pairs do not fit this format and are left out" if left_out else ""
    say(f"{args.to}: {counts['rows']:,} rows{rest}")
