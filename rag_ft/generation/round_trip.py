"""The checks that need models: does the retriever find a pair's chunk, does the LLM answer the same from it, and does
it not answer without it? Requests and verdicts are apart, so that many requests can be in flight."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rag_ft.config import GenerateConfig
from rag_ft.generation.filters import Failure, agreement, same_answer
from rag_ft.llm.interface import ChatRequest, Messages, Reply
from rag_ft.prompts.answer_prompt import AnswerPrompt
from rag_ft.prompts.prompt_set import Prompts, is_abstention, parse_answer
from rag_ft.relevance import contains_evidence, mentions_answer, second_chunk_id
from rag_ft.retrieval.retriever import Searcher
from rag_ft.schema import Chunk, QAPair
from rag_ft.storage import ChunkStore, batched

SEARCH_BATCH = 64
MAX_HARD_CHUNKS = 10
# Answers to anything but a summary are short; a model that rambles past this did not answer the same.
SHORT_ANSWER_TOKENS = 64

Job = tuple[QAPair, Failure | None, ChatRequest | None]


@dataclass(frozen=True)
class RoundTrip:
    """`top_k` is the number of chunks that serving shows."""

    settings: GenerateConfig
    top_k: int
    prompt: AnswerPrompt
    retriever: Searcher
    chunks: ChunkStore

    def jobs(self, pairs: Iterable[QAPair]) -> Iterator[Job]:
        """Each pair with its rank and hard chunks filled in, and the request that tests its answer; a pair whose
        chunk is not found has a failure and no request."""
        depth = max(self.settings.advanced.round_trip_k, self.top_k)
        for batch in batched(pairs, SEARCH_BATCH):
            hits = self.retriever.search([pair.question for pair in batch], depth)
            for pair, found in zip(batch, hits, strict=True):
                yield self._job(pair, [chunk_id for chunk_id, _ in found])

    def verdict(self, pair: QAPair, reply: Reply) -> QAPair | Failure:
        """The pair with what the model said in its checks, or why it fails."""
        said, _ = parse_answer(reply.text, 1 + self.top_k)
        if not said:
            return no_answer(pair, reply)
        abstained = self.prompt.abstains(said)
        agrees = same_answer(said, pair.answer, self.settings.advanced.round_trip_f1)
        if not (abstained if pair.kind == "unanswerable" else agrees and not abstained):
            return Failure(
                "round_trip_answer", f"{pair.question} -> {pair.answer} | answered: {said[:200]}"
            )
        f1 = 1.0 if pair.kind == "unanswerable" else round(agreement(said, pair.answer), 3)
        return dataclasses.replace(pair, checks={**pair.checks, "round_trip_f1": f1})

    def _job(self, pair: QAPair, found: list[str]) -> Job:
        source = self.chunks[pair.provenance["chunk_id"]]
        if not pair.answerable:
            context = [source.id, *(i for i in found if i != source.id)][: max(1, self.top_k)]
            return pair, None, self._request(pair, context)
        rank, wrong = self._rank(pair, source, found)
        if rank is None or rank > self.settings.advanced.round_trip_k:
            most = self.settings.advanced.round_trip_k
            return (
                pair,
                Failure("round_trip_rank", f"not among the first {most}: {pair.question}"),
                None,
            )
        pair = dataclasses.replace(
            pair, checks={**pair.checks, "round_trip_rank": rank}, hard_chunk_ids=wrong
        )
        second = second_chunk_id(pair)
        return pair, None, self._request(pair, [source.id, second] if second else [source.id])

    def _rank(
        self, pair: QAPair, source: Chunk, found: list[str]
    ) -> tuple[int | None, tuple[str, ...]]:
        """(rank of the first gold chunk, the wrong chunks before it)."""
        wrong: list[str] = []
        for rank, chunk_id in enumerate(found, 1):
            chunk = self.chunks[chunk_id]
            if chunk_id == source.id or contains_evidence(chunk, pair):
                return rank, tuple(wrong[:MAX_HARD_CHUNKS])
            if not mentions_answer(chunk, pair.answers):
                wrong.append(chunk_id)
        return None, ()

    def _request(self, pair: QAPair, context: list[str]) -> ChatRequest:
        messages = self.prompt.messages(pair.question, (self.chunks[i] for i in context))
        return answer_request(pair, messages, self.settings.advanced.max_tokens)


@dataclass(frozen=True)
class ClosedBook:
    """A test question that the model answers by heart tells nothing about retrieval."""

    settings: GenerateConfig
    prompts: Prompts

    def jobs(self, pairs: Iterable[QAPair]) -> Iterator[Job]:
        """Asks answerable test pairs with no context; all others pass without a request."""
        for pair in pairs:
            wanted = pair.split == "test" and pair.answerable
            messages = self.prompts.closed_book(pair.question)
            yield (
                pair,
                None,
                answer_request(pair, messages, self.settings.advanced.max_tokens)
                if wanted
                else None,
            )

    def verdict(self, pair: QAPair, reply: Reply) -> QAPair | Failure:
        said, _ = parse_answer(reply.text, 0)
        if not said:
            return no_answer(pair, reply)
        known = same_answer(said, pair.answer, self.settings.advanced.round_trip_f1)
        if known and not is_abstention(said, self.prompts.abstain):
            return Failure("closed_book", f"{pair.question} -> {pair.answer}")
        return dataclasses.replace(pair, checks={**pair.checks, "closed_book": False})


def no_answer(pair: QAPair, reply: Reply) -> Failure:
    """The model said nothing, as one that thinks until it is cut off: only the abstain sentence is an abstention."""
    cut = "cut off before an answer" if reply.finish_reason == "length" else "an empty reply"
    return Failure("no_answer", f"{cut}: {pair.question}")


def answer_request(pair: QAPair, messages: Messages, max_tokens: int) -> ChatRequest:
    short = max_tokens if pair.kind == "summary" else min(max_tokens, SHORT_ANSWER_TOKENS)
    return ChatRequest(pair.id, messages, max_tokens=short, temperature=0.0)
