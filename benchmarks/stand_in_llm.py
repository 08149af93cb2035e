"""A stand-in for an LLM server: OpenAI's routes, and streams of a steady number of tokens a second.

    python benchmarks/stand_in_llm.py [--rate 20] [--tokens 60]

Prints its base URL first, and runs until SIGTERM. It answers every prompt with the same text, of
which one token is one word; `[1]` before its end cites the first chunk.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import time
from typing import Any

import uvicorn

TEXT = "the harbour office opens at seven and the ferry waits for the mail"
WORDS = TEXT.split()


def answer_tokens(num_tokens: int) -> list[str]:
    """The tokens of an answer, which joined are its text."""
    words = ["So", *(f" {WORDS[n % len(WORDS)]}" for n in range(num_tokens - 3)), " [1]", "."]
    return words[-num_tokens:]


class StandIn:
    """The ASGI application."""

    def __init__(self, rate: float, num_tokens: int) -> None:
        self._seconds, self._num_tokens = 1 / rate, num_tokens

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
        elif scope["path"] == "/v1/chat/completions":
            await self._stream(receive, send)
        elif scope["path"] == "/v1/models":
            models = {"object": "list", "data": [{"id": "stand-in", "object": "model"}]}
            await _begin(send, 200, b"application/json")
            await _write(send, json.dumps(models).encode(), False)
        else:
            await _begin(send, 404, b"text/plain")
            await _write(send, b"", False)

    async def _lifespan(self, receive: Any, send: Any) -> None:
        while True:
            kind = (await receive())["type"]
            await send({"type": f"{kind}.complete"})
            if kind == "lifespan.shutdown":
                return

    async def _stream(self, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        asked = json.loads(body)
        tokens = answer_tokens(min(self._num_tokens, asked.get("max_tokens") or self._num_tokens))
        gone = asyncio.ensure_future(receive())  # what comes after the body: the client is gone
        began = time.monotonic()
        await _begin(send, 200, b"text/event-stream")
        for n, token in enumerate(tokens, 1):
            await asyncio.sleep(max(0.0, began + n * self._seconds - time.monotonic()))
            if gone.done():
                return
            await _write(send, _frame({"content": token}), True)
        usage = {"prompt_tokens": 300, "completion_tokens": len(tokens), "total_tokens": 0}
        await _write(send, _frame({}, "stop") + _frame(None, usage=usage), True)
        await _write(send, b"data: [DONE]\n\n", False)
        gone.cancel()


def _frame(delta: Any, finish_reason: str | None = None, **more: Any) -> bytes:
    choices = (
        [] if delta is None else [{"index": 0, "delta": delta, "finish_reason": finish_reason}]
    )
    frame = {"id": "x", "object": "chat.completion.chunk", "choices": choices, **more}
    return f"data: {json.dumps(frame)}\n\n".encode()


async def _begin(send: Any, status: int, kind: bytes) -> None:
    headers = [(b"content-type", kind)]
    await send({"type": "http.response.start", "status": status, "headers": headers})


async def _write(send: Any, body: bytes, more: bool) -> None:
    await send({"type": "http.response.body", "body": body, "more_body": more})


def main() -> None:
    parser = argparse.ArgumentParser(description="A stand-in for an LLM server")
    parser.add_argument("--rate", type=float, default=20.0, help="tokens a second of a stream")
    parser.add_argument("--tokens", type=int, default=60, help="of an answer")
    args = parser.parse_args()
    listener = socket.create_server(("127.0.0.1", 0), backlog=512)
    print(f"http://127.0.0.1:{listener.getsockname()[1]}/v1", flush=True)
    config = uvicorn.Config(
        StandIn(args.rate, args.tokens),
        log_level="error",
        access_log=False,
        timeout_graceful_shutdown=1,
    )
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
