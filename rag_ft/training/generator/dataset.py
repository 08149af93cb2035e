"""Which pairs the generator is trained on, which decide when to stop, and the examples made of them."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rag_ft.config import Config
from rag_ft.errors import DataError
from rag_ft.prompts.answer_prompt import AnswerPrompt
from rag_ft.prompts.prompt_set import Prompts
from rag_ft.relevance import second_chunk_id
from rag_ft.run_dir import RunDir
from rag_ft.schema import Chunk, QAPair, Reject
from rag_ft.session import Session
from rag_ft.storage import ChunkStore, read_jsonl, read_rows, write_jsonl
from rag_ft.training.dev_split import split_train_dev, train_groups
from rag_ft.training.generator.context_layouts import (
    Draft,
    Encode,
    Example,
    Layout,
    balance,
    drafts,
    finish,
    num_arrangements,
)
from rag_ft.training.generator.dev_f1 import Question
from rag_ft.training.generator.replay import num_replayed, replay_examples, replay_prompts
from rag_ft.training.generator.tokenization import Encoded
from rag_ft.training.leakage import check_chunks_allowed, check_no_leakage, without_test_questions

MAX_DEV_EXAMPLES = 100
MAX_QUESTIONS = 64  # asked at each dev evaluation, of each fold, and closed book
MAX_PLAIN_TEXTS = 32
PARTS = (
    "train",
    "dev",
    "dev_questions",
    "fold_questions",
    "closed_book",
    "plain",
)  # the files, in writing order
EXTRA_HITS = 10  # beyond what is shown: distractors to choose from
ENOUGH_EXAMPLES = 100_000  # from so many on, another arrangement of the same pairs teaches little and takes memory


@dataclass(frozen=True)
class TrainingSet:
    """`train` and `dev` examples share no document. Questions are asked of the weights: those of dev documents where F1
    selects, those of train documents where there are folds, and trained ones without context, to see whether answers
    are recited. `plain_texts`: chunks of dev documents, to see what the training does to plain language."""

    train: list[Example]
    dev: list[Example]
    dev_questions: list[Question]
    fold_questions: list[Question]
    closed_book: list[Question]
    plain_texts: list[str]


@dataclass(frozen=True)
class Contexts:
    """What the serving index finds for each pair (pair id -> chunk ids, best first) without chunks of test documents,
    and those chunks and the pairs' own, by id."""

    hits: dict[str, list[str]]
    chunks: dict[str, Chunk]


def select_pairs(
    run_dir: RunDir, store: ChunkStore, similarity: float
) -> tuple[list[QAPair], list[QAPair], list[Reject]]:
    """(pairs to train on, pairs that decide when to stop, pairs left out because a test pair asks the same), split by
    `split_train_dev`; `similarity` (0-1) is what makes two documents near-duplicates.

    Raises:
        DataError: no pair of a train document, or something of a test document among the others.
    """
    everything = list(read_jsonl(run_dir.qa, QAPair))
    heldout = [p for p in everything if p.split == "test"]
    kept, rejects = without_test_questions((p for p in everything if p.split != "test"), heldout)
    check_no_leakage(kept, heldout, store.of_splits({"test"}))
    split = split_train_dev(kept, store, lambda: train_groups(run_dir, similarity))
    if not split.train:
        raise DataError(
            f"{run_dir.qa} has no pair of a train document: lower ingest.test_share, add documents, or set "
            "train_generator.enabled=false"
        )
    return split.train, split.dev, rejects


def build_training_set(session: Session, encode: Encode, folder: Path) -> dict[str, int]:
    """Makes all examples and questions and writes them to `folder`, a file a part, and rejects of the run. Returns
    counts of pairs. Whatever is there already is kept: it was made by the same settings."""
    config, store, prompt = session.config, session.chunks, session.answer_prompt
    pairs, dev_pairs, rejects = select_pairs(
        session.run_dir, store, config.ingest.advanced.near_duplicate_similarity
    )
    counts = {"num_train_pairs": len(pairs), "num_dev_pairs": len(dev_pairs)}
    if (folder / f"{PARTS[-1]}.jsonl").exists():
        return counts
    knobs, seed, layout = config.train_generator, config.run.seed, layout_of(config)
    some_dev = _sample(dev_pairs, MAX_DEV_EXAMPLES, seed)
    contexts = find_contexts(session, [*pairs, *some_dev])
    session.close_retrievers()
    train, dropped = _arranged(prompt, contexts, pairs, encode, layout, knobs.epochs)
    dev, dropped_dev = make_examples(prompt, contexts, some_dev, encode, layout)
    passes = num_arrangements(train)
    replayed = _replay(session, pairs, encode, len(train) // passes)
    train += [
        dataclasses.replace(example, arrangement=n) for n in range(passes) for example in replayed
    ]
    asked_dev = _sample(some_dev, MAX_QUESTIONS, seed) if knobs.advanced.select_by == "f1" else []
    asked_folds = (
        _sample(pairs, MAX_QUESTIONS * knobs.advanced.cross_validation_folds, seed)
        if knobs.advanced.cross_validation_folds
        else []
    )
    parts: dict[str, Iterable[Any]] = {
        "train": train,
        "dev": dev,
        "dev_questions": make_questions(prompt, contexts, asked_dev, encode, layout),
        "fold_questions": make_questions(prompt, contexts, asked_folds, encode, layout),
        "closed_book": closed_book_questions(
            session.prompts, _sample(pairs, MAX_QUESTIONS, seed), encode
        ),
        "plain": ({"text": text} for text in _plain_texts(store, dev_pairs, seed)),
    }
    write_jsonl(session.run_dir.rejects("train_generator"), [*rejects, *dropped, *dropped_dev])
    for name in PARTS:
        write_jsonl(folder / f"{name}.jsonl", parts[name])
    return counts


def read_training_set(folder: Path) -> TrainingSet:
    """What `build_training_set` wrote."""
    rows = {name: read_rows(folder / f"{name}.jsonl") for name in PARTS}
    return TrainingSet(
        train=[_example(row) for row in rows["train"]],
        dev=[_example(row) for row in rows["dev"]],
        dev_questions=[_question(row) for row in rows["dev_questions"]],
        fold_questions=[_question(row) for row in rows["fold_questions"]],
        closed_book=[_question(row) for row in rows["closed_book"]],
        plain_texts=[row["text"] for row in rows["plain"]],
    )


def _arranged(
    prompt: AnswerPrompt,
    contexts: Contexts,
    pairs: Sequence[QAPair],
    encode: Encode,
    layout: Layout,
    epochs: float,
) -> tuple[list[Example], list[Reject]]:
    """Examples of as many arrangements as there are passes over the pairs, while they are few enough; Rejects of what
    is in none of them. Three passes over the same contexts would learn them by heart."""
    passes = max(1, min(math.ceil(epochs), ENOUGH_EXAMPLES // max(1, len(pairs))))
    made = [
        make_examples(prompt, contexts, pairs, encode, layout, number) for number in range(passes)
    ]
    examples = [example for part, _ in made for example in part]
    rejects = {reject.item: reject for _, part in made for reject in part}
    kept = {example.id for example in examples}
    return examples, [reject for item, reject in rejects.items() if item not in kept]


def make_examples(
    prompt: AnswerPrompt,
    contexts: Contexts,
    pairs: Sequence[QAPair],
    encode: Encode,
    layout: Layout,
    arrangement: int = 0,
) -> tuple[list[Example], list[Reject]]:
    """Examples of the pairs, in their order; chunks of test documents are left out of contexts, so that the order of a
    context is that of serving but for those."""
    kept, layout, left_out = balance(pairs, dataclasses.replace(layout, arrangement=arrangement))
    examples, rejects = _laid_out(prompt, contexts, kept, encode, layout)
    return examples, left_out + rejects


def sample_examples(
    session: Session, encode: Encode, most: int
) -> tuple[list[Example], list[Reject]]:
    """Examples of at most so many pairs, spread over all: those that the training sees first of these pairs."""
    similarity = session.config.ingest.advanced.near_duplicate_similarity
    pairs, _, _ = select_pairs(session.run_dir, session.chunks, similarity)
    kept, layout, _ = balance(pairs, layout_of(session.config))
    chosen = kept[:: max(1, len(kept) // most)][:most]
    return _laid_out(session.answer_prompt, find_contexts(session, chosen), chosen, encode, layout)


def _laid_out(
    prompt: AnswerPrompt,
    contexts: Contexts,
    pairs: Sequence[QAPair],
    encode: Encode,
    layout: Layout,
) -> tuple[list[Example], list[Reject]]:
    examples: list[Example] = []
    rejects: list[Reject] = []
    for pair in pairs:
        made = drafts(pair, contexts.hits[pair.id], contexts.chunks, layout)
        if isinstance(made, Reject):
            rejects.append(made)
            continue
        for draft in made:
            done = finish(draft, prompt.messages, prompt.prompts.abstain, encode, layout)
            rejects.append(done) if isinstance(done, Reject) else examples.append(done)
    shown = (i for e in examples for i in e.chunk_ids)
    check_chunks_allowed(shown, contexts.chunks.values(), "chunks of training contexts")
    return examples, rejects


def make_questions(
    prompt: AnswerPrompt,
    contexts: Contexts,
    pairs: Sequence[QAPair],
    encode: Encode,
    layout: Layout,
) -> Iterator[Question]:
    """The pairs' questions as they are served: over the top chunks, as many as fit."""
    for pair in pairs:
        served = tuple(contexts.chunks[i] for i in contexts.hits[pair.id][: layout.top_k])
        draft = Draft(
            pair.id, pair.question, served, frozenset(), None, document_id=pair.document_id
        )
        fitted = finish(draft, prompt.messages, prompt.prompts.abstain, encode, layout)
        if isinstance(fitted, Example):
            yield _asked(pair, fitted.encoded, len(fitted.chunk_ids))


def closed_book_questions(
    prompts: Prompts, pairs: Sequence[QAPair], encode: Encode
) -> Iterator[Question]:
    """The pairs' questions without any context; those without an answer tell nothing here."""
    for pair in pairs:
        if pair.answerable:
            yield _asked(pair, encode(prompts.closed_book(pair.question), pair.answer), 0)


def _asked(pair: QAPair, encoded: Encoded, num_chunks: int) -> Question:
    prompt = encoded.input_ids[: encoded.num_prompt_tokens]
    return Question(
        pair.id, pair.document_id, prompt, num_chunks, pair.answers if pair.answerable else ()
    )


def layout_of(config: Config) -> Layout:
    knobs = config.train_generator
    return Layout(
        knobs.advanced.layout, config.retrieval.top_k, knobs.advanced.gold_share, knobs.advanced.cite, knobs.advanced.max_tokens, config.run.seed,
        knobs.advanced.quote,
    )  # fmt: skip


def find_contexts(session: Session, pairs: Sequence[QAPair]) -> Contexts:
    """One search for all pairs."""
    retriever = session.retriever(tuned=session.serves_tuned_retriever)
    depth = 2 * session.config.retrieval.top_k + EXTRA_HITS
    hits = [[i for i, _ in found] for found in retriever.search([p.question for p in pairs], depth)]
    wanted = {i for found in hits for i in found}.union(*(_own_chunk_ids(pair) for pair in pairs))
    chunks = {i: c for i, c in session.chunks.select(wanted).items() if c.split != "test"}
    return Contexts(
        {p.id: [i for i in found if i in chunks] for p, found in zip(pairs, hits, strict=True)},
        chunks,
    )


def _own_chunk_ids(pair: QAPair) -> set[str]:
    ids = (pair.chunk_id, second_chunk_id(pair), *pair.hard_chunk_ids)
    return {i for i in ids if i}


def _replay(
    session: Session, pairs: Sequence[QAPair], encode: Encode, num_examples: int
) -> list[Example]:
    config = session.config
    count = num_replayed(num_examples, config.train_generator.advanced.replay_share)
    if not count:
        return []
    chunks = session.chunks.select(p.chunk_id for p in pairs if p.chunk_id)
    asked = replay_prompts(
        pairs, chunks, session.prompts, session.answer_prompt.text, count, config.run.seed
    )
    documents = {f"replay:{pair.id}": pair.document_id for pair in pairs}
    replies = replay_examples(config, asked, encode, session.run_dir.replies("train_generator"))
    return [dataclasses.replace(example, document_id=documents[example.id]) for example in replies]


def _plain_texts(store: ChunkStore, dev_pairs: Sequence[QAPair], seed: int) -> list[str]:
    documents = {p.document_id for p in dev_pairs}
    chunks = store.of_splits({"train", "dev"})
    texts = [
        chunk.text for chunk in chunks if chunk.split == "dev" or chunk.document_id in documents
    ]
    return _sample(texts, MAX_PLAIN_TEXTS, seed)


def _sample(items: Sequence[Any], most: int, seed: int) -> list[Any]:
    """At most so many of the items, in their order."""
    if len(items) <= most:
        return list(items)
    chosen = sorted(random.Random(f"{seed}:sample").sample(range(len(items)), most))
    return [items[i] for i in chosen]


def _example(row: dict[str, Any]) -> Example:
    encoded = Encoded(tuple(row["encoded"]["input_ids"]), row["encoded"]["num_prompt_tokens"])
    return Example(
        row["id"], row["kind"], tuple(row["messages"]), row["answer"], tuple(row["chunk_ids"]), encoded,
        row["document_id"], row["arrangement"],
    )  # fmt: skip


def _question(row: dict[str, Any]) -> Question:
    return Question(
        row["id"],
        row["document_id"],
        tuple(row["prompt"]),
        row["num_chunks"],
        tuple(row["answers"]),
    )
