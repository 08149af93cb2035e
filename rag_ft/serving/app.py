"""The server: routes, the guard before them, and the streams that live as long as it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.util import find_spec
from typing import Any

from anyio import Lock, fail_after, to_thread
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from rag_ft.config import ServeConfig
from rag_ft.errors import RagFtError
from rag_ft.llm.interface import ChatRequest
from rag_ft.serving import chat, pages, retrieval_api
from rag_ft.serving.answering import Answerer
from rag_ft.serving.collections import ServedModel, language_models
from rag_ft.serving.errors import HANDLERS, ApiError
from rag_ft.serving.exchanges import Exchanges
from rag_ft.serving.following import following
from rag_ft.serving.guard import Guard, Key
from rag_ft.serving.state import ServerState, state_of
from rag_ft.serving.telemetry import Telemetry

HEALTH_SECONDS = 20.0  # a model that takes longer for one token does not answer
HEALTH_KEPT_SECONDS = 10.0


def make_app(
    models: Sequence[ServedModel],
    settings: ServeConfig,
    key: Key | None = None,
    any_host: bool = False,
) -> ASGIApp:
    """The ASGI application that serves `models`; see Guard for `key` and `any_host`."""
    telemetry = Telemetry()
    has_mcp = find_spec("mcp") is not None  # an extra
    if has_mcp:
        from rag_ft.serving.mcp import mcp, mcp_app

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[dict[str, Any]]:
        async with AsyncExitStack() as stack:
            streams = {
                id(llm): await stack.enter_async_context(llm.streaming())
                for llm in language_models(models)
            }
            answerer = Answerer(streams, settings.rewrite, telemetry)
            exchanges = Exchanges(settings.log, models[0].collection)
            by_id = {model.id: model for model in models}
            state = ServerState(
                by_id, settings, answerer, exchanges, telemetry, open_requests=counted.requests
            )
            shared: dict[str, Any] = {"server": state, "key": key, "health": Health(state)}
            shared |= {"collections": lambda: state.collections, "home": "chat"}
            if has_mcp:
                shared["mcp"] = await stack.enter_async_context(mcp_app(state))
            await stack.enter_async_context(following(state))
            yield shared

    routes = [
        Route("/", pages.chat_page),
        Route("/documents/{id:path}", pages.document_page),
        Route("/static/{name}", pages.static_file),
        Route("/login", pages.login_page, methods=["GET"]),
        Route("/login", pages.login, methods=["POST"]),
        Route("/v1/models", chat.models),
        Route("/v1/chat/completions", chat.chat_completions, methods=["POST"]),
        Route("/v1/embeddings", retrieval_api.embeddings, methods=["POST"]),
        Route("/v1/rerank", retrieval_api.rerank, methods=["POST"]),
        Route("/rerank", retrieval_api.rerank, methods=["POST"]),
        Route("/retrieval", retrieval_api.retrieval, methods=["POST"]),
        Route("/v1/vector_stores/{id}/search", retrieval_api.vector_store_search, methods=["POST"]),
        Route("/v1/feedback", pages.feedback, methods=["POST"]),
        Route("/health", health),
        Route("/metrics", metrics),
    ]
    if has_mcp:
        routes.append(Route("/mcp", mcp, methods=["POST"]))
    counted = Counted(Starlette(routes=routes, lifespan=lifespan, exception_handlers=HANDLERS))
    return Guard(counted, settings, key, telemetry, any_host)


class Counted:
    """The application around which requests are counted: `requests` has a mark of each one that
    has begun and not ended."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.requests: set[object] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        mark = object()
        self.requests.add(mark)
        try:
            await self._app(scope, receive, send)
        finally:
            self.requests.discard(mark)


class Health:
    """Whether index and language models answer; a good answer is kept for some seconds."""

    def __init__(self, state: ServerState) -> None:
        self._state, self._good_until = state, 0.0
        self._checking = Lock()

    async def check(self) -> bool:
        """Searches each collection for a word, and asks each language model for a token. Those who
        ask meanwhile wait for one check, not for one each."""
        async with self._checking:
            return time.monotonic() < self._good_until or await self._answers()

    async def _answers(self) -> bool:
        try:
            with fail_after(HEALTH_SECONDS):
                for model in self._state.models.values():
                    await self._state.answerer.retrieve(model, "health", 1, None)
                messages = ({"role": "user", "content": "health"},)
                for llm in language_models(self._state.models.values()):
                    reply = await self._state.answerer.whole(
                        llm, ChatRequest("health", messages, 1)
                    )
                    if reply.error is not None:
                        return False
        except (TimeoutError, ApiError, RagFtError):
            return False
        self._good_until = time.monotonic() + HEALTH_KEPT_SECONDS
        return True


async def health(request: Request) -> Response:
    """GET /health: 200 where index and language model answer, else 503."""
    checker: Health = request.state.health
    is_good = await checker.check()
    return JSONResponse({"status": "ok" if is_good else "failing"}, 200 if is_good else 503)


async def metrics(request: Request) -> Response:
    """GET /metrics."""
    page = await to_thread.run_sync(state_of(request).telemetry.page)
    return Response(page, media_type="text/plain; version=0.0.4; charset=utf-8")
