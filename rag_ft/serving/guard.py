"""What every request passes first: host and key, limits of size, time and number, and headers."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import ipaddress
import secrets
import time
from contextlib import suppress
from http.cookies import CookieError, SimpleCookie
from urllib.parse import urlsplit

from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rag_ft.config import ServeConfig
from rag_ft.serving.errors import ApiError
from rag_ft.serving.telemetry import Telemetry

COOKIE = "rag_ft_key"
BODY_SECONDS = 60
SLOT_SECONDS = 1.0  # a request waits so long for one
# Without data of the run, so that a load balancer and a person without the key get an answer.
OPEN = ("/health", "/login", "/static/page.css", "/static/icon.svg")
HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        b"connect-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    # With no-referrer, browsers hide the origin of the login form, which is then refused.
    (b"referrer-policy", b"same-origin"),
    (b"cache-control", b"no-store"),
)


class Key:
    """The API key. Only a keyed hash of it is given to browsers, and it is gone at a restart."""

    def __init__(self, key: str) -> None:
        self._key, self._secret = key.encode(), secrets.token_bytes(32)

    @property
    def cookie(self) -> str:
        """What a browser keeps in place of the key."""
        return hmac.new(self._secret, self._key, hashlib.sha256).hexdigest()

    def opens(self, given: str) -> bool:
        """Whether `given` is the key; takes the same time whatever it is."""
        return hmac.compare_digest(given.encode(), self._key)

    def is_cookie(self, given: str) -> bool:
        """Whether `given` is `cookie`."""
        return hmac.compare_digest(given.encode(), self.cookie.encode())


class Guard:
    """ASGI middleware. A request that it lets through ends with its client: what works on it is
    cancelled where the client is gone or the time is over."""

    def __init__(
        self,
        app: ASGIApp,
        settings: ServeConfig,
        key: Key | None,
        telemetry: Telemetry,
        any_host: bool = False,
    ) -> None:
        """
        Args:
            app: The routes.
            settings: The limits, and the origins that may call.
            key: The key that clients must give. None: the Host must be a loopback name.
            telemetry: Where requests are counted.
            any_host: Without a key: any Host is taken.
        """
        self._app, self._settings, self._key = app, settings, key
        self._telemetry, self._any_host = telemetry, any_host
        self._slots = asyncio.Semaphore(settings.advanced.max_concurrent)
        self._num_working = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        began, status = time.monotonic(), 0
        headers = _headers_of(scope)
        extra = [*HEADERS, *self._cors(headers)]

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                # A route may say more precisely how long its answer is kept.
                own = {name for name, _ in message.get("headers", [])}
                added = [pair for pair in extra if pair[0] not in own]
                message = {**message, "headers": [*message.get("headers", []), *added]}
            await send(message)

        try:
            refused = self._refuse(scope, headers)
            if refused is not None:
                await refused(scope, receive, answer)
            elif scope["method"] == "OPTIONS":
                await Response(status_code=204)(scope, receive, answer)
            elif scope["method"] == "POST":
                await self._limited(scope, receive, answer)
            else:
                await self._app(scope, receive, answer)
        except ApiError as error:
            if not status:
                await error.response(_retry(error))(scope, receive, answer)
        finally:
            # Labels are names of routes, never what somebody wrote into an address.
            route = getattr(scope.get("endpoint"), "__name__", "none")
            self._telemetry.request(route, status or 499, time.monotonic() - began)

    def _refuse(self, scope: Scope, headers: dict[str, str]) -> Response | None:
        """The answer to a request that may not pass, or None.

        Raises:
            ApiError: wrong host, origin or key.
        """
        path = scope["path"]
        # Another site's page can send requests to this machine, but not hide where it comes from.
        origin, host = headers.get("origin"), headers.get("host", "")
        allowed = (None, *self._settings.advanced.cors)
        if origin not in allowed and (origin or "").partition("://")[2] != host:
            raise ApiError(403, "pages of this origin may not call (serve.advanced.cors)")
        if self._key is None:
            if not self._any_host and not is_loopback(host):
                raise ApiError(403, "the Host must be a loopback name, such as 127.0.0.1")
            return None
        if path in OPEN or scope["method"] == "OPTIONS" or self._has_key(headers, self._key):
            return None
        # A person who opens a page is asked for the key; a program gets the status.
        if scope["method"] == "GET" and (path == "/" or path.startswith("/documents/")):
            return RedirectResponse("/login", status_code=303)
        raise ApiError(401, "the API key is missing or wrong: send Authorization: Bearer KEY")

    def _has_key(self, headers: dict[str, str], key: Key) -> bool:
        kind, _, given = headers.get("authorization", "").partition(" ")
        if kind.lower() == "bearer" and key.opens(given.strip()):
            return True
        cookies: SimpleCookie = SimpleCookie()
        with suppress(CookieError):
            cookies.load(headers.get("cookie", ""))
        return COOKIE in cookies and key.is_cookie(cookies[COOKIE].value)

    def _cors(self, headers: dict[str, str]) -> list[tuple[bytes, bytes]]:
        """Headers for a page of another origin that may call the server."""
        origin = headers.get("origin", "")
        if origin not in self._settings.advanced.cors:
            return []
        return [
            (b"access-control-allow-origin", origin.encode()),
            (b"access-control-allow-headers", b"authorization, content-type"),
            (b"access-control-allow-methods", b"GET, POST, OPTIONS"),
            (b"vary", b"origin"),
        ]

    async def _limited(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a POST within the limits, until its client is gone.

        Raises:
            ApiError: too many requests, too large a body, or no answer in time.
        """
        # A body that comes slowly takes no slot.
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await self._body(receive)
        except TimeoutError as error:
            raise ApiError(408, f"the body took more than {BODY_SECONDS} s") from error
        if body is None:
            return
        # A client that has left may hold its slot for a moment longer.
        try:
            async with asyncio.timeout(SLOT_SECONDS):
                await self._slots.acquire()
        except TimeoutError as error:
            raise ApiError(429, "too many requests at a time: try again", code="busy") from error
        self._count_working(1)
        has_slot = True

        def free_slot() -> None:
            nonlocal has_slot
            if has_slot:
                has_slot = False
                self._slots.release()
                self._count_working(-1)

        async def answer(message: Message) -> None:
            # Free before the client has the end of its answer: it may ask again at once.
            if message["type"] == "http.response.body" and not message.get("more_body"):
                free_slot()
            await send(message)

        try:
            async with asyncio.timeout(self._settings.advanced.timeout_seconds):
                await _until_gone(self._app, scope, receive, answer, body)
        except TimeoutError as error:
            raise ApiError(504, "no answer within serve.advanced.timeout_seconds") from error
        finally:
            free_slot()

    def _count_working(self, change: int) -> None:
        self._num_working += change
        self._telemetry.in_flight.set(self._num_working)

    async def _body(self, receive: Receive) -> bytes | None:
        """The whole body; None where the client has gone meanwhile."""
        limit = self._settings.advanced.max_body_mb * 2**20
        parts, size = [], 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > limit:
                raise ApiError(413, "the body is larger than serve.advanced.max_body_mb")
            if not message.get("more_body"):
                return b"".join(parts)


async def _until_gone(
    app: ASGIApp, scope: Scope, receive: Receive, send: Send, body: bytes
) -> None:
    """Runs `app` on a request whose body was read; cancels it where the client disconnects."""
    gone = asyncio.get_running_loop().create_future()
    is_read = False

    async def replay() -> Message:
        nonlocal is_read
        if not is_read:
            is_read = True
            return {"type": "http.request", "body": body, "more_body": False}
        await asyncio.shield(gone)
        return {"type": "http.disconnect"}

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        gone.set_result(None)

    working = asyncio.ensure_future(app(scope, replay, send))
    watching = asyncio.ensure_future(watch())
    try:
        await asyncio.wait({working, watching}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            working.cancel()
        with suppress(asyncio.CancelledError):
            await working
    finally:
        for task in (working, watching):
            task.cancel()
        await asyncio.gather(working, watching, return_exceptions=True)


def is_loopback(host: str) -> bool:
    """Whether a Host header, or an address to bind to, names this machine alone."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
        if name == "localhost" or name.endswith(".localhost"):
            return True
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _headers_of(scope: Scope) -> dict[str, str]:
    return {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}


def _retry(error: ApiError) -> dict[str, str] | None:
    return {"Retry-After": "1"} if error.status == 429 else None
