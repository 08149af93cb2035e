"""Replies of a model server as they are written: server-sent events -> pieces of text."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import TYPE_CHECKING, Any

import aiohttp

from rag_ft.config import LLMConfig
from rag_ft.llm.http_client import key_header
from rag_ft.llm.http_errors import (
    FailedError,
    NotAllowedError,
    RejectedError,
    failure_of,
    read_limited,
    server_message,
)
from rag_ft.llm.interface import ChatRequest, Reply, token_count

if TYPE_CHECKING:
    from rag_ft.llm.vllm_process import VLLMServer

TRIES = 3  # before the first piece of text; somebody waits for it
BACKOFF_SECONDS = 0.5
MAX_EVENT_BYTES = 2**20
MAX_ERROR_BYTES = 2**20


class ServerStream:
    """One pooled session, for the event loop in which its context is entered.

    Where the server is `ours` and its process dies, it is started again.
    """

    def __init__(self, base_url: str, config: LLMConfig, ours: VLLMServer | None) -> None:
        self._url, self._timeout = base_url + "/chat/completions", config.advanced.timeout_seconds
        self._ours, self._restarting = ours, asyncio.Lock()

    async def __aenter__(self) -> ServerStream:
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            # A long answer may take longer than the limit: it counts from one piece to the next.
            timeout=aiohttp.ClientTimeout(total=None, connect=10, sock_read=self._timeout),
            headers={"Accept": "text/event-stream", **key_header()},
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def stream(
        self, request: ChatRequest, body: dict[str, Any]
    ) -> AsyncGenerator[str | Reply, None]:
        """See interface.Stream. `body` is the request as `/chat/completions` takes it.

        A request that fails before its first piece is sent again, `TRIES` times in all. What fails
        for good ends with a Reply that says why.
        """
        body = {**body, "stream": True, "stream_options": {"include_usage": True}}
        parts: list[str] = []
        began, tries = time.monotonic(), 0
        while True:
            tries += 1
            finish_reason, usage = "stop", dict[str, Any]()
            try:
                async for event in self._events(body):
                    usage = event.get("usage") or usage
                    choice = (event.get("choices") or [{}])[0]
                    finish_reason = choice.get("finish_reason") or finish_reason
                    if piece := (choice.get("delta") or {}).get("content"):
                        parts.append(piece)
                        yield piece
                break
            except NotAllowedError as error:
                yield _failed(request, str(error))
                return
            except RejectedError as error:
                # What a server says of a schema differs, so the status decides.
                bad_schema = request.schema is not None and error.status in (400, 422)
                yield _failed(request, str(error), error.too_long or bad_schema)
                return
            except FailedError as error:
                reason, wait = str(error), error.wait
            except (aiohttp.ClientError, TimeoutError) as error:
                reason, wait = f"connection lost ({error or type(error).__name__})", 0.0
            except (ValueError, TypeError, AttributeError, LookupError) as error:
                reason, wait = f"the reply does not follow the protocol ({error})", 0.0
            if parts or tries == TRIES:
                yield _failed(request, reason)
                return
            await self._restart_ours()
            await asyncio.sleep(max(BACKOFF_SECONDS * tries, min(wait, self._timeout)))

        # Servers that count no tokens have written about one a piece.
        completion_tokens = token_count(usage.get("completion_tokens"))
        prompt_tokens = token_count(usage.get("prompt_tokens"))
        yield Reply(
            request.id,
            "".join(parts),
            "length" if finish_reason == "length" else "stop",
            prompt_tokens,
            completion_tokens or len(parts),
            time.monotonic() - began,
        )

    async def _events(self, body: dict[str, Any]) -> AsyncIterator[dict[str, Any]]:
        """The JSON objects of one response.

        Raises:
            RejectedError, NotAllowedError, FailedError: as http_errors says.
            ValueError: an event is no JSON object.
        """
        async with self._session.post(self._url, json=body) as response:
            if response.status != 200:
                raise failure_of(response, await read_limited(response, MAX_ERROR_BYTES))
            rest = b""
            async for part in response.content.iter_any():
                *lines, rest = (rest + part).split(b"\n")
                if len(rest) > MAX_EVENT_BYTES:
                    raise ValueError(f"an event has more than {MAX_EVENT_BYTES} bytes")
                for line in lines:
                    data = line[5:].strip() if line.startswith(b"data:") else b""
                    if data == b"[DONE]":
                        return
                    if data:
                        event = json.loads(data)
                        if event.get("error") and not event.get("choices"):
                            raise FailedError(f"the server failed: {server_message(event)}")
                        yield event

    async def _restart_ours(self) -> None:
        """Starts our own server again where it died; requests that come meanwhile wait for it."""
        if self._ours is None:
            return
        async with self._restarting:
            if self._ours.died():
                await asyncio.get_running_loop().run_in_executor(None, self._ours.restart)


def _failed(request: ChatRequest, reason: str, refused: bool = False) -> Reply:
    return Reply(request.id, "", "error", 0, 0, 0.0, reason, refused)
