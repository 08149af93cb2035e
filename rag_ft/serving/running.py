"""Runs an application on a bound socket, until a signal ends it."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Sequence

import uvicorn
from starlette.types import ASGIApp

DRAIN_SECONDS = 30


def run(app: ASGIApp, listener: socket.socket, host: str, about: Sequence[str] = ()) -> None:
    """Serves `app` until SIGTERM or SIGINT; requests in progress get DRAIN_SECONDS.

    The first line printed is the address, once it can be reached; `about` are further lines.
    """
    config = uvicorn.Config(
        app,
        log_level="error",
        access_log=False,
        server_header=False,
        ws="none",  # where a package for websockets is installed, uvicorn would answer them itself
        timeout_graceful_shutdown=DRAIN_SECONDS,
    )
    shown = f"[{host}]" if ":" in host else host
    lines = [f"http://{shown}:{listener.getsockname()[1]}", *about]
    with contextlib.suppress(KeyboardInterrupt):
        server = _Server(config)
        server.lines = lines
        server.run(sockets=[listener])


class _Server(uvicorn.Server):
    """Says where it listens, once it does."""

    lines: Sequence[str] = ()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            print("\n".join(self.lines), flush=True)
