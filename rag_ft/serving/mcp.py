"""POST /mcp: the Model Context Protocol's tools search, ask and get_document (extra `mcp`)."""

from __future__ import annotations

import functools
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Annotated, Any

from mcp import MCPError
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp.server.transport_security import TransportSecuritySettings
from mcp.types import INVALID_PARAMS, ToolAnnotations
from pydantic import Field
from starlette.requests import Request
from starlette.types import ASGIApp

from rag_ft.errors import RagFtError
from rag_ft.schema import Document
from rag_ft.serving.collections import Collection, ServedModel
from rag_ft.serving.errors import ApiError
from rag_ft.serving.requests import ChatBody, Filters, Message, Question
from rag_ft.serving.state import ServerState
from rag_ft.version import __version__

READ_ONLY = ToolAnnotations(read_only_hint=True, open_world_hint=False)
SHOWN_CHARACTERS = 20_000

ModelId = Annotated[
    str | None, Field(description="A model id of the server. Default: its first one.")
]
NumChunks = Annotated[
    int | None,
    Field(ge=1, le=100, description="Default: as many as an answer is written from."),
]
DocumentFilters = Annotated[
    Filters | None,
    Field(description="Which documents: {field of their metadata: value, or list of values}."),
]


@asynccontextmanager
async def mcp_app(state: ServerState) -> AsyncIterator[ASGIApp]:
    """The ASGI application that answers POST /mcp, while the context is open."""
    server = make_server(state)
    # Stateless: each POST stands alone, so that all of them pass the same limits. The guard has
    # checked Host and Origin already.
    server.streamable_http_app(
        stateless_http=True,
        max_request_body_size=int(state.settings.advanced.max_body_mb * 2**20),
        transport_security=TransportSecuritySettings(enable_dns_rebinding_protection=False),
    )
    async with server.session_manager.run():
        yield server.session_manager.handle_request


async def mcp(request: Request) -> ASGIApp:
    """POST /mcp."""
    app: ASGIApp = request.state.mcp
    return app


def make_server(state: ServerState) -> MCPServer:
    """The MCP server over what a server serves."""
    names = ", ".join(collection.name for collection in state.collections)
    server = MCPServer(
        "rag_ft",
        instructions=f"Searches documents, and answers questions from them. Collections: {names}.",
        version=__version__,
        log_level="WARNING",
        middleware=[without_prompts],
        subscriptions=False,  # a stream without end, about tools that never change
    )
    tools = Tools(state)
    for tool in (tools.search, tools.ask, tools.get_document):
        server.add_tool(tool, annotations=READ_ONLY)
    return server


async def without_prompts(ctx: Any, call_next: Callable[[Any], Awaitable[Any]]) -> Any:
    """Middleware that answers a request for a prompt. The library would log the client's mistake
    as an error, with a traceback."""
    if ctx.method == "prompts/get":
        raise MCPError(INVALID_PARAMS, "this server has no prompts")
    return await call_next(ctx)


class Tools:
    """The tools, as methods: what a language model sees of them is their text here."""

    def __init__(self, state: ServerState) -> None:
        self._state = state

    async def search(
        self,
        query: Question,
        context: Context,
        model: ModelId = None,
        k: NumChunks = None,
        filters: DocumentFilters = None,
    ) -> dict[str, Any]:
        """Find the chunks of the documents that fit a query best, best first."""
        with tool_errors():
            chosen = self._model(model)
            found = await self._state.answerer.retrieve(chosen, query, k, filters)
        url_of = self._state.links(_request(context), chosen.collection)
        chunks = [
            {
                "title": one.chunk.title,
                "text": one.chunk.text,
                "url": url_of(one.chunk.document_id, one.chunk.id),
                "document_id": one.chunk.document_id,
                "chunk_id": one.chunk.id,
                "score": round(one.score, 6),
            }
            for one in found
        ]
        return {"chunks": chunks}

    async def ask(
        self,
        question: Question,
        context: Context,
        model: ModelId = None,
        filters: DocumentFilters = None,
    ) -> dict[str, Any]:
        """Answer a question from the documents, with the chunks that the answer cites as [n].

        `abstained` is true where the documents do not contain an answer.
        """
        body = ChatBody(
            model=model or next(iter(self._state.models)),
            messages=[Message(role="user", content=question)],
            filters=filters,
        )
        answerer, name = self._state.answerer, f"mcp-{secrets.token_hex(12)}"
        with tool_errors():
            asked = await answerer.prepare(self._model(model), body, name)
            finished = await answerer.finished(asked)
        citations = self._state.finish(_request(context), asked, finished)
        return {
            "id": name,
            "answer": finished.answer.text,
            "abstained": finished.answer.abstained,
            "citations": [
                {key: one[key] for key in ("rank", "title", "url", "content", "document_id")}
                for one in citations
                if one["cited"]
            ],
        }

    async def get_document(
        self,
        document_id: str,
        model: ModelId = None,
        start: Annotated[int, Field(ge=0, description="First character to return.")] = 0,
    ) -> dict[str, Any]:
        """Read a document. Long ones come in parts: `next_start` is where the next one begins."""
        with tool_errors():
            read = functools.partial(_document, self._model(model).collection, document_id)
            document = await self._state.answerer.in_thread(read, "document")
        end = start + SHOWN_CHARACTERS
        return {
            "document_id": document.id,
            "title": document.title,
            "metadata": document.metadata,
            "text": document.text[start:end],
            "next_start": end if end < len(document.text) else None,
        }

    def _model(self, name: str | None) -> ServedModel:
        return self._state.model(name or next(iter(self._state.models)))


@contextmanager
def tool_errors() -> Iterator[None]:
    """Errors with a remedy reach the client's language model in their own words."""
    try:
        yield
    except (ApiError, RagFtError) as error:
        raise ToolError(str(error)) from error


def _document(collection: Collection, document_id: str) -> Document:
    if document_id not in collection.documents:
        raise ApiError(404, f"no document {document_id!r}: search gives document_id")
    return collection.documents[document_id]


def _request(context: Context) -> Request:
    request = context.request_context.request
    assert isinstance(request, Request)  # over HTTP there always is one
    return request
