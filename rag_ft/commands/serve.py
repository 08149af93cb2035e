"""`rag-ft serve`: an OpenAI-compatible server for what one or more runs have tuned."""

from __future__ import annotations

import argparse
import functools
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from rag_ft.commands.arguments import load_checked, paths_and_overrides
from rag_ft.config import Config
from rag_ft.config_loader import load_config
from rag_ft.errors import ConfigError
from rag_ft.run_dir import RunDir
from rag_ft.serving.listening import listen
from rag_ft.versions import promoted


def serve_command(args: argparse.Namespace) -> None:
    """`rag-ft serve`."""
    paths, overrides = paths_and_overrides(args, args.configs)
    if not paths:
        raise ConfigError("name at least one configuration file, such as configs/demo.yaml")
    stages = ("ingest", "index", "train_retriever", "train_reranker", "train_generator")
    load = [functools.partial(promoted_config, path, overrides, *stages) for path in paths]
    serve(load, args.host, args.port, args.base, args.insecure)


def promoted_config(path: Path, overrides: list[str], *stages: str) -> Config:
    """The configuration of a bundle, or of the promoted version of a run, whose files are as these
    stages wrote them."""
    if not path.is_dir():
        run_path = load_config(path, overrides).run_path
        if (run := promoted(run_path)) != run_path:
            path, overrides = RunDir(run).config, [*overrides, f"run.dir={run}"]
    return load_checked(path, overrides, *stages)


def serve(
    load: Sequence[Callable[[], Config]],
    host: str = "127.0.0.1",
    port: int = 8000,
    base: bool = False,
    insecure: bool = False,
) -> None:
    """Serves the runs until SIGTERM or SIGINT; then it answers what it has begun, and ends.

    `load` gives the configuration of each run's promoted version, now and when another one is
    promoted. Prints the address once it can be reached. `base` serves base components only. The key
    is read from RAG_FT_API_KEY, or from the file that RAG_FT_API_KEY_FILE names.

    Raises:
        ConfigError: an address of the network without a key, a taken port, or models that do not
            fit.
        DataError: a run has no finished index.
    """
    # A wrong address is said at once, before anything heavy is imported.
    key, listener = listen(host, port, insecure)
    # The default would end the process at once, and leave a vLLM server to its watchdog.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))

    from rag_ft.serving.app import make_app
    from rag_ft.serving.collections import described, open_collection, open_models
    from rag_ft.serving.running import run

    configs = [load_one() for load_one in load]
    pairs = zip(configs, load, strict=True)
    collections = [open_collection(config, base, load_one) for config, load_one in pairs]
    with listener, open_models(collections) as models:
        settings = configs[0].serve
        about = [described(collection) for collection in collections]
        run(make_app(models, settings, key, any_host=insecure), listener, host, about)
