"""The arguments of the commands with which people decide on pairs. Imports nothing heavy."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rag_ft.schema import SPLITS


def add_review_commands(commands: Any, add: Callable[..., argparse.ArgumentParser]) -> None:
    """Adds review and import; `add` adds one command that takes a configuration file."""
    review = add(
        commands,
        "review",
        "a page to accept, reject and edit pairs by keyboard",
        "review.review_command",
    )
    review.add_argument("--host", default="127.0.0.1", help="address (default 127.0.0.1)")
    review.add_argument("--port", type=int, default=8001, help="default 8001; 0: any free one")
    review.add_argument(
        "--order",
        choices=("worst", "random", "disagreement"),
        default="worst",
        help="what comes first (default worst); only random gives an unbiased accept rate",
    )
    review.add_argument(
        "--sample", type=int, metavar="N", help="only the first N pairs of that order"
    )
    review.add_argument("--split", choices=SPLITS, help="only pairs of this split")
    review.add_argument(
        "--reviewer", metavar="NAME", help="who decides (default: the user of this machine)"
    )
    review.add_argument(
        "--overlap",
        type=float,
        default=0.2,
        help="share of the pairs (0-1) that every reviewer decides, for the agreement (default "
        "0.2); the others are done when one has decided",
    )

    taken = add(
        commands,
        "import",
        "take over decisions that people made on exported pairs",
        "import_reviews.import_command",
    )
    taken.add_argument("--format", required=True, help="label-studio, argilla, csv or xlsx")
    taken.add_argument(
        "--from", dest="source", type=Path, required=True, metavar="FILE", help="the file to read"
    )
    taken.add_argument(
        "--reviewer", metavar="NAME", help="who decided, where the file does not say"
    )
