"""The server: routes, the guard before them, and the streams that live as long as it."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.util import find_spec
from typing import Any

from anyio import fail_after, to_thread
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from rag_ft.config import ServeConfig
from rag_ft.errors import RagFtError
from rag_ft.llm.interface import ChatRequest, LanguageModel
from rag_ft.serving import chat, pages, retrieval_api
from rag_ft.serving.answering import Answerer
from rag_ft.serving.collections import ServedModel
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
        llms: dict[int, LanguageModel] = {}
        for model in models:
            llms |= {id(model.llm): model.llm, id(model.base_llm): model.base_llm}
        async with AsyncExitStack() as stack:
            streams = {
                name: await stack.enter_async_context(llm.streaming()) for name, llm in llms.items()
            }
            answerer = Answerer(streams, settings.rewrite, telemetry)
            exchanges = Exchanges(settings.log, models[0].collection)
            by_id = {model.id: model for model in models}
            state = ServerState(by_id, settings, answerer, exchanges, telemetry)
            health_of = Health(state, list(llms.values()))
            shared: dict[str, Any] = {"server": state, "key": key, "health": health_of}
            shared |= {"collections": state.collections, "home": "chat"}
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
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers=HANDLERS)
    return Guard(app, settings, key, telemetry, any_host)


class Health:
    """Whether index and language models answer; a good answer is kept for some seconds."""

    def __init__(self, state: ServerState, llms: Sequence[LanguageModel]) -> None:
        self._state, self._llms, self._good_until = state, llms, 0.0

    async def check(self) -> bool:
        """Searches each collection for a word, and asks each language model for a token."""
        if time.monotonic() < self._good_until:
            return True
        try:
            with fail_after(HEALTH_SECONDS):
                for model in self._state.models.values():
                    await self._state.answerer.retrieve(model, "health", 1, None)
                messages = ({"role": "user", "content": "health"},)
                for llm in self._llms:
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
