"""The arguments of the commands about versions of a run. Imports nothing heavy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rag_ft.cli_shipping import finish

IMPROVE_HELP = "make the next version of a run from changed documents, reviews and feedback"


def add_version_commands(commands: Any) -> None:
    """Adds improve, versions and rollback."""
    improve = commands.add_parser("improve", help=IMPROVE_HELP, description=IMPROVE_HELP)
    improve.add_argument("run", type=Path, metavar="RUN", help="a run folder, such as runs/demo")
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
    versions = commands.add_parser(
        "versions",
        help="the versions of a run with their scores, and which one is served",
        description="the versions of a run with their scores, and which one is served",
    )
    versions.add_argument("run", type=Path, metavar="RUN", help="a run folder, such as runs/demo")
    finish(versions, "versions.versions_command")
    rollback = commands.add_parser(
        "rollback",
        help="serve an earlier version of a run again",
        description="serve an earlier version of a run again",
    )
    rollback.add_argument("run", type=Path, metavar="RUN", help="a run folder, such as runs/demo")
    rollback.add_argument(
        "version", nargs="?", metavar="VERSION", help="such as v2 (default: the one served before)"
    )
    finish(rollback, "versions.rollback_command")
