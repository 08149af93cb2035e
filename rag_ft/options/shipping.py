"""The options of the commands that ship and check what was tuned. Imports nothing heavy."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

GGUF_TYPES = ("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M")
WEIGHT_TYPES = {
    "int8": "also merge the generator and quantise its weights to 8 bits, for vLLM",
    "int4": "the same to 4 bits",
    "fp8": "the same to 8-bit floating point, with the activations: GPUs since 2022 (Ada, Hopper)",
}


def finish(command: argparse.ArgumentParser, function: str) -> argparse.ArgumentParser:
    """`function` is "module.name" under rag_ft.commands."""
    command.add_argument("--debug", action="store_true", help="show tracebacks and notes")
    command.set_defaults(function=function)
    return command


def add_overrides(command: argparse.ArgumentParser) -> None:
    """Adds settings to the command line."""
    # With a default argparse does not list them among the arguments that are missing.
    command.add_argument(
        "overrides", nargs="*", default=[], metavar="section.key=value", help="change a setting"
    )


def add_bundle(commands: Any) -> None:
    """Adds the command that makes and checks bundles."""
    text = "write what a run tuned as one folder that serves itself, or check such a folder"
    bundle = commands.add_parser("bundle", help=text, description=text)
    bundle.add_argument(
        "words",
        nargs="*",
        metavar="CONFIG",
        help="the YAML file of the run; also section.key=value",
    )
    bundle.set_defaults(overrides=[])
    bundle.add_argument(
        "--to", metavar="FOLDER", help="a path, or any fsspec address (s3://, gs://, hf://)"
    )
    bundle.add_argument(
        "--merge", action="store_true", help="merge the tuned adapter into its base model"
    )
    small = bundle.add_mutually_exclusive_group()
    for name, text in WEIGHT_TYPES.items():
        small.add_argument(f"--{name}", dest="weights", action="store_const", const=name, help=text)
    small.add_argument(
        "--gguf",
        choices=GGUF_TYPES,
        help="also merge the generator and write it as a GGUF file for llama.cpp and Ollama",
    )
    bundle.add_argument(
        "--llama-cpp",
        type=Path,
        metavar="FOLDER",
        help="where llama.cpp was built (default: by `make gguf`)",
    )
    bundle.add_argument(
        "--quantise-python",
        type=Path,
        metavar="PYTHON",
        help="a Python that has llmcompressor (default: that of `make quantise`)",
    )
    bundle.add_argument(
        "--with-base", action="store_true", help="with the base components, to compare with"
    )
    bundle.add_argument(
        "--questions",
        type=int,
        default=100,
        help="store the run's answers to so many dev questions (default 100)",
    )
    bundle.add_argument(
        "--check",
        type=Path,
        metavar="FOLDER",
        help="ask a bundle the stored questions; exit code 3 where F1 fell by more than 1 point",
    )
    bundle.add_argument(
        "--min-agreement",
        type=float,
        default=0.95,
        metavar="SHARE",
        help="exit code 3 where fewer answers are equal (0-1, default 0.95)",
    )
    finish(bundle, "bundle.bundle_command")


def add_require(command: argparse.ArgumentParser) -> None:
    """Adds what a run must reach."""
    command.add_argument(
        "--require",
        metavar="LIST",
        help="then make the report; exit code 3 where it misses one of these, such as "
        "recall@5>=0.8,f1_delta>=0,tuned.f1>=0.6",
    )
    command.add_argument(
        "--strict",
        action="store_true",
        help="with --require: the worse end of each 95 %% interval must meet it",
    )
    command.add_argument(
        "--junit", type=Path, metavar="FILE", help="with --require: also write JUnit XML"
    )


def add_demo(commands: Any) -> None:
    """Adds the demo."""
    text = "copy a handbook and a small model into a folder, and run everything on them"
    demo = commands.add_parser("demo", help=text, description=text)
    demo.add_argument(
        "folder",
        nargs="?",
        metavar="FOLDER",
        help="where to (default rag-ft-demo)",
    )
    add_overrides(demo)
    finish(demo, "demo.demo_command")
