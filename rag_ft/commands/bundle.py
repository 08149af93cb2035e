"""`rag-ft bundle`: what a run tuned as one folder that serves itself, and whether a bundle still
answers as the run did."""

from __future__ import annotations

import argparse
from pathlib import Path

from rag_ft.bundle.drift import Drift, require_no_drift
from rag_ft.bundle.gguf import AS_CONVERTED, TYPES, find_llama_cpp
from rag_ft.bundle.making import Gguf, check_bundle, make_bundle
from rag_ft.commands.arguments import load_checked
from rag_ft.errors import ConfigError
from rag_ft.pipeline import versions
from rag_ft.publishing import note_copy, publish
from rag_ft.terminal import note, say


def bundle_command(args: argparse.Namespace) -> None:
    """`rag-ft bundle`."""
    paths = [Path(word) for word in args.words if "=" not in word]
    overrides = [*args.overrides, *(word for word in args.words if "=" in word)]
    if args.check:
        if paths or args.to:
            raise ConfigError("--check takes a bundle alone: no configuration and no --to")
        drift = check_bundle(args.check, overrides)
        say(f"{args.check}: {drift}")
        require_no_drift(drift, args.min_agreement)
        return
    if len(paths) != 1 or not args.to:
        raise ConfigError("name one configuration, and --to FOLDER; or --check FOLDER")

    from rag_ft.bundle.contents import Contents
    from rag_ft.serving.collections import described, open_collection

    gguf = Gguf(args.gguf, find_llama_cpp(args.llama_cpp)) if args.gguf else None
    stages = ("ingest", "index", "generate", "train_retriever", "train_generator")
    collection = open_collection(load_checked(paths[0], overrides, *stages), base_only=False)
    merge = args.merge or gguf is not None
    contents = Contents(collection.session, collection.tuned, merge, args.with_base)
    drifts: dict[str, Drift] = {}

    def write(folder: Path) -> None:
        name, made_with = collection.name, versions()
        drifts.update(make_bundle(contents, folder, name, made_with, args.questions, gguf))

    note(f"[bundle] {described(collection)}")
    publish(write, args.to, is_folder=True)
    note_copy(collection.session.run_dir, "bundle", args.to)
    for what, drift in drifts.items():
        say(f"{args.to}, {what}: {drift}")
    for what, drift in drifts.items():
        coarse = what in TYPES and what not in AS_CONVERTED
        require_no_drift(drift, 0.0 if coarse else args.min_agreement)
