"""Messages of a chat -> retrieved chunks -> pieces of an answer -> the finished answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio
from anyio import to_thread

from rag_ft.errors import DataError
from rag_ft.llm.interface import ChatRequest, LanguageModel, Messages, Reply, Stream
from rag_ft.prompts.answer_stream import AnswerStream
from rag_ft.rag import RetrievedChunk
from rag_ft.serving.citations import infer_citation
from rag_ft.serving.collections import ServedModel
from rag_ft.serving.errors import ApiError
from rag_ft.serving.requests import MAX_QUESTION, ChatBody
from rag_ft.serving.rewriting import MAX_TOKENS, Turn, rewrite_prompt, rewritten
from rag_ft.serving.searching import SearchQueue
from rag_ft.serving.telemetry import Telemetry

T = TypeVar("T")

# Chat pages ask the same model for titles, tags and follow-up questions.
TASK = "### Task:"
MAX_CHARACTERS_PER_TOKEN = 16  # of text; English has four or five


@dataclass(frozen=True)
class Asked:
    """A request that is ready for the language model.

    `standalone` is the question that chunks were looked up for. `chunks` is None where no answer
    from chunks is asked for: a task of a chat page, or a closed book. `llm` is the model to ask;
    None: filters allow no chunk, and a tuned model may know by heart what they exclude.
    """

    model: ServedModel
    llm: LanguageModel | None
    question: str
    standalone: str
    chunks: tuple[RetrievedChunk, ...] | None
    request: ChatRequest
    stops: tuple[str, ...]


@dataclass(frozen=True)
class Finished:
    """The whole answer. `inferred`: its citation is ours, not the model's."""

    reply: Reply
    answer: AnswerStream
    inferred: bool


class Answerer:
    """Retrieves in threads and streams from the language models."""

    def __init__(self, streams: dict[int, Stream], rewrite: bool, telemetry: Telemetry) -> None:
        """
        Args:
            streams: The open streams, by `id` of their language model.
            rewrite: Whether follow-up questions are rewritten.
            telemetry: Where seconds and tokens are counted.
        """
        self.streams, self._rewrite, self._telemetry = streams, rewrite, telemetry
        # An encoder uses all cores already: work side by side would only wait for each other.
        self._encoding = anyio.CapacityLimiter(1)
        self._searches = SearchQueue(self._encoding)

    async def prepare(self, model: ServedModel, body: ChatBody, request_id: str) -> Asked:
        """Retrieval and prompt of a chat request.

        Raises:
            ApiError: there is no question, or the filters are malformed.
        """
        turns = [Turn(m.role, m.content) for m in body.messages if m.role in ("user", "assistant")]
        question = turns[-1].text.strip() if turns and turns[-1].role == "user" else ""
        if not question:
            raise ApiError(400, "the last message must be a question of the user", "messages")
        if question.startswith(TASK):
            messages: Messages = tuple(
                {"role": m.role, "content": m.content} for m in body.messages
            )
            request = await self._request(model, body, request_id, messages, None)
            return Asked(
                model, model.base_llm, question, question, None, request, tuple(body.stops)
            )

        if len(question) > MAX_QUESTION:
            raise ApiError(400, f"the question has more than {MAX_QUESTION} characters", "messages")
        standalone, chunks, adapter = question, None, None
        llm: LanguageModel | None = model.base_llm
        if len(turns) > 1 and self._rewrite:
            standalone = await self._standalone(model, turns[:-1], question)
        if model.closed_book:
            messages = model.collection.session.prompts.closed_book(standalone)
        else:
            chunks = tuple(await self.retrieve(model, standalone, None, body.filters))
            messages = model.pipeline.prompt(standalone, chunks)
            adapter = model.adapter
            llm = model.llm if chunks or not body.filters else None
        request = await self._request(model, body, request_id, messages, adapter)
        return Asked(model, llm, question, standalone, chunks, request, tuple(body.stops))

    async def retrieve(
        self,
        model: ServedModel,
        question: str,
        k: int | None,
        filters: dict[str, Any] | None,
    ) -> list[RetrievedChunk]:
        """The `k` best chunks (None: retrieval.top_k) of the documents that `filters` allow.

        Raises:
            ApiError: the filters are malformed.
        """
        with self._step("retrieve"):
            return await self._searches.retrieve(model.pipeline, question, k, filters)

    async def in_thread(self, work: Callable[[], T], step: str) -> T:
        """What `work()` returns, in a thread, one at a time; its seconds are those of `step`."""
        with self._step(step):
            async with self._encoding:
                running = asyncio.ensure_future(to_thread.run_sync(work))
                try:
                    return await asyncio.shield(running)
                finally:
                    # A thread cannot be ended. Where its client has left, the next one waits for
                    # it: threads that work side by side would pile up.
                    with anyio.CancelScope(shield=True):
                        await asyncio.wait({running})

    @contextmanager
    def _step(self, name: str) -> Iterator[None]:
        """Counts the seconds, also of waiting. Raises ApiError where what is asked is wrong."""
        began = time.monotonic()
        try:
            yield
        except DataError as error:
            raise ApiError(400, str(error)) from error
        finally:
            self._telemetry.step(name, time.monotonic() - began)

    async def stream(self, asked: Asked) -> AsyncGenerator[str | Finished, None]:
        """Pieces of the answer as they can be shown, then the finished answer.

        Raises:
            ApiError: the language model failed.
        """
        abstains = asked.model.collection.session.answer_prompt.abstains
        # JSON has brackets of its own.
        marked = asked.chunks is not None and asked.request.schema is None
        answer = AnswerStream(len(asked.chunks or ()) if marked else None, abstains)
        stop = StopText(asked.stops)
        reply: Reply | None = None
        began, is_first = time.monotonic(), True
        async with aclosing(self._pieces(asked)) as pieces:
            async for piece in pieces:
                if isinstance(piece, Reply):
                    reply = piece
                    break
                if is_first:
                    self._telemetry.step("first_token", time.monotonic() - began)
                    is_first = False
                if shown := answer.feed(stop.feed(piece)):
                    yield shown
                if stop.found:
                    break
        if reply is None:  # the client's own stop ended it
            reply = Reply(asked.request.id, answer.text, "stop", 0, stop.num_pieces, 0.0)
        if reply.error is not None:
            raise ApiError(400 if reply.refused else 502, f"the language model: {reply.error}")
        if rest := answer.feed(stop.finish()) + answer.finish():
            yield rest
        cited = infer_citation(answer, asked.chunks) if marked and asked.chunks else ""
        if cited:
            yield cited
        self._telemetry.answered(reply, asked.chunks is not None, answer)
        yield Finished(reply, answer, bool(cited))

    async def finished(self, asked: Asked) -> Finished:
        """The finished answer, where nobody reads its pieces. Raises ApiError as `stream`."""
        async with aclosing(self.stream(asked)) as pieces:
            async for piece in pieces:
                if isinstance(piece, Finished):
                    return piece
        raise AssertionError("a stream ends with the finished answer")

    def _pieces(self, asked: Asked) -> AsyncGenerator[str | Reply, None]:
        """The reply to a request: the model's, or an abstention where filters allow no chunk."""
        if asked.llm is not None:
            return self.streams[id(asked.llm)](asked.request)
        return _said(asked.request.id, asked.model.collection.session.prompts.abstain)

    async def _standalone(self, model: ServedModel, history: list[Turn], question: str) -> str:
        """The question rewritten to be understood alone; itself where that fails."""
        request = ChatRequest("rewrite", rewrite_prompt(history, question), MAX_TOKENS)
        began = time.monotonic()
        reply = await self.whole(model.base_llm, request)
        self._telemetry.step("rewrite", time.monotonic() - began)
        if reply.error is not None:
            return question
        abstained = model.collection.session.answer_prompt.abstains(reply.text)
        return rewritten(reply.text, history, question, abstained)

    async def whole(self, llm: LanguageModel, request: ChatRequest) -> Reply:
        """The reply to one request."""
        async with aclosing(self.streams[id(llm)](request)) as pieces:
            async for piece in pieces:
                if isinstance(piece, Reply):
                    return piece
        raise AssertionError("a stream ends with its reply")

    async def _request(
        self,
        model: ServedModel,
        body: ChatBody,
        request_id: str,
        messages: Messages,
        adapter: str | None,
    ) -> ChatRequest:
        """The request to the language model. Its longest reply is what the client asks for, as far
        as the model's context has room beside the prompt.

        Raises:
            ApiError: the prompt is far too long; to count its tokens alone would take seconds.
        """
        config = model.collection.session.config
        longest = MAX_CHARACTERS_PER_TOKEN * config.llm.max_model_tokens
        if sum(len(message["content"]) for message in messages) > longest:
            raise ApiError(400, f"the messages have more than {longest} characters", "messages")
        default = config.evaluate.advanced.max_tokens
        wanted = body.max_completion_tokens or body.max_tokens or default
        if wanted > default:
            used = await to_thread.run_sync(model.llm.count_tokens, messages)
            wanted = max(1, min(wanted, config.llm.max_model_tokens - used))
        temperature = body.temperature or 0.0
        return ChatRequest(request_id, messages, wanted, temperature, _schema(body), adapter)


async def _said(request_id: str, text: str) -> AsyncGenerator[str | Reply, None]:
    yield text
    yield Reply(request_id, text, "stop", 0, 0, 0.0)


class StopText:
    """Cuts a reply at the first of some texts, however the reply comes in pieces."""

    def __init__(self, stops: tuple[str, ...]) -> None:
        self._stops, self._held = stops, ""
        self.found = False
        self.num_pieces = 0

    def feed(self, piece: str) -> str:
        """What comes before a stop text and cannot be the beginning of one."""
        self.num_pieces += 1
        if not self._stops:
            return piece
        self._held += piece
        places = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if places:
            self.found = True
            shown, self._held = self._held[: min(places)], ""
            return shown
        keep = max(_overlap(self._held, stop) for stop in self._stops)
        shown = self._held[: len(self._held) - keep]
        self._held = self._held[len(shown) :]
        return shown

    def finish(self) -> str:
        """What was held back."""
        held, self._held = self._held, ""
        return held


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of `text` with which `stop` begins."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)


def _schema(body: ChatBody) -> dict[str, Any] | None:
    """The JSON schema that the reply is to follow, or None."""
    form = body.response_format or {}
    if form.get("type") == "json_object":
        return {"type": "object"}
    named = form.get("json_schema")
    schema = named.get("schema") if isinstance(named, dict) else None
    return schema if form.get("type") == "json_schema" and isinstance(schema, dict) else None
