"""HTTP responses of a model server -> errors.

An error ends one request, or all of them, or is worth another try.
"""

from __future__ import annotations

import contextlib
import email.utils
import json
import re
import time
from typing import Any

import aiohttp

from rag_ft.storage import encodable
from rag_ft.text import redact

# What servers say of a request that is longer than their model's context.
_TOO_LONG = re.compile(
    r"context[ _](?:length|size|window)"
    r"|max(?:imum)?[ _]model[ _]len"
    r"|maximum number of (?:input )?tokens"
    r"|(?:prompt|inputs?|messages?) (?:is|are) too long"
    r"|reduce the length"
    r"|`inputs` tokens \+ `max_new_tokens`",
    re.IGNORECASE,
)


class RejectedError(Exception):
    """The server will never answer this request.

    `status` is the HTTP status (0: none). `too_long` says that the request exceeds the model's
    context.
    """

    def __init__(self, reason: str, status: int = 0) -> None:
        super().__init__(reason)
        self.status = status
        self.too_long = status in (400, 413, 422) and bool(_TOO_LONG.search(reason))


class NotAllowedError(Exception):
    """The server rejects the API key, so it will answer no request."""


class FailedError(Exception):
    """This try failed, another may succeed.

    `status` is the HTTP status (0: none). `wait` are the seconds that the server asks for. `busy`
    says that the server is overloaded, `gone` that nothing answered at all.
    """

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
    """One line of error text from {"error": {"message"}}, {"error"}, {"message"} or {"detail"}.

    Any other body is shown as it is. At most 500 characters.
    """
    if not isinstance(body, dict):
        return redact(" ".join(encodable(str(body)).split()))[:300]
    error = body.get("error", body)
    found = error.get("message") or error.get("detail") if isinstance(error, dict) else error
    return redact(" ".join(encodable(str(found or body)).split()))[:500]


async def read_limited(response: aiohttp.ClientResponse, max_bytes: int) -> bytes:
    """The body of a response. Raises RejectedError where it is longer than `max_bytes`."""
    parts, size = [], 0
    async for part in response.content.iter_any():
        size += len(part)
        if size > max_bytes:
            response.close()
            raise RejectedError(f"the reply has more than {max_bytes / 2**20:.0f} MiB: rejected")
        parts.append(part)
    return b"".join(parts)


def failure_of(response: aiohttp.ClientResponse, body: bytes) -> Exception:
    """The error that a response with an HTTP status other than 200 stands for."""
    status = response.status
    if 300 <= status < 400:
        return RejectedError(f"HTTP {status}: {redirected(response)}", status)
    said = server_message(json_or_none(body) or body.decode("utf-8", "replace"))
    message = f"HTTP {status}: {said}"
    if status in (401, 403):
        return NotAllowedError(message)
    # Timeouts, conflicts, overload and the server's own errors may pass; the other 4xx do not.
    if status in (408, 409, 425, 429) or status >= 500:
        # Retry-After is a number of seconds or an HTTP date (RFC 9110, section 10.2.3).
        asked, wait = response.headers.get("Retry-After", ""), 0.0
        try:
            wait = float(asked)
        except ValueError:
            with contextlib.suppress(ValueError):
                wait = email.utils.parsedate_to_datetime(asked).timestamp() - time.time()
        return FailedError(message, status, max(0.0, wait), busy=status in (408, 429, 503))
    return RejectedError(message, status)


def redirected(response: aiohttp.ClientResponse) -> str:
    """What to say of a redirect, which is not followed: the other server would get the prompts."""
    to = redact(response.headers.get("Location", "another address"))
    return f"the server redirects to {to[:200]}, which is not followed: correct llm.base_url"


def json_or_none(text: str | bytes) -> Any:
    """The JSON value, or None where `text` is not JSON."""
    try:
        return json.loads(text)
    except ValueError:
        return None
