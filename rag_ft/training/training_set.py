"""Which pairs the generator is trained on, which decide when to stop, and the examples made of them."""

from __future__ import annotations

import dataclasses
import functools
import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rag_ft.config import Config
from rag_ft.documents.splits import hash_share
from rag_ft.errors import DataError
from rag_ft.llm.models import Messages
from rag_ft.paths import RunDir
from rag_ft.qa.prompts import load_prompts
from rag_ft.records import Chunk, QAPair, Reject, read_jsonl, read_rows, write_jsonl
from rag_ft.training.examples import Encode, Example, Layout, balance, drafts, finish
from rag_ft.training.leakage import check_chunks_allowed, check_no_leakage, without_test_questions
from rag_ft.training.replay import num_replayed, replay_examples, replay_prompts
from rag_ft.training.tokens import Encoded

DEV_SHARE = 0.1  # of the train documents, by hash of their ids, where no pair is of a dev document
MAX_DEV_EXAMPLES = 100
MAX_PLAIN_TEXTS = 32
EXTRA_HITS = 10  # beyond what is shown: distractors to choose from


@dataclass(frozen=True)
class TrainingSet:
    """`train` and `dev` examples share no document. `plain_texts`: chunks of dev documents, to see what the training
    does to the model's knowledge of plain language."""

    train: list[Example]
    dev: list[Example]
    plain_texts: list[str]


def select_pairs(run_dir: RunDir) -> tuple[list[QAPair], list[QAPair], list[Reject]]:
    """(pairs to train on, pairs that decide when to stop, pairs left out because a test pair asks the same).

    Raises:
        DataError: no pair of a train document, or something of a test document among the others.
    """
    everything = list(read_jsonl(run_dir.qa, QAPair))
    heldout = [p for p in everything if p.split == "test"]
    kept, rejects = without_test_questions((p for p in everything if p.split != "test"), heldout)
    check_no_leakage(kept, heldout, read_jsonl(run_dir.chunks, Chunk))
    train, dev = [p for p in kept if p.split == "train"], [p for p in kept if p.split == "dev"]
    if not dev:
        held = _held_documents(train)
        dev = [p for p in train if p.document_id in held]
        train = [p for p in train if p.document_id not in held]
    if not train:
        raise DataError(f"{run_dir.qa} has no pair of a train document: lower ingest.test_share, or add documents")
    return train, dev, rejects


def build_training_set(config: Config, run_dir: RunDir, encode: Encode, folder: Path) -> dict[str, int]:
    """Makes all examples and writes them to `folder` (train.jsonl, dev.jsonl, plain.jsonl), and rejects of the run.
    Returns counts of pairs. Whatever is there already is kept: it was made by the same settings."""
    pairs, dev_pairs, rejects = select_pairs(run_dir)
    counts = {"num_train_pairs": len(pairs), "num_dev_pairs": len(dev_pairs)}
    if (folder / "plain.jsonl").exists():
        return counts
    some_dev = _sample(dev_pairs, MAX_DEV_EXAMPLES, config.run.seed)
    train, dropped = make_examples(config, run_dir, pairs, encode)
    dev, dropped_dev = make_examples(config, run_dir, some_dev, encode)
    train += _replay(config, run_dir, pairs, encode, len(train))
    write_jsonl(run_dir.rejects("train_generator"), [*rejects, *dropped, *dropped_dev])
    write_jsonl(folder / "train.jsonl", map(dataclasses.asdict, train))
    write_jsonl(folder / "dev.jsonl", map(dataclasses.asdict, dev))
    write_jsonl(folder / "plain.jsonl", ({"text": text} for text in _plain_texts(run_dir, dev_pairs, config.run.seed)))
    return counts


def read_training_set(folder: Path) -> TrainingSet:
    """What `build_training_set` wrote."""
    texts = [row["text"] for row in read_rows(folder / "plain.jsonl")]
    return TrainingSet(_read_examples(folder / "train.jsonl"), _read_examples(folder / "dev.jsonl"), texts)


def make_examples(
    config: Config, run_dir: RunDir, pairs: Sequence[QAPair], encode: Encode
) -> tuple[list[Example], list[Reject]]:
    """Examples of the pairs, in their order, with contexts from the index that serves; chunks of test documents are
    left out of them, so that the order of a context is that of serving but for those."""
    pairs, layout, rejects = balance(pairs, layout_of(config))
    abstain = config.llm.abstain
    hits, chunks = _contexts(config, run_dir, pairs)
    answer_prompt = functools.partial(render_answer, load_prompts(config.llm.prompts, abstain), chunk_renderer(config))
    examples: list[Example] = []
    for pair, found in zip(pairs, hits, strict=True):
        made = drafts(pair, found, chunks, layout)
        if isinstance(made, Reject):
            rejects.append(made)
            continue
        for draft in made:
            done = finish(draft, answer_prompt, abstain, encode, layout)
            rejects.append(done) if isinstance(done, Reject) else examples.append(done)
    check_chunks_allowed((i for e in examples for i in e.chunk_ids), chunks.values(), "chunks of training contexts")
    return examples, rejects


def layout_of(config: Config) -> Layout:
    knobs = config.train_generator
    return Layout(knobs.layout, config.retrieval.top_k, knobs.gold_share, knobs.cite, knobs.max_tokens, config.run.seed)


def chunk_renderer(config: Config) -> Callable[[Chunk], str]:
    """A chunk's text as the encoder, BM25 and the language model see it."""
    from rag_ft.retrieval.search import chunk_text

    return lambda chunk: chunk_text(chunk, config.retrieval.with_title)


def render_answer(prompts: Any, render: Callable[[Chunk], str], question: str, chunks: Iterable[Chunk]) -> Messages:
    """The prompt that serving and evaluation put to the model over the same chunks."""
    return prompts.answer(question, [render(chunk) for chunk in chunks])


def _contexts(config: Config, run_dir: RunDir, pairs: Sequence[QAPair]) -> tuple[list[list[str]], dict[str, Chunk]]:
    """Chunk ids found for each pair, best first, without those of test documents, and the chunks by id."""
    from rag_ft.retrieval.search import load_chunks, open_retriever, served_tuned

    retriever = open_retriever(config, run_dir, tuned=served_tuned(run_dir))
    depth = 2 * config.retrieval.top_k + EXTRA_HITS
    hits = [[i for i, _ in found] for found in retriever.search([p.question for p in pairs], depth)]
    wanted = {i for found in hits for i in found}.union(*(_own_chunk_ids(pair) for pair in pairs))
    chunks = {i: c for i, c in load_chunks(run_dir, wanted).items() if c.split != "test"}
    return [[i for i in found if i in chunks] for found in hits], chunks


def _own_chunk_ids(pair: QAPair) -> set[str]:
    ids = (pair.chunk_id, pair.provenance.get("second_chunk_id"), *pair.hard_chunk_ids)
    return {i for i in ids if i}


def _replay(
    config: Config, run_dir: RunDir, pairs: Sequence[QAPair], encode: Encode, num_examples: int
) -> list[Example]:
    from rag_ft.retrieval.search import load_chunks

    count = num_replayed(num_examples, config.train_generator.replay_share)
    if not count:
        return []
    chunks = load_chunks(run_dir, {p.chunk_id for p in pairs if p.chunk_id})
    prompts = load_prompts(config.llm.prompts, config.llm.abstain)
    asked = replay_prompts(pairs, chunks, prompts, chunk_renderer(config), count, config.run.seed)
    return list(replay_examples(config, asked, encode, run_dir.replies("train_generator")))


def _plain_texts(run_dir: RunDir, dev_pairs: Sequence[QAPair], seed: int) -> list[str]:
    documents = {p.document_id for p in dev_pairs}
    texts = [
        c.text for c in read_jsonl(run_dir.chunks, Chunk)
        if c.split == "dev" or (c.split == "train" and c.document_id in documents)
    ]  # fmt: skip
    return _sample(texts, MAX_PLAIN_TEXTS, seed)


def _held_documents(pairs: Sequence[QAPair]) -> set[str]:
    documents = sorted({p.document_id for p in pairs if p.document_id}, key=lambda i: hash_share(f"dev {i}"))
    return set(documents[: round(DEV_SHARE * len(documents))]) if len(documents) > 1 else set()


def _sample(items: Sequence[Any], most: int, seed: int) -> list[Any]:
    """At most so many of the items, in their order."""
    if len(items) <= most:
        return list(items)
    chosen = sorted(random.Random(f"{seed}:sample").sample(range(len(items)), most))
    return [items[i] for i in chosen]


def _read_examples(path: Path) -> list[Example]:
    return [_example(row) for row in read_rows(path)]


def _example(row: dict[str, Any]) -> Example:
    encoded = Encoded(tuple(row["encoded"]["input_ids"]), row["encoded"]["num_prompt_tokens"])
    return Example(row["id"], row["kind"], tuple(row["messages"]), row["answer"], tuple(row["chunk_ids"]), encoded)
