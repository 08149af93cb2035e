"""qa.jsonl -> the formats of other tools, written to a path or any fsspec address."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from rag_ft.chunk_store import ChunkStore
from rag_ft.commands.arguments import checked_config_of
from rag_ft.config import Config
from rag_ft.errors import ConfigError, DataError
from rag_ft.integrations import export_rows as rows
from rag_ft.llm.interface import Messages
from rag_ft.relevance import gold_chunk_ids, gold_chunks, locate
from rag_ft.schema import SPLITS, Chunk, QAPair, Split
from rag_ft.session import Session
from rag_ft.storage import batched, read_jsonl, temporary_beside, write_jsonl
from rag_ft.terminal import say
from rag_ft.text import cell_id

SEARCH_BATCH = 64  # questions
WRITE_ERRORS = (OSError, ValueError, RuntimeError, ImportError)


def export(
    config: Config,
    format: str,
    to: str,
    with_context: bool = False,
    splits: Sequence[Split] | None = None,
) -> dict[str, int]:
    """Writes the accepted pairs of a run; returns {"rows": written, "left_out": pairs that the
    format cannot express}.

    Args:
        config: of the run.
        format: openai, gemini, sharegpt, alpaca, trl: one tuning example a line; squad: one SQuAD
            v2 JSON file over the chunks; beir: a folder with corpus.jsonl, queries.jsonl and
            qrels/<split>.tsv.
        to: a path or an fsspec address (s3://, gs://, hf://, ...). A file appears whole or not at
            all.
        with_context: tuning formats: put the question in the serving prompt, with the chunks that
            the serving retriever finds; where none of them is a gold chunk, the pair's own chunk
            replaces the last one.
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
    # A test collection needs every split, a training set only pairs to train on.
    wanted = splits or (SPLITS if format == "beir" else ("train",))
    task = Task(session, tuple(wanted), with_context)

    def write(target: Path) -> None:
        FORMATS[format](task, target)
        if not task.counts["rows"]:
            raise DataError(
                f"no pair of {run_dir.qa} in the splits {', '.join(wanted)} fits the format "
                f"{format}: name other splits, or another format"
            )

    publish(write, to, is_folder=format == "beir")
    return task.counts


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


# --- tuning examples


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
                out.write(separator + json.dumps(article, ensure_ascii=False))
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


FORMATS: dict[str, Callable[[Task, Path], None]] = {
    "openai": tuning(rows.openai_row),
    "gemini": tuning(rows.gemini_row),
    "sharegpt": tuning(rows.sharegpt_row),
    "alpaca": tuning(rows.alpaca_row),
    "trl": tuning(rows.trl_row),
    "beir": write_beir,
    "squad": write_squad,
}

# --- where the files go


def publish(write: Callable[[Path], None], to: str, is_folder: bool) -> None:
    """Calls `write` with a temporary local path, which for a folder exists, and moves what it made
    to `to`. A file that is there is replaced; a half-written one never has the name.

    Raises:
        ConfigError: the address is unknown, needs a package that is not installed, or cannot be
            written to; or a folder is there already.
    """
    if "://" not in to:
        publish_here(write, Path(to).expanduser(), is_folder)
        return
    import fsspec
    from fsspec.implementations.local import LocalFileSystem

    try:
        fs, path = fsspec.core.url_to_fs(to)
    except WRITE_ERRORS as error:
        raise cannot_write(to, error) from error
    if isinstance(fs, LocalFileSystem):
        publish_here(write, Path(path), is_folder)
        return
    # Made here first: what cannot be written whole is never uploaded.
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "export"
        if is_folder:
            made.mkdir()
        write(made)
        files = sorted(file for file in [made, *made.rglob("*")] if file.is_file())
        try:
            # Files get their names when the transaction ends, or not at all.
            with fs.transaction:
                for file in files:
                    inside = file.relative_to(made).as_posix()
                    target = f"{path.rstrip('/')}/{inside}" if is_folder else path
                    fs.makedirs(fs._parent(target), exist_ok=True)
                    with file.open("rb") as source, fs.open(target, "wb") as out:
                        shutil.copyfileobj(source, out)
        except WRITE_ERRORS as error:
            raise cannot_write(to, error) from error


def publish_here(write: Callable[[Path], None], target: Path, is_folder: bool) -> None:
    """As `publish`, to a path of this machine: a temporary name beside it, and a rename. (fsspec's
    own transaction moves from the system's temporary folder: across disks, that is a copy.)"""
    if target.is_dir() and not (is_folder and not any(target.iterdir())):
        raise ConfigError(f"{target} is a folder that exists: name a new one, or a new file")
    made = None
    try:
        made = temporary_beside(target)
        if is_folder:
            made.mkdir()
        write(made)
        os.replace(made, target)
    except OSError as error:
        raise cannot_write(str(target), error) from error
    finally:
        if made and is_folder:
            shutil.rmtree(made, ignore_errors=True)
        elif made:
            made.unlink(missing_ok=True)


def cannot_write(to: str, error: Exception) -> ConfigError:
    """The one-line error; a missing package is named with its installation."""
    missing = error if isinstance(error, ModuleNotFoundError) else error.__cause__
    if isinstance(missing, ModuleNotFoundError) and missing.name:
        package = missing.name.split(".")[0]
        return ConfigError(
            f"cannot write to {to}: the package {package} is not installed (pip install {package})"
        )
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return ConfigError(f"cannot write to {to} ({reason}): check --to and your rights")


def export_command(args: argparse.Namespace) -> None:
    """`rag-ft export`."""
    config = checked_config_of(
        args, "ingest", "index", "generate", "train_retriever", "train_reranker"
    )
    say(str(export(config, args.format, args.to, args.with_context)))
