"""The arguments of the commands about versions of a run. Imports nothing heavy."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from rag_ft.options.shipping import finish

IMPROVE_HELP = "make the next version of a run from changed documents, reviews and feedback"


def add_version_commands(commands: Any) -> None:
    """Adds improve, versions, rollback and forget."""
    improve = _add(commands, "improve", IMPROVE_HELP)
    improve.add_argument(
        "--documents",
        nargs="+",
        type=Path,
        default=[],
        metavar="PATH",
        help="files or folders with more documents, beside those of ingest.sources",
    )
    improve.add_argument(
        "--start",
        choices=("base", "parent"),
        default="base",
        help="what trainings start from: the base models (default), or what the served version "
        "tuned",
    )
    improve.add_argument(
        "--max-loss",
        type=float,
        default=2.0,
        metavar="POINTS",
        help="served where a larger loss on the served version's test questions is excluded "
        "(default 2)",
    )
    finish(improve, "improve.improve_command")
    versions = _add(
        commands, "versions", "the versions of a run with their scores, and which one is served"
    )
    finish(versions, "versions.versions_command")
    rollback = _add(commands, "rollback", "serve an earlier version of a run again")
    rollback.add_argument(
        "version", nargs="?", metavar="VERSION", help="such as v2 (default: the one served before)"
    )
    finish(rollback, "versions.rollback_command")
    forget = _add(commands, "forget", "remove a document from all versions of a run, for good")
    forget.add_argument(
        "document", metavar="DOCUMENT", help="its id: the path below the source folder"
    )
    forget.add_argument(
        "--dry-run", action="store_true", help="only show what would go and what learnt from it"
    )
    forget.add_argument("--yes", action="store_true", help="do not ask for confirmation")
    finish(forget, "forget.forget_command")


def _add(commands: Any, name: str, text: str) -> argparse.ArgumentParser:
    """Adds a command that takes a run folder."""
    command: argparse.ArgumentParser = commands.add_parser(name, help=text, description=text)
    command.add_argument("run", type=Path, metavar="RUN", help="a run folder, such as runs/demo")
    return command
