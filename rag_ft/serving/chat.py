"""POST /v1/chat/completions and GET /v1/models, in OpenAI's shapes."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from rag_ft.serving.answering import Asked, Finished
from rag_ft.serving.citations import Citation, citation_events, url_annotations
from rag_ft.serving.errors import ApiError
from rag_ft.serving.requests import ChatBody, read_body
from rag_ft.serving.state import ServerState, state_of

Pieces = AsyncGenerator[str | Finished, None]


async def models(request: Request) -> Response:
    """GET /v1/models."""
    state = state_of(request)
    data = [
        {"id": name, "object": "model", "created": state.started, "owned_by": "rag-ft"}
        for name in state.models
    ]
    return JSONResponse({"object": "list", "data": data})


async def chat_completions(request: Request) -> Response:
    """POST /v1/chat/completions."""
    state = state_of(request)
    body = await read_body(request, ChatBody)
    model = state.model(body.model)
    asked = await state.answerer.prepare(model, body, f"chatcmpl-{secrets.token_hex(12)}")
    completion = Completion(state, request, body, asked)
    if not body.stream:
        return JSONResponse(completion.whole(await state.answerer.finished(asked)))
    pieces = state.answerer.stream(asked)
    # The first piece comes before the status, so that a model that fails has an error's status.
    first = await anext(pieces)
    return StreamingResponse(completion.frames(first, pieces), media_type="text/event-stream")


class Completion:
    """One answer in OpenAI's shape: at once, or frame by frame."""

    def __init__(self, state: ServerState, request: Request, body: ChatBody, asked: Asked) -> None:
        self._state, self._request, self._body, self._asked = state, request, body, asked
        self._created = int(time.time())
        # All frames of an answer begin alike.
        self._head = json.dumps(self._frame([]))[: -len("]}")]

    def whole(self, finished: Finished) -> dict[str, Any]:
        """The body of an answer that is not streamed."""
        citations = self._state.finish(self._request, self._asked, finished)
        message = {
            "role": "assistant",
            "content": finished.answer.text,
            **self._sources(finished, citations),
        }
        choice = {
            "index": 0,
            "message": message,
            "finish_reason": finished.reply.finish_reason,
            "logprobs": None,
        }
        frame = self._frame([choice], "chat.completion")
        return frame | {"usage": _usage(finished)}

    async def frames(self, first: str | Finished, pieces: Pieces) -> AsyncIterator[str]:
        """Server-sent events: role, text, sources with the finish reason, usage where it is asked
        for, citation events, [DONE]."""
        yield self._delta({"role": "assistant", "content": ""})
        piece: str | Finished = first
        async with aclosing(pieces):
            try:
                while isinstance(piece, str):
                    yield self._delta({"content": piece})
                    piece = await anext(pieces)
            except ApiError as error:  # the status is sent already
                yield f"data: {json.dumps(error.body)}\n\n"
                return
        citations = self._state.finish(self._request, self._asked, piece)
        yield self._delta(self._sources(piece, citations), piece.reply.finish_reason)
        if self._body.stream_options and self._body.stream_options.include_usage:
            yield _event(self._frame([]) | {"usage": _usage(piece)})
        for event in citation_events(citations) if piece.answer.marks else []:
            yield _event(self._frame([]) | {"event": event})
        yield "data: [DONE]\n\n"

    def _sources(self, finished: Finished, citations: list[Citation]) -> dict[str, Any]:
        """What the last frame of a stream, or the message, says of its sources."""
        return {
            "annotations": url_annotations(finished.answer.marks, citations),
            "context": {
                "citations": citations,
                "question": self._asked.question,
                "standalone_question": self._asked.standalone,
            },
        }

    def _frame(self, choices: list[Any], kind: str = "chat.completion.chunk") -> dict[str, Any]:
        return {
            "id": self._asked.request.id,
            "object": kind,
            "created": self._created,
            "model": self._asked.model.id,
            "choices": choices,
        }

    def _delta(self, delta: dict[str, Any], finish_reason: str | None = None) -> str:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return f"data: {self._head}{json.dumps(choice)}]}}\n\n"


def _event(frame: dict[str, Any]) -> str:
    return f"data: {json.dumps(frame)}\n\n"


def _usage(finished: Finished) -> dict[str, int]:
    prompt, completion = finished.reply.prompt_tokens, finished.reply.completion_tokens
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }
