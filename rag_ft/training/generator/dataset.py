"""Which pairs the generator is trained on, which decide when to stop, and the examples of both."""

from __future__ import annotations

import math
import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, TypeVar

from rag_ft.chunk_store import ChunkStore
from rag_ft.config import TrainGeneratorConfig
from rag_ft.errors import DataError
from rag_ft.prompts.answer_prompt import AnswerPrompt
from rag_ft.run_dir import RunDir
from rag_ft.schema import QAPair, Reject
from rag_ft.session import Session
from rag_ft.storage import read_rows, write_jsonl
from rag_ft.training.dev_split import TrainDev, select_train_dev
from rag_ft.training.generator.context_layouts import (
    Encode,
    Example,
    LayoutSettings,
    balance_unanswerable,
    build_contexts,
    fit_to_length,
    num_arrangements,
)
from rag_ft.training.generator.counterfactuals import Form, answers_by_form, counterfactual
from rag_ft.training.generator.dev_f1 import DevQuestion
from rag_ft.training.generator.dev_questions import (
    closed_book_questions,
    make_questions,
    question_from,
)
from rag_ft.training.generator.preference_prompts import (
    PreferencePrompt,
    preference_prompts,
    prompt_from,
)
from rag_ft.training.generator.replay import num_replayed, replay_examples, replay_prompts
from rag_ft.training.generator.retrieved import Retrieved, retrieve
from rag_ft.training.generator.tokenization import Encoded
from rag_ft.training.leakage import check_chunks_allowed

MAX_DEV_EXAMPLES = 100
MAX_QUESTIONS = 64  # asked at each dev evaluation, of each fold, and closed book
MAX_PLAIN_TEXTS = 32
# From so many examples on, another arrangement of the same pairs teaches little and takes memory.
ENOUGH_EXAMPLES = 100_000
# The files of a training set in writing order: the last one marks it as complete.
PARTS = (
    "train",
    "dev",
    "dev_questions",
    "fold_questions",
    "closed_book",
    "preference",
    "preference_dev",
    "plain",
)
Item = TypeVar("Item")


@dataclass(frozen=True)
class TrainingSet:
    """`train` and `dev` examples share no document. `dev_questions`: of dev documents, where F1
    selects the weights. `fold_questions`: of train documents, where there is cross-validation.
    `closed_book`: training questions without context, to measure memorisation. `preference` and
    `preference_dev`: of train and dev documents, for preference tuning. `plain_texts`: chunks of
    dev documents, to measure what training does to plain language."""

    train: list[Example]
    dev: list[Example]
    dev_questions: list[DevQuestion]
    fold_questions: list[DevQuestion]
    closed_book: list[DevQuestion]
    preference: list[PreferencePrompt]
    preference_dev: list[PreferencePrompt]
    plain_texts: list[str]


def select_pairs(run_dir: RunDir, store: ChunkStore, similarity: float) -> TrainDev:
    """As `select_train_dev`; the dev pairs decide when to stop.

    Raises:
        DataError: there is no pair of a train document, or something of a test document is among
            the pairs to train on.
    """
    split = select_train_dev(run_dir, store, similarity)
    if not split.train:
        raise DataError(
            f"{run_dir.qa} has no pair of a train document: lower ingest.test_share, "
            "add documents, or set train_generator.enabled=false"
        )
    return split


def build_training_set(session: Session, encode: Encode, folder: Path) -> dict[str, int]:
    """Makes all examples and questions and writes them to `folder`, one file per part, and the
    rejects of the run. Returns the number of pairs. A complete set in `folder` is kept: it was made
    with the same settings."""
    config, store, prompt = session.config, session.chunks, session.answer_prompt
    settings, seed = config.train_generator, config.run.seed
    similarity = config.ingest.advanced.near_duplicate_similarity
    split = select_pairs(session.run_dir, store, similarity)
    pairs, dev_pairs, rejects = split.train, split.dev, split.rejects
    counts = {"num_train_pairs": len(pairs), "num_dev_pairs": len(dev_pairs)}
    if (folder / f"{PARTS[-1]}.jsonl").exists():
        return counts

    # One search serves all pairs; the encoder then leaves its memory to the language model.
    some_dev = _sample(dev_pairs, MAX_DEV_EXAMPLES, seed)
    num_passes = max(1, min(math.ceil(settings.epochs), ENOUGH_EXAMPLES // len(pairs)))
    weight = settings.advanced.human_weight
    found = retrieve(session, [*pairs, *some_dev], num_passes * weight)
    session.close_retrievers()

    # Examples: drawn anew for each pass, with the same rehearsal in all of them.
    shown, context = config.retrieval.num_shown, config.llm.max_model_tokens
    layout = layout_settings(settings, shown, seed, context)
    train, rejected = make_examples(prompt, found, pairs, encode, layout, num_passes, weight)
    as_served = replace(layout, counterfactual_share=0.0)
    dev, rejected_dev = make_examples(prompt, found, some_dev, encode, as_served)
    num_made = num_arrangements(train)
    replayed = _replay(session, pairs, encode, len(train) // num_made)
    for number in range(num_made):
        train += [replace(example, arrangement=number) for example in replayed]

    asked = _questions(session, found, pairs, some_dev, encode, layout)

    dev_documents = {p.document_id for p in dev_pairs}
    candidates = store.of_splits({"train", "dev"})
    plain = [c.text for c in candidates if c.split == "dev" or c.document_id in dev_documents]
    texts = ({"text": text} for text in _sample(plain, MAX_PLAIN_TEXTS, seed))
    parts: dict[str, Iterable[Any]] = {"train": train, "dev": dev, **asked, "plain": texts}
    write_jsonl(session.run_dir.rejects("train_generator"), [*rejects, *rejected, *rejected_dev])
    for name in PARTS:
        write_jsonl(folder / f"{name}.jsonl", parts[name])
    return counts


def _questions(
    session: Session,
    found: Retrieved,
    pairs: Sequence[QAPair],
    dev_pairs: Sequence[QAPair],
    encode: Encode,
    layout: LayoutSettings,
) -> dict[str, Iterable[Any]]:
    """Questions that the model answers before, during and after its training, by their part."""
    settings, seed, prompt = session.config.train_generator, layout.seed, session.answer_prompt
    num_dev = MAX_QUESTIONS if settings.advanced.select_by == "f1" else 0
    num_folds = settings.advanced.cross_validation_folds
    dev_sample = _sample(dev_pairs, num_dev, seed)
    fold_sample = _sample(pairs, MAX_QUESTIONS * num_folds, seed)
    closed_sample = _sample(pairs, MAX_QUESTIONS, seed)

    # Preference tuning asks people's questions first.
    most = settings.advanced.preference_questions if settings.preference == "dpo" else 0
    people_first = sorted(pairs, key=lambda pair: pair.origin == "generated")[:most]
    of_dev = preference_prompts(prompt, found, dev_pairs if most else [], encode, layout)
    return {
        "dev_questions": make_questions(prompt, found, dev_sample, encode, layout),
        "fold_questions": make_questions(prompt, found, fold_sample, encode, layout),
        "closed_book": closed_book_questions(
            session.prompts, closed_sample, encode, layout.max_tokens
        ),
        "preference": preference_prompts(prompt, found, people_first, encode, layout),
        "preference_dev": (p for p in of_dev if p.shown in ("retrieved", "withheld")),
    }


def read_training_set(folder: Path) -> TrainingSet:
    """What `build_training_set` wrote."""
    rows = {name: read_rows(folder / f"{name}.jsonl") for name in PARTS}
    return TrainingSet(
        train=[_example(row) for row in rows["train"]],
        dev=[_example(row) for row in rows["dev"]],
        dev_questions=[question_from(row) for row in rows["dev_questions"]],
        fold_questions=[question_from(row) for row in rows["fold_questions"]],
        closed_book=[question_from(row) for row in rows["closed_book"]],
        preference=[prompt_from(row) for row in rows["preference"]],
        preference_dev=[prompt_from(row) for row in rows["preference_dev"]],
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
        cite=bool(advanced.cite),
        max_tokens=min(advanced.max_tokens, context),
        seed=seed,
        quote=advanced.quote,
        counterfactual_share=advanced.counterfactual_share,
    )


def make_examples(
    prompt: AnswerPrompt,
    found: Retrieved,
    pairs: Sequence[QAPair],
    encode: Encode,
    layout: LayoutSettings,
    num_passes: int = 1,
    human_weight: int = 1,
) -> tuple[list[Example], list[Reject]]:
    """Examples for `num_passes` passes over the pairs, one pass after the other, each in the order
    of the pairs, and a Reject for every pair or context that is in none of the passes. A pass has
    pairs that people wrote or reviewed `human_weight` times.

    Each time it is drawn anew for which pairs the gold chunk is withheld, and which unanswerable
    pairs are left out.
    """
    examples: list[Example] = []
    rejects: dict[str, Reject] = {}
    human = [pair for pair in pairs if pair.origin != "generated"]
    answers = answers_by_form(pairs)
    for number, time in product(range(num_passes), range(human_weight)):
        arranged = replace(layout, arrangement=number + time * num_passes)
        kept, balanced, surplus = balance_unanswerable(human if time else pairs, arranged)
        made, rejected = _examples_of(prompt, found, kept, encode, balanced, answers)
        examples += [replace(example, arrangement=number) for example in made]
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
    pairs = select_pairs(session.run_dir, session.chunks, similarity).train
    shown, context = config.retrieval.num_shown, config.llm.max_model_tokens
    layout = layout_settings(config.train_generator, shown, config.run.seed, context)
    kept, balanced, _ = balance_unanswerable(pairs, layout)
    chosen = kept[:: max(1, len(kept) // most)][:most]
    found = retrieve(session, chosen)
    return _examples_of(
        session.answer_prompt, found, chosen, encode, balanced, answers_by_form(pairs)
    )


def count_kinds(examples: Sequence[Example]) -> dict[str, Any]:
    """Counts for the done-file: examples by kind, their tokens, and the tokens with a loss."""
    kinds = Counter(example.kind for example in examples)
    return {
        "num_answer": kinds["answer"] + kinds["counterfactual"],
        "num_counterfactual": kinds["counterfactual"],
        "num_abstain": kinds["abstain"],
        "num_replay": kinds["replay"],
        "num_tokens": sum(len(e.encoded.input_ids) for e in examples),
        "num_supervised_tokens": sum(e.encoded.num_answer_tokens for e in examples),
    }


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
    answers: Mapping[Form, Sequence[str]],
) -> tuple[list[Example], list[Reject]]:
    examples: list[Example] = []
    rejects: list[Reject] = []
    abstain = prompt.prompts.abstain
    for pair in pairs:
        hits = found.hits(pair.id, layout.arrangement)
        contexts = build_contexts(pair, hits, found.chunks, layout)
        if isinstance(contexts, Reject):
            rejects.append(contexts)
            continue
        for context in contexts:
            context = counterfactual(context, answers, layout)
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
    seed, count = config.run.seed, num_replayed(num_examples, advanced.replay_share)
    chunks = session.chunks.select(p.chunk_id for p in pairs if p.chunk_id) if count else {}
    prompts = replay_prompts(pairs, chunks, session.answer_prompt, count, seed)
    path = session.run_dir.replies("train_generator")
    most = min(advanced.max_tokens, config.llm.max_model_tokens)
    return list(replay_examples(config.llm, seed, prompts, encode, most, path))


def _example(row: dict[str, Any]) -> Example:
    lists = {name: tuple(row[name]) for name in ("messages", "chunk_ids")}
    return Example(**{**row, **lists, "encoded": Encoded.from_row(row["encoded"])})
