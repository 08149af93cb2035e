"""`rag-ft bundle`: what a run tuned as one folder that serves itself, and whether a bundle still
answers as the run did."""

from __future__ import annotations

import argparse
from pathlib import Path

from rag_ft.bundle.drift import Drift, require_no_drift
from rag_ft.bundle.gguf import AS_CONVERTED, find_llama_cpp
from rag_ft.bundle.making import Gguf, check_bundle, make_bundle
from rag_ft.bundle.quantise import Quantised, find_quantiser
from rag_ft.commands.arguments import load_checked, paths_and_overrides
from rag_ft.errors import ConfigError
from rag_ft.hardware import has_fp8
from rag_ft.pipeline import versions
from rag_ft.publishing import note_copy, publish
from rag_ft.terminal import note, say

# These must answer as the run did; the others may word answers differently, if F1 does not fall.
ALIKE = {"bundle", "int8", *AS_CONVERTED}


def bundle_command(args: argparse.Namespace) -> None:
    """`rag-ft bundle`."""
    paths, overrides = paths_and_overrides(args, args.words)
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

    stages = ("ingest", "index", "generate", "train_retriever", "train_generator")
    config = load_checked(paths[0], overrides, *stages)
    wanted = _wanted(args)
    collection = open_collection(config, base_only=False)
    merge = args.merge or wanted is not None
    contents = Contents(collection.session, collection.tuned, merge, args.with_base)
    drifts: dict[str, Drift] = {}

    def write(folder: Path) -> None:
        name, made_with = collection.name, versions()
        drifts.update(make_bundle(contents, folder, name, made_with, args.questions, wanted))

    note(f"[bundle] {described(collection)}")
    publish(write, args.to, is_folder=True)
    note_copy(collection.session.run_dir, "bundle", args.to)
    for what, drift in drifts.items():
        say(f"{args.to}, {what}: {drift}")
    for what, drift in drifts.items():
        require_no_drift(drift, args.min_agreement if what in ALIKE else 0.0)


def _wanted(args: argparse.Namespace) -> Gguf | Quantised | None:
    """The smaller form that the options ask for, after making sure that it can be made."""
    if args.gguf:
        return Gguf(args.gguf, find_llama_cpp(args.llama_cpp))
    if not args.weights:
        return None
    if args.weights == "fp8" and not has_fp8():
        raise ConfigError("--fp8 needs a GPU that computes in it (Ada, Hopper or newer): --int8")
    return Quantised(args.weights, find_quantiser(args.quantise_python))
