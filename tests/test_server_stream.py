"""Replies of a model server, piece by piece, also where the server fails."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from rag_ft.config_loader import make_config
from rag_ft.llm import server_stream
from rag_ft.llm.factory import open_language_model
from rag_ft.llm.interface import ChatRequest, Reply

REQUEST = ChatRequest("r", ({"role": "user", "content": "hello"},), 8)
Answer = Callable[[BaseHTTPRequestHandler, dict[str, Any]], None]


def frame(content: str | None = None, **more: Any) -> bytes:
    choice = {"index": 0, "delta": {"content": content}, "finish_reason": more.pop("reason", None)}
    return f"data: {json.dumps({'choices': [choice], **more})}\n\n".encode()


def send(handler: BaseHTTPRequestHandler, *parts: bytes, status: int = 200) -> None:
    handler.send_response(status)
    handler.send_header("Connection", "close")
    handler.end_headers()
    for part in parts:
        handler.wfile.write(part)
        handler.wfile.flush()


@contextmanager
def serving(*answers: Answer) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """The address of a server that gives these answers, the last one again and again, and the
    bodies that it got."""
    left, bodies = list(answers), list[dict[str, Any]]()

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None: ...

        def do_GET(self) -> None:
            send(self, json.dumps({"data": [{"id": "m"}]}).encode())

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            bodies.append(body)
            (left.pop(0) if len(left) > 1 else left[0])(self, body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/v1", bodies
    finally:
        server.shutdown()
        server.server_close()


def stream(url: str, request: ChatRequest = REQUEST) -> tuple[list[str], Reply]:
    llm = {"backend": "openai", "model": "m", "base_url": url, "advanced": {"timeout_seconds": 2}}
    config = make_config({"llm": llm}).llm

    async def collect() -> tuple[list[str], Reply]:
        pieces: list[str] = []
        with open_language_model(config, 0) as model:
            async with model.streaming() as streamed:
                async for piece in streamed(request):
                    if isinstance(piece, Reply):
                        return pieces, piece
                    pieces.append(piece)
        raise AssertionError("no reply")

    return asyncio.run(collect())


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_stream, "BACKOFF_SECONDS", 0.01)


def good(handler: BaseHTTPRequestHandler, _: dict[str, Any]) -> None:
    usage = {"prompt_tokens": 3, "completion_tokens": 2}
    ends = [b": ping\n\n", frame(None, reason="stop"), frame(usage=usage, choices=[])]
    send(handler, frame("at"), frame(" noon – ü"), *ends, b"data: [DONE]\n\n")


def test_pieces_come_as_the_server_sends_them() -> None:
    with serving(good) as (url, bodies):
        pieces, reply = stream(url)
    assert pieces == ["at", " noon – ü"]
    assert (reply.text, reply.finish_reason) == ("at noon – ü", "stop")
    assert (reply.prompt_tokens, reply.completion_tokens) == (3, 2)
    assert bodies[0]["stream"] is True and bodies[0]["max_tokens"] == 8


def test_the_api_key_may_have_white_space_around_it(monkeypatch: pytest.MonkeyPatch) -> None:
    keys: list[str | None] = []

    def asked(handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        keys.append(handler.headers["Authorization"])
        good(handler, body)

    # As a shell reads it from a file.
    monkeypatch.setenv("OPENAI_API_KEY", "sk-a1b2c3d4\n")
    with serving(asked) as (url, _):
        assert stream(url)[1].text == "at noon – ü"
    assert keys == ["Bearer sk-a1b2c3d4"]


def test_an_event_may_come_in_any_cuts() -> None:
    def cut(handler: BaseHTTPRequestHandler, _: dict[str, Any]) -> None:
        whole = frame("at") + frame(" noon", reason="length") + b"data: [DONE]\r\n\r\n"
        send(handler, *(whole[n : n + 7] for n in range(0, len(whole), 7)))

    with serving(cut) as (url, _):
        pieces, reply = stream(url)
    assert (pieces, reply.finish_reason, reply.completion_tokens) == (["at", " noon"], "length", 2)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_that_fails_before_the_first_piece_is_asked_again(status: int) -> None:
    def busy(handler: BaseHTTPRequestHandler, _: dict[str, Any]) -> None:
        send(handler, b'{"error": {"message": "busy"}}', status=status)

    with serving(busy, busy, good) as (url, bodies):
        assert stream(url)[1].text == "at noon – ü"
        assert len(bodies) == 3
    with serving(busy) as (url, bodies):
        _, reply = stream(url)
    assert reply.error and "busy" in reply.error and len(bodies) == server_stream.TRIES


def test_a_request_that_is_too_long_is_refused_at_once() -> None:
    def long(handler: BaseHTTPRequestHandler, _: dict[str, Any]) -> None:
        send(handler, b'{"error": {"message": "maximum context length is 8"}}', status=400)

    with serving(long) as (url, bodies):
        pieces, reply = stream(url)
    assert (pieces, reply.refused, len(bodies)) == ([], True, 1)


def test_a_schema_that_the_server_rejects_is_the_clients_error() -> None:
    def rejects(handler: BaseHTTPRequestHandler, _: dict[str, Any]) -> None:
        send(handler, b'{"error": {"message": "no such grammar"}}', status=400)

    with serving(rejects) as (url, _):
        assert not stream(url)[1].refused
        assert stream(url, replace(REQUEST, schema={"type": "x"}))[1].refused


def broken_off(handler: BaseHTTPRequestHandler, _: dict[str, Any]) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    handler.wfile.write(frame("at"))


def no_json(handler: BaseHTTPRequestHandler, _: dict[str, Any]) -> None:
    send(handler, frame("at"), b"data: {oops\n\n")


def says_error(handler: BaseHTTPRequestHandler, _: dict[str, Any]) -> None:
    send(handler, frame("at"), b'data: {"error": {"message": "out of memory"}}\n\n')


def no_object(handler: BaseHTTPRequestHandler, _: dict[str, Any]) -> None:
    send(handler, frame("at"), b"data: [1]\n\n")


@pytest.mark.parametrize("fault", [broken_off, no_json, says_error, no_object])
def test_a_reply_that_breaks_off_is_an_error_and_is_not_begun_again(fault: Answer) -> None:
    with serving(fault) as (url, bodies):
        pieces, reply = stream(url)
    assert pieces == ["at"] and reply.error and not reply.text
    assert len(bodies) == 1


def test_a_model_in_this_process_streams_what_it_answers(tiny_lm_dir: Path) -> None:
    config = make_config({"llm": {"model": str(tiny_lm_dir)}, "run": {"dtype": "float32"}}).llm

    async def collect(model: Any, request: ChatRequest) -> tuple[list[str], Reply]:
        pieces: list[str] = []
        async with model.streaming() as streamed:
            async for piece in streamed(request):
                if isinstance(piece, Reply):
                    return pieces, piece
                pieces.append(piece)
        raise AssertionError("no reply")

    request = ChatRequest("r", REQUEST.messages, 24, temperature=0.8)
    with open_language_model(config, 0) as model:
        [whole] = model.chat([request])
        pieces, reply = asyncio.run(collect(model, request))
        too_long = ChatRequest("r", REQUEST.messages, 1_000_000)
        none, refused = asyncio.run(collect(model, too_long))
    assert len(pieces) > 1
    assert "".join(pieces) == reply.text == whole.text
    assert (reply.completion_tokens, reply.finish_reason) == (24, whole.finish_reason)
    assert not none and refused.refused


def test_a_stream_that_is_closed_ends_the_models_work(tiny_lm_dir: Path) -> None:
    config = make_config({"llm": {"model": str(tiny_lm_dir)}, "run": {"dtype": "float32"}}).llm
    request = ChatRequest("r", REQUEST.messages, 1900)

    async def first_then_next(model: Any) -> Reply:
        async with model.streaming() as streamed:
            pieces = streamed(request)
            await anext(pieces)
            await pieces.aclose()
            # Requests wait for each other: this one would wait for 1,900 tokens.
            short = ChatRequest("s", REQUEST.messages, 2)
            async for piece in streamed(short):
                if isinstance(piece, Reply):
                    return piece
        raise AssertionError("no reply")

    with open_language_model(config, 0) as model:
        reply = asyncio.run(asyncio.wait_for(first_then_next(model), 3))
    assert reply.completion_tokens == 2
