"""`rag-ft serve`: an OpenAI-compatible server for what one or more runs have tuned."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

from rag_ft.commands.arguments import load_checked
from rag_ft.config import Config
from rag_ft.errors import ConfigError

KEY, KEY_FILE = "RAG_FT_API_KEY", "RAG_FT_API_KEY_FILE"


def serve_command(args: argparse.Namespace) -> None:
    """`rag-ft serve`."""
    paths = [Path(word) for word in args.configs if "=" not in word]
    overrides = [*args.overrides, *(word for word in args.configs if "=" in word)]
    if not paths:
        raise ConfigError("name at least one configuration file, such as configs/demo.yaml")
    stages = ("ingest", "index", "train_retriever", "train_reranker", "train_generator")
    configs = [load_checked(path, overrides, *stages) for path in paths]
    serve(configs, args.host, args.port, args.base, args.insecure)


def serve(
    configs: Sequence[Config],
    host: str = "127.0.0.1",
    port: int = 8000,
    base: bool = False,
    insecure: bool = False,
) -> None:
    """Serves the runs until SIGTERM or SIGINT; then it answers what it has begun, and ends.

    Prints the address once it can be reached. `base` serves base components only. The key is read
    from RAG_FT_API_KEY, or from the file that RAG_FT_API_KEY_FILE names.

    Raises:
        ConfigError: an address of the network without a key, a taken port, or models that do not
            fit.
        DataError: a run has no finished index.
    """
    # Imported here, so that a wrong address is said at once.
    from rag_ft.serving.guard import Key, is_loopback

    secret = read_key()
    if secret is None and not insecure and not is_loopback(f"[{host}]" if ":" in host else host):
        raise ConfigError(
            f"{host} can be reached from the network: set {KEY} (or {KEY_FILE}), or --insecure to "
            "let everybody in"
        )
    listener = bind(host, port)
    # The default would end the process at once, and leave a vLLM server to its watchdog.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))

    from rag_ft.serving.app import make_app
    from rag_ft.serving.collections import described, open_collection, open_models
    from rag_ft.serving.running import run

    key = Key(secret) if secret is not None else None
    collections = [open_collection(config, base) for config in configs]
    with listener, open_models(collections) as models:
        settings = configs[0].serve
        about = [described(collection) for collection in collections]
        run(make_app(models, settings, key, any_host=insecure), listener, host, about)


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
        raise ConfigError(f"cannot listen on {host} port {port}: {reason}") from error


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
