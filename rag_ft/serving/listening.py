"""Where a server listens, and the key that it asks for."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from rag_ft.errors import ConfigError
from rag_ft.serving.guard import Key, is_loopback

KEY, KEY_FILE = "RAG_FT_API_KEY", "RAG_FT_API_KEY_FILE"


def listen(host: str, port: int, insecure: bool | None) -> tuple[Key | None, socket.socket]:
    """(the key that clients must give, the bound socket). `insecure` lets everybody in; None: the
    command has no such flag.

    Raises:
        ConfigError: an address of the network without a key, or a taken port.
    """
    secret = read_key()
    if secret is None and not insecure and not is_loopback(f"[{host}]" if ":" in host else host):
        flag = ", or --insecure to let everybody in" if insecure is not None else ""
        raise ConfigError(
            f"{host} can be reached from the network: set {KEY} (or {KEY_FILE}){flag}"
        )
    return Key(secret) if secret is not None else None, bind(host, port)


def bind(host: str, port: int) -> socket.socket:
    """A socket bound to the address. Raises ConfigError where that cannot be."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.socket(family)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        return listener
    except (OSError, OverflowError, UnicodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"cannot listen on {host} port {port}: {reason}; choose another --port or --host"
        ) from error


def read_key() -> str | None:
    """The key that clients must give; None where there is none.

    Raises:
        ConfigError: the key is empty, not ASCII, or its file cannot be read.
    """
    key, file = os.environ.get(KEY), os.environ.get(KEY_FILE)
    if key is None and file:
        try:
            key = Path(file).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read the file that {KEY_FILE} names") from error
    if key is None:
        return None
    key = key.strip()
    if not key or not key.isascii() or not key.isprintable():
        raise ConfigError(f"{KEY} must be printable ASCII and not empty")
    return key
