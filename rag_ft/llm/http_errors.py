"""HTTP responses of a model server -> errors: final for a request, final for all, or worth another
try."""

from __future__ import annotations

import email.utils
import json
import re
import time
from typing import Any

import aiohttp

from rag_ft.storage import encodable

# What servers say of a request that is longer than their model's context.
_TOO_LONG = re.compile(
    r"context[ _](?:length|size|window)|max(?:imum)?[ _]model[ _]len|maximum number of (?:input "
    r")?tokens"
    r"|(?:prompt|inputs?|messages?) (?:is|are) too long|reduce the length|`inputs` tokens \+ "
    r"`max_new_tokens`",
    re.IGNORECASE,
)


class RefusedError(Exception):
    """The server will never answer this request; `too_long` says that it exceeds the model's
    context."""

    def __init__(self, reason: str, status: int = 0) -> None:
        super().__init__(reason)
        self.status = status
        self.too_long = status in (400, 413, 422) and bool(_TOO_LONG.search(reason))


class NotAllowedError(Exception):
    """The server rejects the API key: no request will be answered."""


class FailedError(Exception):
    """This try failed, another may succeed. `wait` are the seconds that the server asks for, `busy`
    says that it is overloaded, `gone` that nothing answered at all."""

    def __init__(
        self,
        reason: str,
        status: int = 0,
        wait: float = 0.0,
        busy: bool = False,
        gone: bool = False,
    ) -> None:
        super().__init__(reason)
        self.status, self.wait, self.busy, self.gone = status, wait, busy, gone


def server_message(body: Any) -> str:
    """One line of error text: of {"error": {"message"}}, {"message"} or {"detail"}, as servers
    write it."""
    if not isinstance(body, dict):
        return " ".join(encodable(str(body)).split())[:300]
    error = body.get("error", body)
    found = error.get("message") or error.get("detail") if isinstance(error, dict) else error
    return " ".join(encodable(str(found or body)).split())[:500]


async def read_limited(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    """The body. Raises RefusedError where it is longer than `max_bytes`."""
    parts, size = [], 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > max_bytes:
            response.close()
            raise RefusedError(f"reply of more than {max_bytes / 2**20:.0f} MB: dropped")
        parts.append(part)
    return b"".join(parts)


def failure_of(response: aiohttp.ClientResponse, body: bytes) -> Exception:
    """The error that a response with an HTTP status other than 200 stands for."""
    status = response.status
    message = (
        f"HTTP {status}: {server_message(json_or_none(body) or body.decode('utf-8', 'replace'))}"
    )
    if status in (408, 409, 425, 429) or status >= 500:
        return FailedError(
            message,
            status,
            _retry_after(response.headers.get("Retry-After")),
            busy=status in (408, 429, 503),
        )
    return NotAllowedError(message) if status in (401, 403) else RefusedError(message, status)


def _retry_after(value: str | None) -> float:
    """Seconds, from a number or an HTTP date; 0 where there is none."""
    if not value:
        return 0.0
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return 0.0


def json_or_none(text: str | bytes) -> Any:
    """The JSON value, or None where `text` is none."""
    try:
        return json.loads(text)
    except ValueError:
        return None
