"""The real server over a tiny run, in a thread, with a language model that says what a test
wants."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from starlette.types import ASGIApp

from rag_ft.config_loader import make_config
from rag_ft.document_store import DocumentStore
from rag_ft.llm.interface import ChatRequest, Messages, Reply
from rag_ft.rag import RagPipeline
from rag_ft.serving.app import make_app
from rag_ft.serving.collections import Collection, ServedModel
from rag_ft.serving.guard import Key
from rag_ft.serving.running import Server
from rag_ft.session import Session
from rag_ft.stages import index, ingest

DOCUMENTS = [
    {"id": "ferry.md", "title": "Ferry", "text": "The ferry leaves at noon from the long pier."},
    {"id": "mill.md", "title": "Mill", "text": "The mill was built by Ola Brand in 1842."},
    {"id": "tower.md", "title": "Tower", "text": "The tower is painted white every other year."},
]


class Says:
    """A LanguageModel whose reply is `reply(request)`, streamed word by word.

    `asked` are the requests so far. `pause` are the seconds between two pieces.
    """

    name, window = "says", 1

    def __init__(self, reply: Callable[[ChatRequest], str] | str, pause: float = 0.0) -> None:
        self.reply, self.pause = reply, pause
        self.asked: list[ChatRequest] = []
        self.num_closed = self.num_open = 0
        self.error: str | None = None

    @contextlib.asynccontextmanager
    async def streaming(self) -> AsyncIterator[Any]:
        yield self.stream

    async def stream(self, request: ChatRequest) -> AsyncGenerator[str | Reply, None]:
        self.asked.append(request)
        text = self.reply if isinstance(self.reply, str) else self.reply(request)
        self.num_open += 1
        try:
            words = text.split(" ")
            for number, word in enumerate(words if self.error is None else []):
                await asyncio.sleep(self.pause)
                yield word if number == 0 else f" {word}"
            yield Reply(request.id, text, "stop", 7, len(words), 0.1, self.error)
        finally:
            self.num_open -= 1
            self.num_closed += 1

    def chat(self, requests: Iterable[ChatRequest]) -> Iterator[Reply]:
        raise AssertionError("a server streams")

    def answer_logprobs(self, jobs: Any) -> list[Any]:
        raise AssertionError("a server scores nothing")

    def count_tokens(self, messages: Messages) -> int:
        return sum(len(message["content"].split()) for message in messages)

    def __enter__(self) -> Says:
        return self

    def __exit__(self, *_: object) -> None: ...


@pytest.fixture
def llm() -> Says:
    return Says("at noon [1]")


def small_run(folder: Path, encoder: Path, documents: Any = DOCUMENTS, **serve: Any) -> Session:
    """The session of an indexed run in `folder`; `serve` are settings of that section."""
    source = folder / "documents.jsonl"
    source.write_text("".join(json.dumps(d) + "\n" for d in documents), encoding="utf-8")
    values = {
        "run": {"dtype": "float32", "dir": folder / "run"},
        "ingest": {"sources": [source]},
        "encoder": {"model": str(encoder)},
        "llm": {"model": "says", "prompts": "compact"},
        "retrieval": {"mode": "lexical"},
        "serve": serve,
    }
    session = Session.of(make_config(values))
    ingest.run(session)
    index.run(session)
    return session


def served_models(
    session: Session, llm: Says, name: str = "run", tuned: Iterable[str] = ()
) -> list[ServedModel]:
    """The three model ids of a run, all with the base retriever; `tuned` are the components that
    are said to be tuned."""
    retriever, config = session.retriever(), session.config
    collection = Collection(
        name, session, DocumentStore(session.run_dir.documents), frozenset(tuned), "test"
    )
    pipeline = RagPipeline(
        retriever,
        session.chunks,
        session.answer_prompt,
        contextlib.nullcontext(llm),
        config.retrieval.top_k,
        config.evaluate.advanced.max_tokens,
    )
    return [
        ServedModel(
            name + suffix, collection, pipeline, retriever, llm, None, llm, suffix.endswith("book")
        )
        for suffix in ("", "-base", "-closed-book")
    ]


@contextlib.contextmanager
def live(
    models: list[ServedModel], key: str | None = None, any_host: bool = False
) -> Iterator[str]:
    """The address of a running server."""
    settings = models[0].collection.session.config.serve
    with running(make_app(models, settings, Key(key) if key else None, any_host)) as address:
        yield address


class QuickServer(Server):
    """Looks every 10 ms whether it is to stop; uvicorn's own looks every 100, in every test."""

    async def main_loop(self) -> None:
        usual = asyncio.create_task(super().main_loop())
        while not self.should_exit and not usual.done():
            await asyncio.sleep(0.01)
        usual.cancel()


@contextlib.contextmanager
def running(app: ASGIApp) -> Iterator[str]:
    """The address of an application that runs in a thread."""
    config = uvicorn.Config(app, port=0, log_level="critical", access_log=False)
    server = QuickServer(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        assert thread.is_alive(), "the server did not start"
        thread.join(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(timeout=20)
        assert not thread.is_alive()


def lines_of(path: Path) -> list[str]:
    """The lines of a file; none where it is not there."""
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


@pytest.fixture
def url(session: Session, llm: Says) -> Iterator[str]:
    with live(served_models(session, llm)) as address:
        yield address
