"""A small process between a server and its client, so that the server cannot outlive the client.

python vllm_watchdog.py COMMAND ... starts COMMAND. It stops COMMAND's whole process group when
standard input ends (the client closed it or is dead), when the client is no longer its parent, or
on SIGTERM. It exits with the server's exit code, or with 128 + N where signal N killed the server.
Standard library only: it runs as a script of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import subprocess
import sys
import time

GRACE_SECONDS = 20.0
PR_SET_PDEATHSIG = 1


def main(command: list[str]) -> int:
    """Runs `command` until it ends or its client does; returns the exit code."""

    def die_with_parent() -> None:
        """On Linux the server gets SIGTERM even when this watchdog is killed outright."""
        with contextlib.suppress(OSError, AttributeError):
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)

    stop: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _: stop.append(number))
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    client = os.getppid()
    server = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=die_with_parent
    )
    while server.poll() is None and not stop and os.getppid() == client:
        try:
            ready, _, _ = select.select([sys.stdin.fileno()], [], [], 0.5)
        except InterruptedError:
            continue
        # Readable but empty: the client has closed it.
        if ready and not os.read(sys.stdin.fileno(), 4096):
            break

    # Terminate the group, then kill what is left of it. A server that exits by itself may also
    # leave processes behind.
    _signal_group(server.pid, signal.SIGTERM)
    deadline = time.monotonic() + GRACE_SECONDS
    while server.poll() is None and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(0.2)
    _signal_group(server.pid, signal.SIGKILL)
    code = server.wait()
    return code if code >= 0 else 128 - code


def _signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
