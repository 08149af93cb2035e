"""An HTTP client for one model server: many requests in flight, retries with back-off, restarts.

An event loop in its own thread sends through one pooled session; callers read responses from a
plain iterator.
"""

from __future__ import annotations

import asyncio
import functools
import json
import logging
import os
import queue
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp

from rag_ft.errors import DataError, RagFtError
from rag_ft.llm.adaptive_concurrency import FIRST, FIRST_OURS, AdaptiveConcurrency
from rag_ft.llm.http_errors import (
    FailedError,
    NotAllowedError,
    RefusedError,
    failure_of,
    json_or_none,
    read_limited,
    server_message,
)

if TYPE_CHECKING:
    from rag_ft.llm.vllm_process import VLLMServer

log = logging.getLogger(__name__)

BACKOFF_SECONDS = 0.5  # before the first retry; doubles each time
LONGEST_BACKOFF_SECONDS = 30.0
AHEAD = 256  # requests drawn beyond those in flight, for the time that the caller works
GIVE_UP_AFTER_FAILURES = 20  # failed requests in a row: the server is at fault, not a request


@dataclass(frozen=True)
class Request:
    """A POST of `body` as JSON to `path`.

    `read` turns the JSON of the response into the result. Where it raises ValueError, KeyError,
    TypeError or IndexError the request is sent again. Responses over `max_bytes` are errors.
    """

    path: str
    body: dict[str, Any]
    read: Callable[[Any], Any]
    max_bytes: int = 8 * 2**20


@dataclass(frozen=True)
class Response:
    """`result` of `Request.read`, or None and the `error`. `status` is the last HTTP status (0:
    none came); `too_long` says that the request exceeds the model's context."""

    result: Any
    seconds: float
    error: str | None = None
    status: int = 200
    too_long: bool = False


class HttpClient:
    """Requests to one server, `concurrency` at a time (0: adapted to the server). `close` ends its
    thread.

    Where the server is `ours` and its process dies, it is started again, and the requests that were
    in flight are sent again.
    """

    def __init__(
        self,
        base_url: str,
        concurrency: int,
        timeout_seconds: float,
        retries: int,
        ours: VLLMServer | None = None,
    ) -> None:
        self.base_url = base_url.rstrip("/")
        self._window = AdaptiveConcurrency(
            concurrency, timeout_seconds, FIRST_OURS if ours else FIRST
        )
        self._timeout, self._retries = timeout_seconds, retries
        self._ours, self._reviving = ours, asyncio.Lock()
        self._last_success = 0.0
        self._failures_in_a_row = 0
        self._pending: deque[tuple[_Work, Any, Request]] = deque()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="rag_ft-http", daemon=True
        )
        self._thread.start()
        self._session = asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()

    def get(self, path: str) -> tuple[int, Any]:
        """(status, JSON or None) of one GET of a path or a URL. Raises OSError where nothing
        answers."""
        return self._now("GET", path, None)

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """(status, JSON or None) of one POST to a path or a URL. Raises OSError where nothing
        answers."""
        return self._now("POST", path, body)

    def stream(self, requests: Iterable[tuple[Any, Request]]) -> Iterator[tuple[Any, Response]]:
        """(tag, response) for every (tag, request), in the order in which the responses come, while
        more requests are being drawn.

        Raises:
            RagFtError: the server is gone, rejects the API key, or fails every request.
        """
        source, work, in_hand, exhausted = iter(requests), _Work(), 0, False
        try:
            while True:
                while not exhausted and in_hand < self._window.limit + AHEAD:
                    drawn = next(source, None)
                    if drawn is None:
                        exhausted = True
                        break
                    in_hand += 1
                    self._pending.append((work, *drawn))
                    self._loop.call_soon_threadsafe(self._pump)
                if not in_hand:
                    return
                tag, response = work.responses.get()
                in_hand -= 1
                if isinstance(response, BaseException):
                    raise response
                yield tag, response
        finally:
            if self._loop.is_running():
                self._loop.call_soon_threadsafe(work.cancel)

    def close(self) -> None:
        if self._loop.is_closed():
            return
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(timeout=10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        self._loop.close()

    def _pump(self) -> None:
        """Starts waiting requests while there is room (in the loop's thread, like all below)."""
        while self._pending and self._window.has_room():
            work, tag, request = self._pending.popleft()
            if work.cancelled:
                continue
            self._window.enter()
            task = self._loop.create_task(self._send(request))
            work.tasks.add(task)
            task.add_done_callback(functools.partial(self._finish, work, tag))

    def _finish(self, work: _Work, tag: Any, task: asyncio.Task[Response]) -> None:
        work.tasks.discard(task)
        self._window.leave()
        if not task.cancelled():
            work.responses.put((tag, task.exception() or task.result()))
        self._pump()

    async def _send(self, request: Request) -> Response:
        """Tries until the server answers, rejects the request, or has failed too often."""
        failed: list[float] = []  # when each failed try began
        payload = json.dumps(request.body, ensure_ascii=False).encode("utf-8", "replace")
        while True:
            # A request that killed our server must not reach it while it starts.
            if self._reviving.locked():
                async with self._reviving:
                    pass
            began = time.monotonic()
            try:
                result = await self._attempt(request, payload)
            except RefusedError as refusal:
                return Response(
                    None, time.monotonic() - began, str(refusal), refusal.status, refusal.too_long
                )
            except NotAllowedError as error:
                raise DataError(
                    f"{self.base_url} rejected the API key ({error}): set OPENAI_API_KEY to a "
                    "valid "
                    f"key and run the same command again; the replies so far are kept"
                ) from error
            except FailedError as failure:
                if self._ours and self._ours.died():
                    await self._revive(self._ours)
                    failed = []
                    continue
                failed.append(began)
                self._window.failed(began, failure.busy)
                if self._out_of_patience(failure, failed):
                    return self._give_up(failure, failed)
                await asyncio.sleep(self._pause(failure, len(failed)))
            else:
                now = time.monotonic()
                self._last_success, self._failures_in_a_row = now, 0
                self._window.succeeded(now)
                return Response(result, now - began)

    async def _attempt(self, request: Request, payload: bytes) -> Any:
        try:
            async with self._session.post(self.base_url + request.path, data=payload) as response:
                body = await read_limited(response, request.max_bytes)
                if response.status != 200:
                    raise failure_of(response, body)
                reply = json.loads(body)
                if isinstance(reply, dict) and reply.get("error") and "choices" not in reply:
                    raise FailedError(f"HTTP 200 with an error: {server_message(reply)}", 200)
                return request.read(reply)
        except TimeoutError as error:
            raise FailedError(f"no reply within {self._timeout:g} s", busy=True) from error
        except aiohttp.ClientConnectionError as error:
            raise FailedError(
                f"connection lost ({error or type(error).__name__})", gone=True
            ) from error
        except aiohttp.ClientError as error:
            raise FailedError(f"broken reply ({error or type(error).__name__})") from error
        except (ValueError, KeyError, TypeError, IndexError) as error:
            raise FailedError(
                f"reply is not what the protocol says ({type(error).__name__}: {error})"
            ) from error

    async def _revive(self, server: VLLMServer) -> None:
        """The first request that failed restarts our server, the others wait. Raises RagFtError
        when it died too often."""
        async with self._reviving:
            if server.died():
                await self._loop.run_in_executor(None, server.restart)

    def _out_of_patience(self, failure: FailedError, failed: list[float]) -> bool:
        """Counts the failures; a server that is gone or busy also gets the time of one request,
        since it may be restarting."""
        patient = failure.gone or failure.busy
        return len(failed) > self._retries and not (
            patient and time.monotonic() - failed[0] < self._timeout
        )

    def _give_up(self, failure: FailedError, failed: list[float]) -> Response:
        self._failures_in_a_row += 1
        # Since the second try: responses sent just before the server died may have come during the
        # first.
        nothing_came = self._last_success < failed[:2][-1]
        if (failure.gone and nothing_came) or self._failures_in_a_row >= GIVE_UP_AFTER_FAILURES:
            raise RagFtError(
                f"the server at {self.base_url} does not answer any more: {failure}; the replies "
                "so "
                f"far are kept: restart the server and run the same command again"
            )
        return Response(None, 0.0, f"{failure} (tried {len(failed)} times)", failure.status)

    def _pause(self, failure: FailedError, attempt: int) -> float:
        backoff = min(
            LONGEST_BACKOFF_SECONDS, BACKOFF_SECONDS * 2 ** min(attempt - 1, 10)
        ) * random.uniform(0.5, 1.5)
        return max(backoff, min(failure.wait, self._timeout))

    async def _open(self) -> aiohttp.ClientSession:
        headers = {"Content-Type": "application/json"}
        if key := os.environ.get("OPENAI_API_KEY"):  # a secret must not reach config.yaml
            headers["Authorization"] = f"Bearer {key}"
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=self._timeout),
            headers=headers,
        )

    async def _end(self) -> None:
        under_way = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        await self._session.close()

    def _now(self, method: str, path: str, body: dict[str, Any] | None) -> tuple[int, Any]:
        url = path if path.startswith("http") else self.base_url + path

        async def ask() -> tuple[int, Any]:
            async with self._session.request(method, url, json=body) as response:
                text = await response.text()
                return response.status, json_or_none(text)

        try:
            return asyncio.run_coroutine_threadsafe(ask(), self._loop).result()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise OSError(str(error) or type(error).__name__) from error


class _Work:
    """What one stream() has under way."""

    def __init__(self) -> None:
        self.responses: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
        self.tasks: set[asyncio.Task[Response]] = set()
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True
        for task in list(self.tasks):
            task.cancel()
