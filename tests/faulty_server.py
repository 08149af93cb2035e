"""A real HTTP server on loopback that answers as model servers do, or fails as they fail."""

from __future__ import annotations

import json
import random
import socket
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from rag_ft.config import LLMConfig
from rag_ft.config_loader import make_config
from rag_ft.llm import http_client
from rag_ft.llm.factory import open_language_model
from rag_ft.llm.interface import ChatRequest, Reply

Fault = Callable[["Handler", str, int], bool]


class FaultyServer(ThreadingHTTPServer):
    """Echoes prompts in capitals.

    `fault(handler, prompt, tries so far)` returns True where it has answered, usually badly.
    """

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, fault: Fault, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.fault, self.tries, self.bodies, self.most_at_once = fault, Counter(), [], 0
        self.models: list[dict[str, Any]] = [{"id": "echo"}]
        self.now, self.lock, self.open_sockets = 0, threading.Lock(), set()
        threading.Thread(
            target=self.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        ).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def kill(self) -> None:
        """As a killed process: no more connections, open ones are cut."""
        self.shutdown()
        self.server_close()
        for connection in list(self.open_sockets):
            try:
                connection.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue

    def handle_error(self, *_: object) -> None:
        pass


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: FaultyServer

    def setup(self) -> None:
        super().setup()
        self.server.open_sockets.add(self.connection)

    def do_GET(self) -> None:
        self.send(200, {"data": self.server.models})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.path.endswith("/chat/completions"):
            self.send(404, {"detail": "Not Found"})
            return
        prompt = body["messages"][-1]["content"]
        with self.server.lock:
            self.server.bodies.append(body)
            tries = self.server.tries[prompt]
            self.server.tries[prompt] += 1
            self.server.now += 1
            self.server.most_at_once = max(self.server.most_at_once, self.server.now)
        try:
            if not self.server.fault(self, prompt, tries):
                self.send(200, chat_reply(prompt.upper()))
        finally:
            with self.server.lock:
                self.server.now -= 1

    def send(
        self, status: int, body: Any, headers: dict[str, str] | None = None, cut: int | None = None
    ) -> None:
        raw = (body if isinstance(body, str) else json.dumps(body)).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(raw)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(raw[:cut])
        if cut is not None:
            self.reset()

    def reset(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.connection.close()

    def log_message(self, *_: object) -> None:
        pass


def chat_reply(text: str | None, finish_reason: str = "stop") -> dict[str, Any]:
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": text},
        "finish_reason": finish_reason,
    }
    return {"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}


def healthy(*_: object) -> bool:
    return False


Serve = Callable[..., FaultyServer]


def always(status: int, body: Any) -> Callable[[Handler, str, int], bool]:
    def fault(handler: Handler, prompt: str, tries: int) -> bool:
        handler.send(status, body)
        return True

    return fault


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., FaultyServer]]:
    monkeypatch.setattr(http_client, "BACKOFF_SECONDS", 0.01)
    servers: list[FaultyServer] = []

    def start(fault: Fault = healthy, port: int = 0) -> FaultyServer:
        servers.append(FaultyServer(fault, port))
        return servers[-1]

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def config_of(server: FaultyServer, **settings: Any) -> LLMConfig:
    values = {
        "backend": "openai",
        "base_url": server.url,
        "model": "echo",
        "timeout_seconds": 20,
        "retries": 8,
    } | settings
    return make_config({"llm": values}).llm


def requests(n: int, **settings: Any) -> list[ChatRequest]:
    return [
        ChatRequest(f"id{i}", ({"role": "user", "content": f"prompt {i}"},), 16, **settings)
        for i in range(n)
    ]


def ask(server: FaultyServer, n: int, **settings: Any) -> dict[str, Reply]:
    with open_language_model(config_of(server, **settings), seed=0) as model:
        replies = list(model.chat(requests(n)))
    assert sorted(r.id for r in replies) == sorted(f"id{i}" for i in range(n))
    return {r.id: r for r in replies}


def all_right(replies: dict[str, Reply]) -> bool:
    return all(r.error is None and r.text == f"PROMPT {key[2:]}" for key, r in replies.items())


def sometimes(share: float, act: Callable[[Handler], None]) -> Fault:
    """The fault for a random share of tries, seeded."""
    rng, lock = random.Random(0), threading.Lock()

    def fault(handler: Handler, prompt: str, tries: int) -> bool:
        with lock:
            hit = rng.random() < share
        if hit:
            act(handler)
        return hit

    return fault
