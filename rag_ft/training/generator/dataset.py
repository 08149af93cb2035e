"""Which pairs the generator is trained on, which decide when to stop, and the examples of both."""

from __future__ import annotations

import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from rag_ft.chunk_store import ChunkStore
from rag_ft.config import TrainGeneratorConfig
from rag_ft.errors import DataError
from rag_ft.prompts.answer_prompt import AnswerPrompt
from rag_ft.prompts.prompt_set import Prompts
from rag_ft.relevance import second_chunk_id
from rag_ft.run_dir import RunDir
from rag_ft.schema import Chunk, QAPair, Reject
from rag_ft.session import Session
from rag_ft.storage import read_jsonl, read_rows, write_jsonl
from rag_ft.training.dev_split import split_train_dev, train_groups
from rag_ft.training.generator.context_layouts import (
    Context,
    Encode,
    Example,
    LayoutSettings,
    balance_unanswerable,
    build_contexts,
    fit_to_length,
    num_arrangements,
)
from rag_ft.training.generator.dev_f1 import DevQuestion
from rag_ft.training.generator.replay import num_replayed, replay_examples, replay_prompts
from rag_ft.training.generator.tokenization import Encoded
from rag_ft.training.leakage import check_chunks_allowed, check_no_leakage, without_test_questions

MAX_DEV_EXAMPLES = 100
MAX_QUESTIONS = 64  # asked at each dev evaluation, of each fold, and closed book
MAX_PLAIN_TEXTS = 32
EXTRA_HITS = 10  # beyond what is shown: distractors to choose from
# From so many examples on, another arrangement of the same pairs teaches little and takes memory.
ENOUGH_EXAMPLES = 100_000
# The files of a training set in writing order: the last one marks it as complete.
PARTS = ("train", "dev", "dev_questions", "fold_questions", "closed_book", "plain")
Item = TypeVar("Item")


@dataclass(frozen=True)
class TrainingSet:
    """`train` and `dev` examples share no document. `dev_questions`: of dev documents, where F1
    selects the weights. `fold_questions`: of train documents, where there is cross-validation.
    `closed_book`: training questions without context, to measure memorisation. `plain_texts`:
    chunks of dev documents, to measure what training does to plain language."""

    train: list[Example]
    dev: list[Example]
    dev_questions: list[DevQuestion]
    fold_questions: list[DevQuestion]
    closed_book: list[DevQuestion]
    plain_texts: list[str]


@dataclass(frozen=True)
class Retrieved:
    """`hits`: pair id -> ids of the chunks that the serving index finds, best first, without chunks
    of test documents and those that the pair's filters exclude. `chunks`: those chunks and the
    pairs' own, by id."""

    hits: dict[str, list[str]]
    chunks: dict[str, Chunk]


def select_pairs(
    run_dir: RunDir, store: ChunkStore, similarity: float
) -> tuple[list[QAPair], list[QAPair], list[Reject]]:
    """(pairs to train on, pairs that decide when to stop, pairs that ask what a test pair asks).

    `split_train_dev` says which documents those are, as for the retriever; from `similarity` (0-1)
    on, two documents are near-duplicates.

    Raises:
        DataError: there is no pair of a train document, or something of a test document is among
            the pairs to train on.
    """
    pairs = list(read_jsonl(run_dir.qa, QAPair))
    test_pairs = [p for p in pairs if p.split == "test"]
    usable, rejects = without_test_questions((p for p in pairs if p.split != "test"), test_pairs)
    check_no_leakage(usable, test_pairs, store.of_splits({"test"}))
    split = split_train_dev(usable, store, lambda: train_groups(run_dir, similarity))
    if not split.train:
        raise DataError(
            f"{run_dir.qa} has no pair of a train document: lower ingest.test_share, "
            "add documents, or set train_generator.enabled=false"
        )
    return split.train, split.dev, rejects


def build_training_set(session: Session, encode: Encode, folder: Path) -> dict[str, int]:
    """Makes all examples and questions and writes them to `folder`, one file per part, and the
    rejects of the run. Returns the number of pairs. A complete set in `folder` is kept: it was made
    with the same settings."""
    config, store, prompt = session.config, session.chunks, session.answer_prompt
    settings, seed = config.train_generator, config.run.seed
    similarity = config.ingest.advanced.near_duplicate_similarity
    pairs, dev_pairs, rejects = select_pairs(session.run_dir, store, similarity)
    counts = {"num_train_pairs": len(pairs), "num_dev_pairs": len(dev_pairs)}
    if (folder / f"{PARTS[-1]}.jsonl").exists():
        return counts

    # One search serves all pairs; the encoder then leaves its memory to the language model.
    some_dev = _sample(dev_pairs, MAX_DEV_EXAMPLES, seed)
    found = retrieve(session, [*pairs, *some_dev])
    session.close_retrievers()

    # Examples: a new arrangement for each pass, the same rehearsal in all of them.
    shown, context = config.retrieval.num_shown, config.llm.max_model_tokens
    layout = layout_settings(settings, shown, seed, context)
    num_passes = min(math.ceil(settings.epochs), ENOUGH_EXAMPLES // len(pairs))
    train, rejected = make_examples(prompt, found, pairs, encode, layout, max(1, num_passes))
    dev, rejected_dev = make_examples(prompt, found, some_dev, encode, layout)
    num_made = num_arrangements(train)
    replayed = _replay(session, pairs, encode, len(train) // num_made)
    for number in range(num_made):
        train += [replace(example, arrangement=number) for example in replayed]

    # Questions that the model answers before, during and after the training.
    num_dev = MAX_QUESTIONS if settings.advanced.select_by == "f1" else 0
    num_folds = settings.advanced.cross_validation_folds
    dev_sample = _sample(some_dev, num_dev, seed)
    fold_sample = _sample(pairs, MAX_QUESTIONS * num_folds, seed)
    closed_sample = _sample(pairs, MAX_QUESTIONS, seed)
    dev_documents = {p.document_id for p in dev_pairs}
    candidates = store.of_splits({"train", "dev"})
    plain = [c.text for c in candidates if c.split == "dev" or c.document_id in dev_documents]

    parts: dict[str, Iterable[Any]] = {
        "train": train,
        "dev": dev,
        "dev_questions": make_questions(prompt, found, dev_sample, encode, layout),
        "fold_questions": make_questions(prompt, found, fold_sample, encode, layout),
        "closed_book": closed_book_questions(
            session.prompts, closed_sample, encode, layout.max_tokens
        ),
        "plain": ({"text": text} for text in _sample(plain, MAX_PLAIN_TEXTS, seed)),
    }
    write_jsonl(session.run_dir.rejects("train_generator"), [*rejects, *rejected, *rejected_dev])
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


def layout_settings(
    settings: TrainGeneratorConfig, top_k: int, seed: int, context: int
) -> LayoutSettings:
    """The layout that the settings ask for, in the first pass over the pairs. `context`: tokens
    that the model reads (llm.max_model_tokens)."""
    advanced = settings.advanced
    return LayoutSettings(
        name=advanced.layout,
        top_k=top_k,
        gold_share=advanced.gold_share,
        cite=advanced.cite,
        max_tokens=min(advanced.max_tokens, context),
        seed=seed,
        quote=advanced.quote,
    )


def retrieve(session: Session, pairs: Sequence[QAPair]) -> Retrieved:
    """One search for all pairs, in the index that serving uses, twice as deep as serving."""
    retriever = session.retriever(session.tuned_components - {"reranker"})
    depth = 2 * session.config.retrieval.top_k + EXTRA_HITS
    questions, filters = [pair.question for pair in pairs], [pair.filters for pair in pairs]
    found = retriever.search(questions, depth, filters=filters)
    hits = {p.id: [i for i, _ in ranked] for p, ranked in zip(pairs, found, strict=True)}

    # Chunks that a pair names itself may not be among its hits.
    wanted = {chunk_id for ids in hits.values() for chunk_id in ids}
    for pair in pairs:
        own = (pair.chunk_id, second_chunk_id(pair), *pair.hard_chunk_ids)
        wanted.update(chunk_id for chunk_id in own if chunk_id)

    # Without chunks of test documents, the others keep the order of serving.
    # As they are shown: a neighbour may contain the answer.
    shown = session.answer_prompt.shown
    chunks = {i: shown(c) for i, c in session.chunks.select(wanted).items() if c.split != "test"}
    return Retrieved({p: [i for i in ids if i in chunks] for p, ids in hits.items()}, chunks)


def make_examples(
    prompt: AnswerPrompt,
    found: Retrieved,
    pairs: Sequence[QAPair],
    encode: Encode,
    layout: LayoutSettings,
    num_passes: int = 1,
) -> tuple[list[Example], list[Reject]]:
    """Examples for `num_passes` passes over the pairs, one pass after the other, each in the order
    of the pairs, and a Reject for every pair or context that is in none of the passes.

    Each pass arranges the chunks anew: the same contexts, seen three times, would be learned by
    heart.
    """
    examples: list[Example] = []
    rejects: dict[str, Reject] = {}
    for number in range(num_passes):
        arranged = replace(layout, arrangement=number)
        kept, balanced, surplus = balance_unanswerable(pairs, arranged)
        made, rejected = _examples_of(prompt, found, kept, encode, balanced)
        examples += made
        rejects |= {reject.item: reject for reject in [*surplus, *rejected]}
    # What one pass rejects, another may use.
    used = {example.id for example in examples}
    return examples, [reject for item, reject in rejects.items() if item not in used]


def sample_examples(
    session: Session, encode: Encode, most: int
) -> tuple[list[Example], list[Reject]]:
    """Examples of at most `most` pairs, spread over all pairs, as the first pass sees them."""
    config = session.config
    similarity = config.ingest.advanced.near_duplicate_similarity
    pairs, _, _ = select_pairs(session.run_dir, session.chunks, similarity)
    shown, context = config.retrieval.num_shown, config.llm.max_model_tokens
    layout = layout_settings(config.train_generator, shown, config.run.seed, context)
    kept, balanced, _ = balance_unanswerable(pairs, layout)
    chosen = kept[:: max(1, len(kept) // most)][:most]
    found = retrieve(session, chosen)
    return _examples_of(session.answer_prompt, found, chosen, encode, balanced)


def make_questions(
    prompt: AnswerPrompt,
    found: Retrieved,
    pairs: Sequence[QAPair],
    encode: Encode,
    layout: LayoutSettings,
) -> Iterator[DevQuestion]:
    """The questions of the pairs as they are served: over the top chunks, as many as fit."""
    for pair in pairs:
        served = tuple(found.chunks[i] for i in found.hits[pair.id][: layout.top_k])
        context = Context(pair.id, pair.question, served, gold=frozenset(), answer=None)
        example = fit_to_length(context, prompt.messages, prompt.prompts.abstain, encode, layout)
        if isinstance(example, Example):
            yield _dev_question(pair, example.encoded, len(example.chunk_ids))


def closed_book_questions(
    prompts: Prompts, pairs: Sequence[QAPair], encode: Encode, max_tokens: int
) -> Iterator[DevQuestion]:
    """The questions of the answerable pairs, without any context, that fit into `max_tokens` with
    their answers."""
    for pair in pairs:
        if pair.answerable:
            encoded = encode(prompts.closed_book(pair.question), pair.answer)
            if len(encoded.input_ids) <= max_tokens:
                yield _dev_question(pair, encoded, 0)


def _sample(items: Sequence[Item], most: int, seed: int) -> list[Item]:
    """At most `most` of the items, in their order."""
    if len(items) <= most:
        return list(items)
    chosen = sorted(random.Random(f"{seed}:sample").sample(range(len(items)), most))
    return [items[i] for i in chosen]


def _examples_of(
    prompt: AnswerPrompt,
    found: Retrieved,
    pairs: Sequence[QAPair],
    encode: Encode,
    layout: LayoutSettings,
) -> tuple[list[Example], list[Reject]]:
    examples: list[Example] = []
    rejects: list[Reject] = []
    abstain = prompt.prompts.abstain
    for pair in pairs:
        contexts = build_contexts(pair, found.hits[pair.id], found.chunks, layout)
        if isinstance(contexts, Reject):
            rejects.append(contexts)
            continue
        for context in contexts:
            example = fit_to_length(context, prompt.messages, abstain, encode, layout)
            if isinstance(example, Reject):
                rejects.append(example)
            else:
                examples.append(example)
    # A second look at what training must never see, at what the contexts really hold.
    shown = (chunk_id for example in examples for chunk_id in example.chunk_ids)
    check_chunks_allowed(shown, found.chunks.values(), "chunks of training contexts")
    return examples, rejects


def _replay(
    session: Session, pairs: Sequence[QAPair], encode: Encode, num_examples: int
) -> list[Example]:
    """Rehearsal examples for a pass of `num_examples` examples; the model is loaded only if there
    are any to make."""
    config, advanced = session.config, session.config.train_generator.advanced
    count = num_replayed(num_examples, advanced.replay_share)
    chunks = session.chunks.select(p.chunk_id for p in pairs if p.chunk_id) if count else {}
    prompts = replay_prompts(pairs, chunks, session.answer_prompt, count, config.run.seed)
    path = session.run_dir.replies("train_generator")
    seed = config.run.seed
    most = min(advanced.max_tokens, config.llm.max_model_tokens)
    return list(replay_examples(config.llm, seed, prompts, encode, most, path))


def _dev_question(pair: QAPair, encoded: Encoded, num_chunks: int) -> DevQuestion:
    prompt = encoded.input_ids[: encoded.num_prompt_tokens]
    answers = pair.answers if pair.answerable else ()
    return DevQuestion(pair.id, pair.document_id, prompt, num_chunks, answers)


def _example(row: dict[str, Any]) -> Example:
    encoded = Encoded(tuple(row["encoded"]["input_ids"]), row["encoded"]["num_prompt_tokens"])
    lists = {name: tuple(row[name]) for name in ("messages", "chunk_ids")}
    return Example(**{**row, **lists, "encoded": encoded})


def _question(row: dict[str, Any]) -> DevQuestion:
    lists = {name: tuple(row[name]) for name in ("prompt", "answers")}
    return DevQuestion(**{**row, **lists})
