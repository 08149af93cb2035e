"""The first pass of generation: one request for each planned pair, and from its reply a pair that may be believed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from rag_ft.config import GenerateConfig
from rag_ft.generation.filters import (
    Draft,
    Failure,
    check_evidence,
    check_form,
    check_kind,
    check_stands_alone,
    check_subject,
    find_evidence,
    parse_reply,
)
from rag_ft.generation.planner import Ask
from rag_ft.generation.statistics import Funnel
from rag_ft.llm.interface import ChatRequest, Reply
from rag_ft.prompts.answer_prompt import AnswerPrompt
from rag_ft.prompts.prompt_set import REPLY_SCHEMA
from rag_ft.relevance import evidence_in_chunk
from rag_ft.retrieval.retriever import Searcher
from rag_ft.schema import Chunk, QAPair
from rag_ft.storage import ChunkStore, content_hash

NEIGHBOURS = 20


@dataclass(frozen=True)
class Drafting:
    """`model_name` and `seed` go into the provenance of every pair."""

    settings: GenerateConfig
    seed: int
    prompt: AnswerPrompt
    retriever: Searcher
    chunks: ChunkStore
    model_name: str
    funnel: Funnel

    def jobs(self, asks: Iterable[Ask]) -> Iterator[tuple[Ask, Failure | None, ChatRequest | None]]:
        """Each ask with its request, or with a failure where it has none. Requests of a chunk follow each other, so
        that a server keeps their common beginning."""
        last = ""
        for ask in asks:
            self.funnel.asked[ask.kind] += 1
            if ask.chunk.id != last:
                self.funnel.coverage.ask(ask.chunk.document_id)
                last = ask.chunk.id
            second = self._neighbour(ask) if ask.kind == "multi_hop" else None
            if ask.kind == "multi_hop" and second is None:
                yield ask, Failure("no_neighbour", ask.sentence[:200]), None
            else:
                ask = replace(ask, second=second)
                yield ask, None, self._request(ask)

    def verdict(self, ask: Ask, reply: Reply) -> QAPair | Failure:
        """The pair in a reply, or the first check that it fails."""
        draft = parse_reply(reply.text, reply.finish_reason)
        if isinstance(draft, Failure):
            return draft
        if failure := self._fails(draft, ask):
            return failure
        if ask.kind == "unanswerable":
            if self._wants("evidence") and (
                failure := check_subject(draft.question, self.prompt.text(ask.chunk))
            ):
                return failure
            return self._pair(ask, draft.question, self.prompt.prompts.abstain)
        span, repaired = find_evidence(draft, ask.chunk.text, ask.focus)
        if self._wants("evidence") and (
            failure := check_evidence(draft, span, ask.chunk.text, ask.kind)
        ):
            return failure
        self.funnel.repaired += repaired
        return replace(
            self._pair(ask, draft.question, draft.answer),
            chunk_id=ask.chunk.id,
            evidence=None if span is None else evidence_in_chunk(ask.chunk, span),
            checks={"evidence": None if span is None else "repaired" if repaired else "quoted"},
        )

    def _fails(self, draft: Draft, ask: Ask) -> Failure | None:
        failure = check_kind(draft, ask.kind, self.prompt.prompts.abstain)
        if not failure and self._wants("form"):
            failure = check_form(draft, ask.kind)
        if not failure and self._wants("stands_alone"):
            failure = check_stands_alone(draft.question)
        return failure

    def _wants(self, check: str) -> bool:
        return check in self.settings.advanced.checks

    def _request(self, ask: Ask) -> ChatRequest:
        settings = self.settings
        second = self.prompt.text(ask.second) if ask.second else None
        messages = self.prompt.prompts.generate(
            self.prompt.text(ask.chunk), ask.sentence, ask.kind, second
        )
        return ChatRequest(
            ask.id,
            messages,
            settings.advanced.max_tokens,
            settings.advanced.temperature,
            REPLY_SCHEMA,
        )

    def _neighbour(self, ask: Ask) -> Chunk | None:
        """The chunk most like the sentence that lies elsewhere: in another document, or apart from it in its own;
        never in another split, so that no test text gets into a training question."""
        [hits] = self.retriever.search([ask.sentence], NEIGHBOURS, mode="dense")
        here = ask.chunk
        for chunk_id, _ in hits:
            chunk = self.chunks[chunk_id]
            apart = (
                chunk.document_id != here.document_id
                or chunk.start >= here.end
                or chunk.end <= here.start
            )
            if apart and chunk.split == here.split and chunk.text != here.text:
                return chunk
        return None

    def _pair(self, ask: Ask, question: str, answer: str) -> QAPair:
        provenance: dict[str, Any] = {"chunk_id": ask.chunk.id, "variant": ask.variant}
        if ask.second is not None:
            provenance["second_chunk_id"] = ask.second.id
        provenance |= {
            "prompt": self.prompt.prompts.hash,
            "model": self.model_name,
            "seed": self.seed,
        }
        return QAPair(
            id=content_hash(ask.id, question, answer),
            question=question,
            answers=(answer,),
            chunk_id=None,
            document_id=ask.chunk.document_id,
            evidence=None,
            kind=ask.kind,
            split=ask.chunk.split,
            origin="generated",
            provenance=provenance,
        )
