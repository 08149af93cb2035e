"""Chunks -> an LLM -> question-answer pairs that passed every check; and questions that people wrote.

Passes over the model, each streamed from file to file: write the pairs; drop those asked before and answer the others
from their chunk (round trip); where wished, ask about other names what nothing answers (swaps); answer those of test
documents without a chunk (closed book). Every reply is kept, so a killed run asks nothing twice.
"""

from __future__ import annotations

import heapq
import math
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

from rag_ft.config import GenerateConfig
from rag_ft.errors import ConfigError, DataError
from rag_ft.generation.ask_model import ask_in_order
from rag_ft.generation.entity_swap import Earlier, Swaps
from rag_ft.generation.filters import Failure
from rag_ft.generation.import_questions import Imported, import_questions
from rag_ft.generation.planner import Ask, choose_chunks, kind_shares, plan
from rag_ft.generation.question_dedup import AskedBefore, RecentVectors, duplicate
from rag_ft.generation.round_trip import ClosedBook, RoundTrip
from rag_ft.generation.statistics import Funnel
from rag_ft.generation.writer import Drafting
from rag_ft.llm.interface import ChatRequest, LanguageModel, Reply
from rag_ft.prompts.answer_prompt import AnswerPrompt
from rag_ft.prompts.prompt_set import load_prompts
from rag_ft.retrieval.retriever import Retriever
from rag_ft.run_dir import RunDir
from rag_ft.schema import Document, QAPair
from rag_ft.session import Session
from rag_ft.storage import ChunkStore, read_jsonl, write_jsonl

QUESTION_BATCH = 64


def run(session: Session) -> dict[str, Any]:
    """Writes qa.jsonl in document order and rejects/generate.jsonl; returns the funnel's counts.

    Raises:
        ConfigError: nothing is asked for, or kinds that the prompt set cannot write.
        DataError: questions cannot be read, the model is down, or too few pairs are kept.
    """
    config, run_dir, settings = session.config, session.run_dir, session.config.generate
    scratch = run_dir.checkpoints("generate")
    if not settings.pairs_per_chunk and not settings.questions:
        raise ConfigError(
            "nothing to do: set generate.pairs_per_chunk above 0, or name files in generate.questions"
        )
    prompts = load_prompts(
        config.llm.prompts, config.llm.advanced.abstain, settings.advanced.examples
    )
    if settings.pairs_per_chunk:
        kind_shares(settings.kinds, prompts.kinds, prompts.name)
    imported = _import(session)
    seconds: dict[str, float] = {}
    with Funnel(run_dir.rejects("generate")) as funnel:
        for reject in imported.rejects:
            funnel.note(reject)
        # Before hours of asking; the rejects are there to see all the same.
        _check_imported(imported, settings, run_dir.rejects("generate"))
        if settings.pairs_per_chunk:
            prompt = AnswerPrompt(prompts, config.retrieval.advanced.with_title)
            seconds = _generate(session, prompt, imported, funnel)
    funnel.check_kept(settings.advanced.min_kept_share)
    generated = (
        read_jsonl(run_dir.pass_pairs("kept"), QAPair) if settings.pairs_per_chunk else iter(())
    )
    write_jsonl(run_dir.qa, _in_document_order(generated, imported.pairs, run_dir))
    shutil.rmtree(scratch, ignore_errors=True)
    return {**funnel.counts(), **imported.counts(), "seconds_by_pass": seconds}


@dataclass(frozen=True)
class Tools:
    """What the passes share."""

    settings: GenerateConfig
    top_k: int
    seed: int
    replies: Path
    prompt: AnswerPrompt
    model: LanguageModel
    retriever: Retriever
    chunks: ChunkStore
    funnel: Funnel

    def round_trip(self) -> RoundTrip:
        return RoundTrip(self.settings, self.top_k, self.prompt, self.retriever, self.chunks)


def _import(session: Session) -> Imported:
    paths = session.config.generate.questions
    if not paths:
        return Imported([], [])
    documents = read_jsonl(session.run_dir.documents, Document)
    return import_questions(paths, documents, session.chunks, session.config.llm.advanced.abstain)


def _generate(
    session: Session, prompt: AnswerPrompt, imported: Imported, funnel: Funnel
) -> dict[str, float]:
    """The passes, each reading the file that the one before wrote; kept.jsonl is the last. Returns seconds by pass."""
    config, run_dir = session.config, session.run_dir
    seconds: dict[str, float] = {}
    retriever = session.retriever()
    retriever.encoder = RecentVectors(retriever.encoder)  # type: ignore[assignment]
    with session.language_model() as model:
        tools = Tools(
            config.generate,
            config.retrieval.top_k,
            config.run.seed,
            run_dir.replies("generate"),
            prompt,
            model,
            retriever,
            session.chunks,
            funnel,
        )
        clock = time.monotonic()
        num = write_jsonl(run_dir.pass_pairs("drafted"), _draft(tools))
        seconds["write"] = round(time.monotonic() - clock, 2)
        before = _asked_before(tools, imported)
        pairs = _first_asked(tools, read_jsonl(run_dir.pass_pairs("drafted"), QAPair), before)
        num = write_jsonl(run_dir.pass_pairs("verified"), _round_trip(tools, pairs, num))
        seconds["round_trip"] = round(time.monotonic() - clock - seconds["write"], 2)
        pairs = read_jsonl(run_dir.pass_pairs("verified"), QAPair)
        if config.generate.advanced.swaps_per_pair:
            num = write_jsonl(
                run_dir.pass_pairs("swapped"),
                _swaps(
                    tools, pairs, _kept_questions(before, imported, run_dir.pass_pairs("verified"))
                ),
            )
            seconds["swaps"] = round(time.monotonic() - clock - sum(seconds.values()), 2)
            pairs = read_jsonl(run_dir.pass_pairs("swapped"), QAPair)
        write_jsonl(run_dir.pass_pairs("kept"), _closed_book(tools, pairs, num))
        seconds["closed_book"] = round(time.monotonic() - clock - sum(seconds.values()), 2)
    return seconds


def _draft(tools: Tools) -> Iterator[QAPair]:
    """Pass 1: pairs that pass the checks of a single pair, in chunk order."""
    settings, prompts = tools.settings, tools.prompt.prompts
    shares = kind_shares(settings.kinds, prompts.kinds, "")
    counts = Counter(tools.chunks.count_by_document(settings.advanced.splits))

    def asks() -> Iterator[Ask]:
        chosen = choose_chunks(
            tools.chunks.of_splits(settings.advanced.splits), counts, settings.max_chunks
        )
        return plan(chosen, settings.pairs_per_chunk, shares, tools.seed)

    drafting = Drafting(
        settings,
        tools.seed,
        tools.prompt,
        tools.retriever,
        tools.chunks,
        tools.model.name,
        tools.funnel,
    )
    # Planned twice: it takes microseconds a chunk, and short chunks are asked less than pairs_per_chunk says.
    most = sum(1 for _ in asks())
    return _passing(tools, drafting.jobs(asks()), drafting.verdict, "generate: write", most)


def _asked_before(tools: Tools, imported: Imported) -> AskedBefore | None:
    """The imported questions, to which each pass adds its own; None where repeating them is allowed."""
    if "duplicate" not in tools.settings.advanced.checks:
        return None
    before = AskedBefore(
        tools.retriever.encoder.encode_queries, tools.settings.advanced.duplicate_similarity
    )
    for known in _batches(imported.pairs):
        before.repeats([pair.question for pair in known])
    return before


def _first_asked(
    tools: Tools, pairs: Iterable[QAPair], before: AskedBefore | None
) -> Iterator[QAPair]:
    """The pairs whose question neither a person nor an earlier pair asks."""
    if before is None:
        yield from pairs
        return
    for batch in _batches(pairs):
        for pair, earlier in zip(
            batch, before.repeats([pair.question for pair in batch]), strict=True
        ):
            if earlier is None:
                yield pair
            else:
                tools.funnel.reject(_name(pair), duplicate(pair.question, earlier))


def _round_trip(tools: Tools, pairs: Iterator[QAPair], num_pairs: int) -> Iterator[QAPair]:
    """Pass 2: pairs whose chunk is found and that the model answers alike from it."""
    if "round_trip" not in tools.settings.advanced.checks:
        return pairs
    trip = tools.round_trip()
    return _passing(tools, trip.jobs(pairs), trip.verdict, "generate: round trip", num_pairs)


def _kept_questions(
    before: AskedBefore | None, imported: Imported, verified: Path
) -> Earlier | None:
    """Finds, for each of some questions, the imported one or the one of a verified pair that it repeats; None where
    repeating them is allowed."""
    if before is None:
        return None
    kept = {pair.question for pair in imported.pairs} | {
        pair.question for pair in read_jsonl(verified, QAPair)
    }
    return lambda questions: [
        same if same in kept else None for same in before.repeats(questions, keep=False)
    ]


def _swaps(tools: Tools, pairs: Iterator[QAPair], earlier: Earlier | None) -> Iterator[QAPair]:
    """All pairs, and unanswerable ones made of them that nobody asked and for which the model finds no answer."""
    swaps = Swaps(tools.round_trip(), tools.seed, tools.funnel.asked, earlier)
    done = ask_in_order(
        tools.model, swaps.jobs(pairs), tools.replies, tools.funnel, "generate: swapped names"
    )
    for _, group in groupby(done, key=lambda item: item[0].id):
        (pair, failure, _), *_ = tried = list(group)
        result = failure or swaps.verdict(
            pair, [reply for _, _, reply in tried if reply is not None]
        )
        if isinstance(result, Failure):
            tools.funnel.reject(_name(pair), result)
        else:
            yield result


def _closed_book(tools: Tools, pairs: Iterator[QAPair], num_pairs: int) -> Iterator[QAPair]:
    """Last pass: all but the test pairs that the model answers by heart; what passes here is accepted."""
    if "closed_book" in tools.settings.advanced.checks:
        book = ClosedBook(tools.settings, tools.prompt.prompts)
        pairs = _passing(tools, book.jobs(pairs), book.verdict, "generate: closed book", num_pairs)
    for pair in pairs:
        tools.funnel.accept(pair)
        yield pair


def _passing(
    tools: Tools,
    jobs: Iterable[tuple[Any, Failure | None, ChatRequest | None]],
    verdict: Callable[[Any, Reply], QAPair | Failure],
    what: str,
    most: int,
) -> Iterator[QAPair]:
    """What a pass keeps, in order. Jobs are (item, failure, request): a failure is a reject, no request a pass."""
    for item, failure, reply in ask_in_order(
        tools.model, jobs, tools.replies, tools.funnel, what, most
    ):
        if failure is None and reply is not None:
            result = (
                Failure("llm_error", reply.error[:300]) if reply.error else verdict(item, reply)
            )
        else:
            result = failure or item
        if isinstance(result, Failure):
            tools.funnel.reject(_name(item), result)
        else:
            yield result


def _name(item: Any) -> str:
    """ "<chunk id>/<variant>": the same for an ask and the pair that came of it."""
    return (
        f"{item.provenance['chunk_id']}/{item.provenance['variant']}"
        if isinstance(item, QAPair)
        else item.id
    )


def _batches(pairs: Iterable[QAPair]) -> Iterator[list[QAPair]]:
    stream = iter(pairs)
    while batch := list(islice(stream, QUESTION_BATCH)):
        yield batch


def _check_imported(imported: Imported, settings: GenerateConfig, rejects: Path) -> None:
    """Raises DataError when too few of the lines could be imported."""
    total = len(imported.pairs) + len(imported.rejects)
    if total and len(imported.pairs) < max(1, settings.advanced.min_kept_share * total):
        reason, count = Counter(reject.reason for reject in imported.rejects).most_common(1)[0]
        raise DataError(
            f"only {len(imported.pairs)} of {total} lines of generate.questions are questions of this run; most failed "
            f"by '{reason}' ({count}): see {rejects} and mend the file"
        )
    if settings.questions and not total:
        raise DataError(
            f"{settings.questions[0]} holds no question: write one JSON object a line, or leave it out"
        )


def _in_document_order(
    generated: Iterable[QAPair], imported: list[QAPair], run_dir: RunDir
) -> Iterator[QAPair]:
    """Both kinds in the order of documents.jsonl; imported ones by position after the document's generated ones, and
    those without a document last."""
    if not imported:
        return iter(generated)
    order = {
        document.id: place for place, document in enumerate(read_jsonl(run_dir.documents, Document))
    }

    def document(pair: QAPair) -> float:
        return order.get(pair.document_id or "", math.inf)

    def place(pair: QAPair) -> tuple[float, float]:
        return document(pair), pair.evidence.start if pair.evidence else math.inf

    return heapq.merge(generated, sorted(imported, key=place), key=document)
