"""An HTTP client for one model server: many requests in flight, retries with back-off, restarts.

An event loop in its own thread sends through one pooled session; callers read responses from a
plain iterator.
"""

from __future__ import annotations

import asyncio
import functools
import json
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

from rag_ft.errors import ConfigError, DataError, RagFtError
from rag_ft.llm.adaptive_concurrency import FIRST, FIRST_OURS, AdaptiveConcurrency
from rag_ft.llm.http_errors import (
    FailedError,
    NotAllowedError,
    RejectedError,
    failure_of,
    json_or_none,
    read_limited,
    redirected,
    server_message,
)

if TYPE_CHECKING:
    from rag_ft.llm.vllm_process import VLLMServer

BACKOFF_SECONDS = 0.5  # before the first retry; doubles each time
LONGEST_BACKOFF_SECONDS = 30.0
AHEAD = 256  # requests drawn beyond those in flight, for the time that the caller works
GIVE_UP_AFTER_FAILURES = 20  # failed requests in a row: the server is at fault, not a request


@dataclass(frozen=True)
class Request:
    """A POST of `body` as JSON to `path`.

    `read` turns the JSON of the response into the result. Where it raises ValueError, KeyError,
    TypeError or IndexError, the request is sent again. A response over `max_bytes` is rejected.
    """

    path: str
    body: dict[str, Any]
    read: Callable[[Any], Any]
    max_bytes: int = 8 * 2**20


@dataclass(frozen=True)
class Response:
    """The `result` of `Request.read`, or None and the `error`.

    `seconds` is the time of the last try. `status` is its HTTP status (0: none came). `too_long`
    says that the request exceeds the model's context.
    """

    result: Any
    seconds: float
    error: str | None = None
    status: int = 200
    too_long: bool = False


class HttpClient:
    """Requests to one server, `concurrency` at a time (0: adapted to the server).

    `close` ends its thread. Where the server is `ours` and its process dies, it is started again,
    and the requests that were in flight are sent again.
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
        self._concurrency = AdaptiveConcurrency(
            concurrency, timeout_seconds, FIRST_OURS if ours else FIRST
        )
        self._timeout, self._retries = timeout_seconds, retries
        self._ours, self._restarting = ours, asyncio.Lock()
        self._last_success = 0.0
        self._failures_in_a_row = 0
        self._pending: deque[tuple[_Stream, Any, Request]] = deque()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(
            target=self._loop.run_forever, name="rag_ft-http", daemon=True
        )
        self._thread.start()
        self._session = asyncio.run_coroutine_threadsafe(self._open(), self._loop).result()

    def get(self, path: str) -> tuple[int, Any]:
        """(status, JSON or None) of one GET of a path or a URL.

        Raises:
            OSError: nothing answers there.
        """
        return self._ask_once("GET", path, None)

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        """(status, JSON or None) of one POST to a path or a URL.

        Raises:
            OSError: nothing answers there.
        """
        return self._ask_once("POST", path, body)

    def stream(self, requests: Iterable[tuple[Any, Request]]) -> Iterator[tuple[Any, Response]]:
        """(tag, response) for every (tag, request), in the order in which the responses come.

        Responses come while more requests are still being drawn from the iterable.

        Raises:
            RagFtError: the server is gone, rejects the API key, or fails every request.
        """
        source, stream, in_hand, exhausted = iter(requests), _Stream(), 0, False
        try:
            while True:
                # Keep the loop's thread supplied, also for the time in which the caller works.
                while not exhausted and in_hand < self._concurrency.limit + AHEAD:
                    drawn = next(source, None)
                    if drawn is None:
                        exhausted = True
                        break
                    in_hand += 1
                    self._pending.append((stream, *drawn))
                    self._loop.call_soon_threadsafe(self._start_pending)
                if not in_hand:
                    return
                tag, response = stream.responses.get()
                in_hand -= 1
                if isinstance(response, BaseException):
                    raise response
                yield tag, response
        finally:
            # The caller may leave early: what is still in flight is of no use to anyone.
            if self._loop.is_running():
                self._loop.call_soon_threadsafe(stream.cancel)

    def close(self) -> None:
        """Cancels what is in flight and ends the thread. May be called more than once."""
        if self._loop.is_closed():
            return

        async def end() -> None:
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._session.close()

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(timeout=10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        self._loop.close()

    def _ask_once(self, method: str, path: str, body: dict[str, Any] | None) -> tuple[int, Any]:
        url = path if path.startswith("http") else self.base_url + path

        async def ask() -> tuple[int, Any]:
            options: Any = {"json": body, "allow_redirects": False}
            async with self._session.request(method, url, **options) as response:
                if 300 <= response.status < 400:
                    raise ConfigError(f"{self.base_url}: {redirected(response)}")
                text = await response.text()
                return response.status, json_or_none(text)

        try:
            return asyncio.run_coroutine_threadsafe(ask(), self._loop).result()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise OSError(str(error) or type(error).__name__) from error

    # Everything below runs in the loop's thread.

    async def _open(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0),
            timeout=aiohttp.ClientTimeout(total=self._timeout),
            headers={"Content-Type": "application/json", **key_header()},
        )

    def _start_pending(self) -> None:
        """Starts waiting requests while there is room."""
        while self._pending and self._concurrency.has_room():
            stream, tag, request = self._pending.popleft()
            if stream.cancelled:
                continue
            self._concurrency.enter()
            task = self._loop.create_task(self._send(request))
            stream.tasks.add(task)
            task.add_done_callback(functools.partial(self._finish, stream, tag))

    def _finish(self, stream: _Stream, tag: Any, task: asyncio.Task[Response]) -> None:
        """Hands the response, or the error that ends the stream, to the caller's thread."""
        stream.tasks.discard(task)
        self._concurrency.leave()
        if not task.cancelled():
            stream.responses.put((tag, task.exception() or task.result()))
        self._start_pending()

    async def _send(self, request: Request) -> Response:
        """Tries until the server answers, rejects the request, or has failed too often."""
        failed: list[float] = []  # when each failed try began
        payload = json.dumps(request.body, ensure_ascii=False).encode("utf-8", "replace")
        while True:
            # A request that killed our server must not reach it while it starts.
            if self._restarting.locked():
                async with self._restarting:
                    pass
            began = time.monotonic()
            try:
                result = await self._attempt(request, payload)
            except RejectedError as error:
                seconds = time.monotonic() - began
                return Response(None, seconds, str(error), error.status, error.too_long)
            except FailedError as error:
                failure = error
            else:
                now = time.monotonic()
                self._last_success, self._failures_in_a_row = now, 0
                self._concurrency.succeeded(now)
                return Response(result, now - began)

            # Our own server died: the first request that notices restarts it, the others wait.
            if self._ours and self._ours.died():
                async with self._restarting:
                    if self._ours.died():
                        await self._loop.run_in_executor(None, self._ours.restart)
                failed = []
                continue

            failed.append(began)
            self._concurrency.failed(began, failure.busy)
            # A server that is gone or busy also gets the time of one request to come back.
            waiting = failure.gone or failure.busy
            patient = waiting and time.monotonic() - failed[0] < self._timeout
            if len(failed) > self._retries and not patient:
                return self._give_up(failure, failed)

            # Exponential back-off with jitter, or longer where the server asks for it.
            backoff = BACKOFF_SECONDS * 2 ** min(len(failed) - 1, 10)
            backoff = min(LONGEST_BACKOFF_SECONDS, backoff) * random.uniform(0.5, 1.5)
            await asyncio.sleep(max(backoff, min(failure.wait, self._timeout)))

    async def _attempt(self, request: Request, payload: bytes) -> Any:
        """The result of one try.

        Raises:
            RejectedError: the server will never answer this request.
            FailedError: another try may succeed.
            DataError: the server rejects the API key.
        """
        try:
            url = self.base_url + request.path
            asked = self._session.post(url, data=payload, allow_redirects=False)
            async with asked as response:
                body = await read_limited(response, request.max_bytes)
                if response.status != 200:
                    raise failure_of(response, body)
                reply = json.loads(body)
                # Some proxies report the error of the server behind them with status 200.
                if isinstance(reply, dict) and reply.get("error") and "choices" not in reply:
                    raise FailedError(f"HTTP 200 with an error: {server_message(reply)}", 200)
                return request.read(reply)
        except NotAllowedError as error:
            raise DataError(
                f"{self.base_url} rejected the API key ({error}): set OPENAI_API_KEY to a valid "
                "key and run the same command again; the replies so far are kept"
            ) from error
        except TimeoutError as error:
            raise FailedError(f"no reply within {self._timeout:g} s", busy=True) from error
        except aiohttp.ClientConnectionError as error:
            reason = f"connection lost ({error or type(error).__name__})"
            raise FailedError(reason, gone=True) from error
        except aiohttp.ClientError as error:
            raise FailedError(f"broken reply ({error or type(error).__name__})") from error
        except (ValueError, KeyError, TypeError, IndexError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise FailedError(f"the reply does not follow the protocol ({reason})") from error

    def _give_up(self, failure: FailedError, failed: list[float]) -> Response:
        """The response of a request that failed too often. `failed`: when its tries began.

        Raises:
            RagFtError: the server is at fault, not the request.
        """
        self._failures_in_a_row += 1
        # Counted from the second try on: during the first, responses may still have come that the
        # server sent just before it died.
        nothing_came = self._last_success < failed[:2][-1]
        if (failure.gone and nothing_came) or self._failures_in_a_row >= GIVE_UP_AFTER_FAILURES:
            raise RagFtError(
                f"the server at {self.base_url} does not answer any more: {failure}; the replies "
                "so far are kept: restart the server and run the same command again"
            )
        return Response(None, 0.0, f"{failure} (tried {len(failed)} times)", failure.status)


def key_header() -> dict[str, str]:
    """The header with the API key; empty where none is set. The key comes from the environment,
    because a secret must not reach config.yaml.

    Raises:
        ConfigError: the key cannot stand in a header.
    """
    key = os.environ.get("OPENAI_API_KEY", "").strip()
    if not key.isascii() or not key.isprintable():
        raise ConfigError("OPENAI_API_KEY holds characters that no HTTP header takes: set it again")
    return {"Authorization": f"Bearer {key}"} if key else {}


class _Stream:
    """What one call of stream() has in flight."""

    def __init__(self) -> None:
        self.responses: queue.SimpleQueue[tuple[Any, Any]] = queue.SimpleQueue()
        self.tasks: set[asyncio.Task[Response]] = set()
        self.cancelled = False

    def cancel(self) -> None:
        """Cancels the requests in flight; those that wait will not start."""
        self.cancelled = True
        for task in list(self.tasks):
            task.cancel()
