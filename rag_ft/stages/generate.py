"""Chunks -> a language model -> question-answer pairs that pass every check, and imported ones.

The passes follow each other and each reads the file that the one before wrote: write the pairs,
drop repeated questions and those far from their evidence, check the round trip, swap names, check
without chunks (closed book). Then the imported questions are merged in, and at last the reviews are
applied. Every reply is cached, so a resumed run sends no request twice.
"""

from __future__ import annotations

import heapq
import json
import math
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import groupby, pairwise
from pathlib import Path
from typing import Any

from rag_ft.chunk_store import ChunkStore
from rag_ft.config import GenerateConfig
from rag_ft.engine.language_model import SharedModel
from rag_ft.engine.shards import end_shard
from rag_ft.errors import ConfigError
from rag_ft.generation.ask_model import AnsweredItem, PassItem, ask_in_order
from rag_ft.generation.entity_swap import SWAPPED, Swaps
from rag_ft.generation.filters import Failure
from rag_ft.generation.import_questions import Imported, import_questions
from rag_ft.generation.planner import PlannedQuestion, choose_chunks, kind_shares, plan
from rag_ft.generation.question_dedup import (
    CachedQueryEncoder,
    QuestionDeduplicator,
    duplicate,
    without_paraphrases,
)
from rag_ft.generation.round_trip import ClosedBook, RoundTrip
from rag_ft.generation.second_opinion import near_evidence
from rag_ft.generation.statistics import GenerationStats
from rag_ft.generation.writer import QuestionWriter
from rag_ft.improving.frozen import missing_in, new_documents, without_redrawn
from rag_ft.llm.interface import LanguageModel, Reply
from rag_ft.prompts.answer_prompt import AnswerPrompt
from rag_ft.prompts.prompt_set import load_prompts
from rag_ft.review.apply import Reviewed
from rag_ft.review.store import ReviewStore
from rag_ft.schema import Document, QAPair
from rag_ft.session import Session
from rag_ft.storage import batched, read_jsonl, write_json, write_jsonl

QUESTION_BATCH = 64


def run(session: Session) -> dict[str, Any]:
    """Writes generated/, qa.jsonl in document order and rejects/generate.jsonl; returns the counts.

    Raises:
        ConfigError: nothing is asked for, or kinds that the prompt set cannot write.
        DataError: questions cannot be read, the model is down, or too few pairs are kept.
    """
    run_dir, began = session.run_dir, time.monotonic()
    counts = _generate(session)
    counts["seconds_before"] = round(time.monotonic() - began, 2)
    write_json(run_dir.generated_counts, counts)
    reviewed = apply_reviews(session)
    shutil.rmtree(run_dir.checkpoints("generate"), ignore_errors=True)
    del reviewed["seconds_before"]  # they count in this run
    return reviewed


def apply_reviews(session: Session) -> dict[str, Any]:
    """Writes qa.jsonl: the pairs of generated/ as people reviewed them. Returns the counts."""
    run_dir = session.run_dir
    counts = json.loads(run_dir.generated_counts.read_text(encoding="utf-8"))

    # In a further version the parent's test questions stay, and new documents alone give new ones.
    frozen = list(read_jsonl(run_dir.frozen, QAPair)) if run_dir.frozen.exists() else []
    new = new_documents(run_dir)

    def pairs() -> Iterator[QAPair]:
        written = read_jsonl(run_dir.generated_pairs, QAPair)
        if new is None:
            return written
        left = missing_in(frozen, without_redrawn(written, new))
        written = without_redrawn(read_jsonl(run_dir.generated_pairs, QAPair), new)
        return in_document_order(written, left, read_jsonl(run_dir.documents, Document))

    abstain = session.config.llm.advanced.abstain
    reviewed = Reviewed(ReviewStore(run_dir.reviews), session.chunks, abstain)
    extra = reviewed.extra(pairs, lambda: read_jsonl(run_dir.generated_rejects, QAPair))
    extra = missing_in(extra, frozen)
    kept = reviewed.kept(pairs())
    if extra:
        kept = in_document_order(kept, extra, read_jsonl(run_dir.documents, Document))
    write_jsonl(run_dir.qa, kept)
    if reviewed.rejects:
        write_jsonl(run_dir.rejects("reviews"), reviewed.rejects)
    else:
        run_dir.rejects("reviews").unlink(missing_ok=True)
    return {**counts, **reviewed.counts}


def _generate(session: Session) -> dict[str, Any]:
    """Writes the pairs before any review; returns the counts of the passes."""
    config, run_dir, settings = session.config, session.run_dir, session.config.generate
    # Find what is wrong with the settings and the imported questions before hours of LLM work.
    if not settings.pairs_per_chunk and not settings.questions:
        raise ConfigError(
            "nothing to do: set generate.pairs_per_chunk above 0, or name files in "
            "generate.questions"
        )
    llm, examples = config.llm, settings.advanced.examples
    prompts = load_prompts(llm.prompts, llm.advanced.abstain, examples)
    if settings.pairs_per_chunk:
        kind_shares(settings.kinds, prompts.kinds, prompts.name)
    imported = Imported([], [])
    if settings.questions:
        documents = read_jsonl(run_dir.documents, Document)
        imported = import_questions(
            settings.questions, documents, session.chunks, llm.advanced.abstain
        )
        # Without questions of people about train and dev documents that are test questions in other
        # words. The encoder is not loaded for nothing.
        least = settings.advanced.paraphrase_similarity
        if least and len({pair.split == "test" for pair in imported.pairs}) == 2:
            kept, left_out = without_paraphrases(imported.pairs, session.base_encoder, least)
            imported = Imported(kept, [*imported.rejects, *left_out])

    # The passes over the model.
    generated: Iterable[QAPair] = ()
    seconds: dict[str, float] = {}
    rejects, least_share = run_dir.rejects("generate"), settings.advanced.min_kept_share
    with GenerationStats(rejects, run_dir.generated_rejects) as stats:
        for reject in imported.rejects:
            stats.note(reject)
        imported.check_kept(least_share, settings.questions, rejects)
        if settings.pairs_per_chunk:
            prompt = AnswerPrompt(prompts, config.retrieval.context)
            seconds = _run_passes(session, prompt, imported.pairs, stats)
            generated = read_jsonl(run_dir.pass_pairs("kept"), QAPair)
    stats.check_kept(least_share)

    # Merge the imported questions in.
    if imported.pairs:
        documents = read_jsonl(run_dir.documents, Document)
        generated = in_document_order(generated, imported.pairs, documents)
    write_jsonl(run_dir.generated_pairs, generated)
    return {**stats.counts(), **imported.counts(), "seconds_by_pass": seconds}


def _run_passes(
    session: Session, prompt: AnswerPrompt, imported: list[QAPair], stats: GenerationStats
) -> dict[str, float]:
    """Writes drafted, verified, swapped and kept.jsonl, one after the other; returns the seconds
    that each pass took."""
    config, run_dir, settings = session.config, session.run_dir, session.config.generate
    checks, seed, chunks = settings.advanced.checks, config.run.seed, session.chunks
    retriever = session.plain_retriever()
    encoder = retriever.encoder
    retriever.encoder = CachedQueryEncoder(encoder)  # type: ignore[assignment]
    trip = RoundTrip(settings, config.retrieval.top_k, prompt, retriever, chunks)
    ended = {"start": time.monotonic()}
    with session.language_model("generate") as model:
        asking = Asking(model, run_dir.replies("generate"), stats)

        # Write: one pair for each planned question.
        writer = QuestionWriter(settings, seed, prompt, retriever, chunks, model.name, stats)
        planned = partial(_planned, settings, prompt.prompts.kinds, chunks, seed)
        num = sum(1 for _ in planned())  # planning twice takes microseconds for each chunk
        pairs = asking.passed("write", writer.requests, planned, writer.check, num)
        num = write_jsonl(run_dir.pass_pairs("drafted"), pairs)
        ended["write"] = time.monotonic()

        # De-duplicate: reject what a person or an earlier pair asks. Then the second opinion.
        pairs = read_jsonl(run_dir.pass_pairs("drafted"), QAPair)
        asked_before = None
        if "duplicate" in checks:
            asked_before = QuestionDeduplicator(
                retriever.encoder.encode_queries, settings.advanced.duplicate_similarity
            )
            pairs = _first_asked(pairs, imported, asked_before, stats)
        if least := settings.advanced.evidence_similarity:
            pairs = near_evidence(pairs, retriever.encoder, encoder, least, stats.reject)

        # Round trip: the retriever finds the chunk, and the model gives the same answer from it.
        if "round_trip" in checks:
            distinct = asking.source(pairs, run_dir.pass_pairs("distinct"))
            pairs = asking.passed("round trip", trip.requests, distinct, trip.check, num)
        num = write_jsonl(run_dir.pass_pairs("verified"), pairs)
        ended["round_trip"] = time.monotonic()

        # Swaps: add unanswerable questions about other names; none may repeat one with an answer.
        last = run_dir.pass_pairs("verified")
        if settings.advanced.swaps_per_pair:
            known = {pair.question for pair in (*imported, *read_jsonl(last, QAPair))}
            swaps = Swaps(trip, seed, asked_before, known)
            num = write_jsonl(run_dir.pass_pairs("swapped"), asking.passed_swaps(swaps, last))
            ended["swaps"] = time.monotonic()
            last = run_dir.pass_pairs("swapped")

        # Closed book: reject test questions that the model answers without any chunk.
        pairs = read_jsonl(last, QAPair)
        if "closed_book" in checks:
            book = ClosedBook(settings, prompt.prompts)
            source = partial(read_jsonl, last, QAPair)
            pairs = asking.passed("closed book", book.requests, source, book.check, num)
        write_jsonl(run_dir.pass_pairs("kept"), stats.accepted_pairs(pairs))
        end_shard(config.engine)
        ended["closed_book"] = time.monotonic()
    return {name: round(end - start, 2) for (_, start), (name, end) in pairwise(ended.items())}


def _planned(
    settings: GenerateConfig, writable: Mapping[str, str], chunks: ChunkStore, seed: int
) -> Iterator[PlannedQuestion]:
    """The questions to ask about the chunks of the splits that generate.advanced.splits names."""
    splits = settings.advanced.splits
    counts = Counter(chunks.count_by_document(splits))
    chosen = choose_chunks(chunks.of_splits(splits), counts, settings.advanced.max_chunks)
    shares = kind_shares(settings.kinds, writable, "")
    return plan(chosen, settings.pairs_per_chunk, shares, seed)


def _first_asked(
    pairs: Iterable[QAPair],
    imported: Iterable[QAPair],
    asked_before: QuestionDeduplicator,
    stats: GenerationStats,
) -> Iterator[QAPair]:
    """The pairs whose question repeats neither an imported one nor an earlier pair's."""
    for known in batched(imported, QUESTION_BATCH):
        asked_before.repeats([pair.question for pair in known])
    for batch in batched(pairs, QUESTION_BATCH):
        repeated = asked_before.repeats([pair.question for pair in batch])
        for pair, earlier in zip(batch, repeated, strict=True):
            if earlier is None:
                yield pair
            else:
                stats.reject(pair, duplicate(pair.question, earlier))


@dataclass(frozen=True)
class Asking:
    """What all passes need to ask the model: the model, its cached replies and the counts."""

    model: LanguageModel
    replies: Path
    stats: GenerationStats

    def source(self, pairs: Iterable[QAPair], path: Path) -> Callable[[], Iterable[QAPair]]:
        """Gives the pairs that a pass asks about; where workers answer, the pass reads them twice,
        from the file."""
        if not isinstance(self.model, SharedModel):
            return lambda: pairs
        write_jsonl(path, pairs)
        return lambda: read_jsonl(path, QAPair)

    def passed(
        self,
        name: str,
        requests: Callable[[Iterable[Any]], Iterator[PassItem]],
        source: Callable[[], Iterable[Any]],
        check: Callable[[Any, Reply], QAPair | Failure],
        at_most: int,
    ) -> Iterator[QAPair]:
        """The pairs that pass, in order; the others are rejected.

        `requests` makes an item of each element of `source`; `check` takes an item and its reply;
        `at_most` is an upper bound of the number of requests.
        """
        for item, failure, reply in self._ask(name, lambda: requests(source()), at_most):
            if isinstance(item, PlannedQuestion):
                self.stats.ask(item)
            result = failure or item
            if failure is None and reply is not None:
                error = Failure("llm_error", reply.error[:300]) if reply.error else None
                result = error or check(item, reply)
            if isinstance(result, Failure):
                self.stats.reject(item, result)
            else:
                yield result

    def passed_swaps(self, swaps: Swaps, pairs: Path) -> Iterator[QAPair]:
        """All pairs of a file, and the swapped ones that pass; a swapped pair can have several
        replies."""
        answered = self._ask(
            "swapped names", lambda: swaps.requests(read_jsonl(pairs, QAPair)), None
        )
        for _, group in groupby(answered, key=lambda answer: answer.item.id):
            answers = list(group)
            pair, failure, _ = answers[0]
            self.stats.asked["unanswerable"] += SWAPPED in pair.provenance
            replies = [answer.reply for answer in answers if answer.reply is not None]
            result = failure or swaps.check(pair, replies)
            if isinstance(result, Failure):
                self.stats.reject(pair, result)
            else:
                yield result

    def _ask(
        self, name: str, make_items: Callable[[], Iterable[PassItem]], at_most: int | None
    ) -> Iterator[AnsweredItem]:
        count, what = self.stats.count_tokens, f"generate: {name}"
        return ask_in_order(self.model, make_items, self.replies, count, what, at_most)


def in_document_order(
    generated: Iterable[QAPair], imported: list[QAPair], documents: Iterable[Document]
) -> Iterator[QAPair]:
    """Generated and imported pairs in the order of `documents`.

    The imported pairs of a document follow its generated ones, by the position of their evidence.
    Those without a document come last.
    """
    place_of = {document.id: place for place, document in enumerate(documents)}

    def document_place(pair: QAPair) -> float:
        return place_of.get(pair.document_id or "", math.inf)

    def place(pair: QAPair) -> tuple[float, float]:
        return document_place(pair), pair.evidence.start if pair.evidence else math.inf

    return heapq.merge(generated, sorted(imported, key=place), key=document_place)
