"""Runs an application on a bound socket, until a signal ends it."""

from __future__ import annotations

import contextlib
import resource
import socket
from collections.abc import Sequence
from typing import Any

import uvicorn
from starlette.types import ASGIApp

DRAIN_SECONDS = 30
TICKS_PER_SECOND = 10  # of uvicorn's main loop
SILENT_SECONDS = 20
MOST_CONNECTIONS = 65_536


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
        server = Server(config)
        server.lines = lines
        raise_open_files()
        server.run(sockets=[listener])


class Server(uvicorn.Server):
    """Says where it listens, once it does. Closes connections on which no request comes: uvicorn
    waits for the first one, and for the rest of its headers, for ever."""

    lines: Sequence[str] = ()
    _silent: frozenset[tuple[Any, Any]] = frozenset()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started and self.lines:
            print("\n".join(self.lines), flush=True)

    async def on_tick(self, counter: int) -> bool:
        if counter % max(1, round(SILENT_SECONDS * TICKS_PER_SECOND)) == 0:
            self._close_silent()
        return await super().on_tick(counter)

    def _close_silent(self) -> None:
        """Closes the connections that had no request when this was last called, and had none
        since."""
        connections: Any = self.server_state.connections
        silent = frozenset(
            (one, one.cycle)
            for one in connections
            if one.cycle is None or one.cycle.response_complete
        )
        for one, _ in silent & self._silent:
            one.transport.close()
        self._silent = silent


def raise_open_files() -> None:
    """Lets this process have as many connections as the system allows: the usual 1,024 are soon
    taken, and then nobody is let in."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_CONNECTIONS if hard == resource.RLIM_INFINITY else min(hard, MOST_CONNECTIONS)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
