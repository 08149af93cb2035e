"""qa.jsonl -> the formats that other tools train and measure with, written to a path or any fsspec address."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from rag_ft.commands.arguments import checked_config_of
from rag_ft.commands.upload import publish
from rag_ft.config import Config
from rag_ft.errors import ConfigError, DataError
from rag_ft.llm.interface import Messages
from rag_ft.relevance import gold_chunk_ids, gold_chunks, locate
from rag_ft.schema import SPLITS, Chunk, QAPair, Split
from rag_ft.session import Session
from rag_ft.storage import ChunkStore, batched, read_jsonl, write_jsonl

SEARCH_BATCH = 64


def export(
    config: Config,
    format: str,
    to: str,
    with_context: bool = False,
    splits: Sequence[Split] | None = None,
) -> dict[str, int]:
    """Writes the accepted pairs of a run; returns {"rows": written, "left_out": pairs the format has no place for}.

    Args:
        config: of the run.
        format: openai, gemini, sharegpt, alpaca, trl: one tuning example a line; squad: one SQuAD v2 JSON file over
            the chunks; beir: a folder with corpus.jsonl, queries.jsonl and qrels/<split>.tsv.
        to: a path or an fsspec address (s3://, gs://, hf://, ...). A file appears whole or not at all.
        with_context: tuning formats: put the question in the serving prompt, with the chunks that the serving
            retriever finds; where none of them proves the answer, the pair's own chunk takes the last place.
        splits: pairs of these splits. None: train, and for beir all three.

    Raises:
        ConfigError: an unknown format, or an address that cannot be written to.
        DataError: the run has no pairs.
    """
    if format not in FORMATS:
        raise ConfigError(f"no export format '{format}': choose from {', '.join(FORMATS)}")
    session = Session.of(config)
    run_dir = session.run_dir
    if not run_dir.qa.exists():
        raise DataError(f"{run_dir.qa} does not exist: run `rag-ft generate CONFIG` first")
    wanted = splits or (SPLITS if format == "beir" else ("train",))
    task = _Task(session, tuple(wanted), with_context)

    def write(target: Path) -> None:
        FORMATS[format](task, target)
        if not task.counts["rows"]:
            raise DataError(
                f"no pair of {run_dir.qa} in the splits {', '.join(wanted)} fits the format {format}"
            )

    publish(write, to, is_folder=format == "beir")
    return task.counts


@dataclass
class _Task:
    """One export; `counts` is filled while writing."""

    session: Session
    splits: tuple[Split, ...]
    with_context: bool
    counts: dict[str, int] = field(default_factory=lambda: {"rows": 0, "left_out": 0})

    def pairs(self) -> Iterator[QAPair]:
        return (
            pair
            for pair in read_jsonl(self.session.run_dir.qa, QAPair)
            if pair.split in self.splits
        )

    def count(self, is_written: bool) -> bool:
        self.counts["rows" if is_written else "left_out"] += 1
        return is_written


def _tuning(shape: Callable[[Messages, str], dict[str, Any]]) -> Callable[[_Task, Path], None]:
    def write(task: _Task, target: Path) -> None:
        examples = _examples_in_context(task) if task.with_context else _plain_examples(task)
        write_jsonl(target, (shape(messages, answer) for messages, answer in examples))

    return write


def _plain_examples(task: _Task) -> Iterator[tuple[Messages, str]]:
    """The bare question; unanswerable ones are left out, since without chunks nothing tells them from the others."""
    for pair in task.pairs():
        if task.count(pair.answerable):
            yield ({"role": "user", "content": pair.question},), pair.answer


def _examples_in_context(task: _Task) -> Iterator[tuple[Messages, str]]:
    session = task.session
    retriever = session.retriever(tuned=session.serves_tuned_retriever)
    for batch in batched(task.pairs(), SEARCH_BATCH):
        found = retriever.search([pair.question for pair in batch], session.config.retrieval.top_k)
        for pair, hits in zip(batch, found, strict=True):
            chunks = [session.chunks[chunk_id] for chunk_id, _ in hits]
            context = _with_gold(pair, chunks, session.chunks)
            if task.count(context is not None):
                yield session.answer_prompt.messages(pair.question, context or ()), pair.answer


def _with_gold(pair: QAPair, found: list[Chunk], chunks: ChunkStore) -> list[Chunk] | None:
    """The chunks found, with a gold chunk among them; None where no gold chunk is known."""
    if not pair.answerable:
        return found
    if not pair.chunk_id:
        return None
    own = chunks[pair.chunk_id]
    shows_gold = not gold_chunk_ids(pair, [*found, own]).isdisjoint(c.id for c in found)
    return found if shows_gold else [*found[:-1], own]


def _openai(messages: Messages, answer: str) -> dict[str, Any]:
    return {"messages": [*messages, {"role": "assistant", "content": answer}]}


def _gemini(messages: Messages, answer: str) -> dict[str, Any]:
    turns = [("user", message["content"]) for message in messages] + [("model", answer)]
    return {"contents": [{"role": role, "parts": [{"text": text}]} for role, text in turns]}


def _sharegpt(messages: Messages, answer: str) -> dict[str, Any]:
    turns = [("human", message["content"]) for message in messages] + [("gpt", answer)]
    return {"conversations": [{"from": speaker, "value": text} for speaker, text in turns]}


def _alpaca(messages: Messages, answer: str) -> dict[str, Any]:
    return {"instruction": messages[0]["content"], "input": "", "output": answer}


def _trl(messages: Messages, answer: str) -> dict[str, Any]:
    return {"prompt": list(messages), "completion": [{"role": "assistant", "content": answer}]}


def _beir(task: _Task, folder: Path) -> None:
    """The chunks as corpus, answerable questions as queries, and the chunks that hold the evidence as relevant."""
    corpus = ({"_id": c.id, "title": c.title, "text": c.text} for c in task.session.chunks)
    write_jsonl(folder / "corpus.jsonl", corpus)
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    tables = {
        split: (folder / "qrels" / f"{split}.tsv").open("w", encoding="utf-8")
        for split in task.splits
    }
    try:
        for table in tables.values():
            table.write("query-id\tcorpus-id\tscore\n")
        write_jsonl(folder / "queries.jsonl", _beir_queries(task, tables))
    finally:
        for table in tables.values():
            table.close()


def _beir_queries(task: _Task, tables: dict[Split, Any]) -> Iterator[dict[str, Any]]:
    for pair, chunks in _with_chunks(task):
        gold = gold_chunks(pair, chunks)
        if task.count(bool(gold)):
            for chunk in gold:
                tables[pair.split].write(f"{pair.id}\t{chunk.id}\t1\n")
            yield {
                "_id": pair.id,
                "text": pair.question,
                "metadata": {"answers": pair.answers, "kind": pair.kind},
            }


def _with_chunks(task: _Task) -> Iterator[tuple[QAPair, list[Chunk]]]:
    """Each pair with all chunks of its document; pairs and chunks are in the same order of documents."""
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


def _squad(task: _Task, target: Path) -> None:
    """Streams one JSON file, a document at a time."""
    with target.open("w", encoding="utf-8", newline="\n") as out:
        out.write('{"version": "v2.0", "data": [')
        first = True
        for _, group in groupby(_with_chunks(task), key=lambda item: item[0].document_id):
            if article := _article(task, group):
                out.write(("\n" if first else ",\n") + json.dumps(article, ensure_ascii=False))
                first = False
        out.write("\n]}\n")


def _article(task: _Task, items: Iterable[tuple[QAPair, list[Chunk]]]) -> dict[str, Any] | None:
    paragraphs: dict[str, dict[str, Any]] = {}
    title = ""
    for pair, chunks in items:
        chunk_id = pair.chunk_id or pair.provenance.get("chunk_id")
        chunk = next((chunk for chunk in chunks if chunk.id == chunk_id), None)
        question = _squad_question(pair, chunk) if chunk else None
        if task.count(question is not None) and chunk:
            title = chunk.title
            paragraphs.setdefault(chunk.id, {"context": chunk.text, "qas": []})["qas"].append(
                question
            )
    return {"title": title, "paragraphs": list(paragraphs.values())} if paragraphs else None


def _squad_question(pair: QAPair, chunk: Chunk) -> dict[str, Any] | None:
    """None where the answer is no span of the chunk."""
    question = {
        "id": pair.id,
        "question": pair.question,
        "is_impossible": not pair.answerable,
        "answers": [],
    }
    if not pair.answerable:
        return question
    near = (
        (pair.evidence.start - chunk.start, pair.evidence.end - chunk.start)
        if pair.evidence
        else None
    )
    spans = [span for answer in pair.answers if (span := locate(answer, chunk.text, near))]
    question["answers"] = [
        {"text": chunk.text[start:end], "answer_start": start} for start, end in spans
    ]
    return question if spans else None


FORMATS: dict[str, Callable[[_Task, Path], None]] = {
    "openai": _tuning(_openai),
    "gemini": _tuning(_gemini),
    "sharegpt": _tuning(_sharegpt),
    "alpaca": _tuning(_alpaca),
    "trl": _tuning(_trl),
    "beir": _beir,
    "squad": _squad,
}


def export_command(args: argparse.Namespace) -> None:
    """`rag-ft export`."""
    config = checked_config_of(args, "ingest", "index", "generate", "train_retriever")
    print(export(config, args.format, args.to, args.with_context))
