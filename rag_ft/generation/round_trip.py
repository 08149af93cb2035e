"""The checks of a pair that need models.

Round trip: the retriever finds the pair's chunk, and the language model gives the same answer from
it. Closed book: the model does not give the answer without the chunk. Each check first yields its
requests and later takes the replies, so that many requests can be in flight.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from rag_ft.chunk_store import ChunkStore
from rag_ft.config import GenerateConfig
from rag_ft.generation.ask_model import PassItem
from rag_ft.generation.filters import Failure, agreement, same_answer
from rag_ft.llm.interface import ChatRequest, Messages, Reply
from rag_ft.prompts.answer_prompt import AnswerPrompt
from rag_ft.prompts.prompt_set import Prompts, is_abstention, parse_answer
from rag_ft.relevance import contains_evidence, mentions_answer, second_chunk_id
from rag_ft.retrieval.retriever import Searcher
from rag_ft.schema import QAPair
from rag_ft.storage import batched

SEARCH_BATCH = 64
MAX_HARD_CHUNKS = 10
# All answers but summaries are short. A model that exceeds this did not give the same answer.
SHORT_ANSWER_TOKENS = 64


@dataclass(frozen=True)
class RoundTrip:
    """`top_k` is the number of chunks that the generator is shown when serving."""

    settings: GenerateConfig
    top_k: int
    prompt: AnswerPrompt
    retriever: Searcher
    chunks: ChunkStore

    def requests(self, pairs: Iterable[QAPair]) -> Iterator[PassItem]:
        """Each pair with the request that checks its answer, or with a failure if its chunk is not
        found. Fills in the pair's rank and its hard chunks."""
        depth = max(self.settings.advanced.round_trip_k, self.top_k)
        for batch in batched(pairs, SEARCH_BATCH):
            questions, filters = [pair.question for pair in batch], [pair.filters for pair in batch]
            hits = self.retriever.search(questions, depth, filters=filters)
            for pair, found in zip(batch, hits, strict=True):
                found_ids = [chunk_id for chunk_id, _ in found]
                if pair.answerable:
                    yield self._answerable(pair, found_ids)
                else:
                    # The model must abstain, although it sees as many chunks as when serving.
                    source_id = pair.provenance["chunk_id"]
                    others = [chunk_id for chunk_id in found_ids if chunk_id != source_id]
                    shown = [source_id, *others][: max(1, self.top_k)]
                    yield PassItem(pair, request=self._request(pair, shown))

    def _answerable(self, pair: QAPair, found_ids: list[str]) -> PassItem:
        source_id, most = pair.provenance["chunk_id"], self.settings.advanced.round_trip_k
        # The rank is that of the first gold chunk. Chunks before it that do not mention the answer
        # are hard negatives for training.
        rank: int | None = None
        hard_ids: list[str] = []
        for place, chunk_id in enumerate(found_ids, 1):
            chunk = self.chunks[chunk_id]
            if chunk_id == source_id or contains_evidence(chunk, pair):
                rank = place
                break
            if not mentions_answer(chunk, pair.answers):
                hard_ids.append(chunk_id)
        if rank is None or rank > most:
            detail = f"not among the first {most}: {pair.question}"
            return PassItem(pair, Failure("round_trip_rank", detail))
        pair = replace(
            pair,
            checks={**pair.checks, "round_trip_rank": rank},
            hard_chunk_ids=tuple(hard_ids[:MAX_HARD_CHUNKS]),
        )
        second_id = second_chunk_id(pair)
        shown = [source_id, second_id] if second_id else [source_id]
        return PassItem(pair, request=self._request(pair, shown))

    def _request(self, pair: QAPair, chunk_ids: Sequence[str]) -> ChatRequest:
        """Asks the pair's question over these chunks, in this order."""
        messages = self.prompt.messages(pair.question, (self.chunks[i] for i in chunk_ids))
        return answer_request(pair, messages, self.settings.advanced.max_tokens, chunk_ids)

    def check(self, pair: QAPair, reply: Reply) -> QAPair | Failure:
        """The pair with the F1 of the model's answer in its checks, or why it is rejected."""
        said, _ = parse_answer(reply.text, 1 + self.top_k)
        if not said:
            return no_answer(pair, reply)
        abstained = self.prompt.abstains(said)
        if pair.answerable:
            least_f1 = self.settings.advanced.round_trip_f1
            passed = not abstained and same_answer(said, pair.answer, least_f1)
        else:
            passed = abstained
        if not passed:
            detail = f"{pair.question} -> {pair.answer} | answered: {said[:200]}"
            return Failure("round_trip_answer", detail)
        f1 = round(agreement(said, pair.answer), 3) if pair.answerable else 1.0
        return replace(pair, checks={**pair.checks, "round_trip_f1": f1})


@dataclass(frozen=True)
class ClosedBook:
    """Rejects test questions that the model answers without any chunk: they cannot measure
    retrieval."""

    settings: GenerateConfig
    prompts: Prompts

    def requests(self, pairs: Iterable[QAPair]) -> Iterator[PassItem]:
        """Each pair; answerable ones of the test split with a request, the others without."""
        for pair in pairs:
            if pair.split != "test" or not pair.answerable:
                yield PassItem(pair)
                continue
            messages = self.prompts.closed_book(pair.question)
            request = answer_request(pair, messages, self.settings.advanced.max_tokens)
            yield PassItem(pair, request=request)

    def check(self, pair: QAPair, reply: Reply) -> QAPair | Failure:
        """The pair with the result in its checks, or why it is rejected."""
        said, _ = parse_answer(reply.text, 0)
        if not said:
            return no_answer(pair, reply)
        known = same_answer(said, pair.answer, self.settings.advanced.round_trip_f1)
        if known and not is_abstention(said, self.prompts.abstain):
            return Failure("closed_book", f"{pair.question} -> {pair.answer}")
        return replace(pair, checks={**pair.checks, "closed_book": False})


def no_answer(pair: QAPair, reply: Reply) -> Failure:
    """The reason for rejecting a pair after an empty reply, such as that of a model that reasons
    until its length limit. Only the abstain sentence counts as abstaining."""
    cut = "cut off before an answer" if reply.finish_reason == "length" else "an empty reply"
    return Failure("no_answer", f"{cut}: {pair.question}")


def answer_request(
    pair: QAPair, messages: Messages, max_tokens: int, shown: Sequence[str] = ()
) -> ChatRequest:
    """Asks for an answer of at most `max_tokens` without sampling; only summaries may be long.
    `shown` are the ids of the chunks in the messages."""
    short = max_tokens if pair.kind == "summary" else min(max_tokens, SHORT_ANSWER_TOKENS)
    return ChatRequest(
        pair.id, messages, max_tokens=short, temperature=0.0, about=(pair.id, *shown)
    )
