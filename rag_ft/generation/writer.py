"""The first pass of generation: asks the model for each planned question and checks its replies."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from rag_ft.chunk_store import ChunkStore
from rag_ft.config import GenerateConfig
from rag_ft.generation.ask_model import PassItem
from rag_ft.generation.filters import (
    Failure,
    WrittenPair,
    check_evidence,
    check_form,
    check_kind,
    check_named,
    check_stands_alone,
    check_subject,
    find_evidence,
    parse_reply,
    told_about,
)
from rag_ft.generation.planner import PlannedQuestion
from rag_ft.generation.statistics import GenerationStats
from rag_ft.llm.interface import ChatRequest, Reply
from rag_ft.prompts.answer_prompt import AnswerPrompt
from rag_ft.prompts.prompt_set import REPLY_SCHEMA
from rag_ft.relevance import evidence_in_chunk
from rag_ft.retrieval.retriever import Searcher
from rag_ft.schema import Chunk, QAPair
from rag_ft.storage import content_hash

NEIGHBOURS = 20


@dataclass(frozen=True)
class QuestionWriter:
    """`seed` and `model_name` go into the provenance of every pair."""

    settings: GenerateConfig
    seed: int
    prompt: AnswerPrompt
    retriever: Searcher
    chunks: ChunkStore
    model_name: str
    stats: GenerationStats

    def requests(self, planned: Iterable[PlannedQuestion]) -> Iterator[PassItem]:
        """Each planned question with its request, or with a failure if it needs a second chunk and
        there is none. The requests of a chunk follow each other, so that a server reuses the
        prefix that their prompts share."""
        settings = self.settings.advanced
        last_chunk_id = ""
        for question in planned:
            self.stats.asked[question.kind] += 1
            if question.chunk.id != last_chunk_id:
                self.stats.coverage.ask(question.chunk.document_id)
                last_chunk_id = question.chunk.id
            second = None
            if question.kind == "multi_hop":
                second = self._neighbour(question)
                if second is None:
                    yield PassItem(question, Failure("no_neighbour", question.sentence[:200]))
                    continue
            question = replace(question, second=second)
            messages = self.prompt.prompts.generate(
                self.prompt.text(question.chunk),
                question.sentence,
                question.kind,
                self.prompt.text(second) if second else None,
            )
            request = ChatRequest(
                question.id,
                messages,
                settings.max_tokens,
                settings.temperature,
                REPLY_SCHEMA,
                about=tuple(chunk.id for chunk in (question.chunk, second) if chunk),
            )
            yield PassItem(question, request=request)

    def _neighbour(self, question: PlannedQuestion) -> Chunk | None:
        """The chunk most similar to the sentence that does not overlap the question's own chunk.

        It is of the same split, so that no test text gets into a training question.
        """
        [hits] = self.retriever.search([question.sentence], NEIGHBOURS, mode="dense")
        own = question.chunk
        for chunk_id, _ in hits:
            chunk = self.chunks[chunk_id]
            overlaps = (
                chunk.document_id == own.document_id
                and chunk.start < own.end
                and own.start < chunk.end
            )
            if not overlaps and chunk.split == own.split and chunk.text != own.text:
                return chunk
        return None

    def check(self, planned: PlannedQuestion, reply: Reply) -> QAPair | Failure:
        """The pair in a reply, or the first check that it fails."""
        written = parse_reply(reply.text, reply.finish_reason)
        if isinstance(written, Failure):
            return written
        result = self._checked(planned, written)
        if isinstance(result, Failure):
            return replace(result, pair=self._rejected(planned, written))
        return result

    def _rejected(self, planned: PlannedQuestion, written: WrittenPair) -> QAPair:
        """The pair as it is shown to people, who may see it differently."""
        pair = self._pair(planned, written.question, written.answer or self.prompt.prompts.abstain)
        if planned.kind == "unanswerable":
            return pair
        span, _ = find_evidence(written, planned.chunk.text, planned.focus)
        evidence = evidence_in_chunk(planned.chunk, span) if span else None
        return replace(pair, chunk_id=planned.chunk.id, evidence=evidence)

    def _checked(self, planned: PlannedQuestion, written: WrittenPair) -> QAPair | Failure:
        checks, chunk = self.settings.advanced.checks, planned.chunk
        abstain = self.prompt.prompts.abstain
        # The cheapest checks come first; only those in generate.advanced.checks are made.
        failure = check_kind(written, planned.kind, abstain)
        if not failure and "form" in checks:
            failure = check_form(written, planned.kind)
        if not failure and "stands_alone" in checks:
            failure = check_stands_alone(written.question)
        if failure:
            return failure
        # The evidence: of an unanswerable question the passage must at least name its subject.
        if planned.kind == "unanswerable":
            if "subject" in checks:
                failure = check_subject(written.question, self.prompt.text(chunk))
            return failure or self._pair(planned, written.question, abstain)
        span, repaired = find_evidence(written, chunk.text, planned.focus)
        if "evidence" in checks:
            failure = check_evidence(written, span, chunk.text, planned.kind)
        if not failure and span is not None and "subject" in checks:
            told = " ".join((told_about(chunk.text, span), chunk.title, *chunk.headings))
            failure = check_named(written.question, told)
        if failure:
            return failure
        self.stats.repaired += repaired
        origin = "repaired" if repaired else "quoted"
        return replace(
            self._pair(planned, written.question, written.answer),
            chunk_id=chunk.id,
            evidence=None if span is None else evidence_in_chunk(chunk, span),
            checks={"evidence": None if span is None else origin},
        )

    def _pair(self, planned: PlannedQuestion, question: str, answer: str) -> QAPair:
        """A pair with its provenance and without evidence."""
        provenance: dict[str, Any] = {"chunk_id": planned.chunk.id, "variant": planned.variant}
        if planned.second is not None:
            provenance["second_chunk_id"] = planned.second.id
        provenance |= {
            "prompt": self.prompt.prompts.hash,
            "model": self.model_name,
            "seed": self.seed,
        }
        return QAPair(
            id=content_hash(planned.id, question, answer),
            question=question,
            answers=(answer,),
            chunk_id=None,
            document_id=planned.chunk.document_id,
            evidence=None,
            kind=planned.kind,
            split=planned.chunk.split,
            origin="generated",
            provenance=provenance,
        )
