"""What the routes of one server share."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import quote, urlencode

from starlette.requests import Request

from rag_ft.config import ServeConfig
from rag_ft.serving.answering import TASK, Answerer, Asked, Finished
from rag_ft.serving.citations import Citation, UrlOf, context_citations
from rag_ft.serving.collections import Collection, ServedModel
from rag_ft.serving.errors import ApiError
from rag_ft.serving.exchanges import Exchange, Exchanges
from rag_ft.serving.telemetry import Telemetry


@dataclass(frozen=True)
class ServerState:
    """`models` by id, in the order of the list of models; `started` in seconds since 1970;
    `open_requests` has a mark for each request that has begun and not ended."""

    models: dict[str, ServedModel]
    settings: ServeConfig
    answerer: Answerer
    exchanges: Exchanges
    telemetry: Telemetry
    started: int = field(default_factory=lambda: int(time.time()))
    open_requests: set[object] = field(default_factory=set)

    def model(self, name: str) -> ServedModel:
        """Raises ApiError (404) where no model has this id."""
        if name not in self.models:
            known = ", ".join(self.models)
            raise ApiError(404, f"no model {name!r}: there are {known}", "model", "model_not_found")
        return self.models[name]

    @property
    def collections(self) -> Sequence[Collection]:
        """The runs that are served, each once."""
        return list({m.collection.name: m.collection for m in self.models.values()}.values())

    def links(self, request: Request, collection: Collection) -> UrlOf:
        """The address of a chunk in the page of its document."""
        root = (self.settings.advanced.public_url or str(request.base_url)).rstrip("/")
        several = len(self.collections) > 1

        def url_of(document_id: str, chunk_id: str) -> str:
            query = {"chunk": chunk_id} | ({"run": collection.name} if several else {})
            return f"{root}/documents/{quote(document_id)}?{urlencode(query)}#cited"

        return url_of

    def finish(self, request: Request, asked: Asked, finished: Finished) -> list[Citation]:
        """The citations of an answer, which becomes an exchange that can be judged."""
        url_of = self.links(request, asked.model.collection)
        citations = context_citations(
            finished.answer, asked.chunks or (), finished.inferred, url_of
        )
        if not asked.question.startswith(TASK):
            self.exchanges.add(Exchange.of(asked, finished.answer, citations))
        return citations


def state_of(request: Request) -> ServerState:
    """The state of the server that a request has come to."""
    state: ServerState = request.state.server
    return state
