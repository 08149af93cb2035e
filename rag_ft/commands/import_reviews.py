"""`rag-ft import`: decisions that people made in another tool, as reviews of a run."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path

from rag_ft.commands.arguments import checked_config_of, reviewer_of
from rag_ft.errors import ConfigError, DataError
from rag_ft.freshness import require_pairs
from rag_ft.integrations import argilla, label_studio, spreadsheets
from rag_ft.review.deck import open_deck
from rag_ft.review.exchange import Returned, reviews_from
from rag_ft.session import Session
from rag_ft.storage import write_jsonl
from rag_ft.terminal import note, say

READERS: dict[str, Callable[[Path], Iterator[Returned]]] = {
    "label-studio": label_studio.read,
    "argilla": argilla.read,
    "csv": spreadsheets.read_csv,
    "xlsx": spreadsheets.read_xlsx,
}
NUM_SHOWN = 5


def import_command(args: argparse.Namespace) -> None:
    """`rag-ft import`: appends to reviews.jsonl; rows that cannot be taken go to
    rejects/import.jsonl."""
    if args.format not in READERS:
        raise ConfigError(f"no import format '{args.format}': choose from {', '.join(READERS)}")
    session = Session.of(checked_config_of(args, "ingest", "generate"))
    run_dir = session.run_dir
    require_pairs(run_dir)
    deck = open_deck(run_dir, session.chunks)
    reviewer = reviewer_of(args)
    returned = READERS[args.format](args.source)
    reviews, rejects, num_same = reviews_from(deck, returned, reviewer)
    if reviews:
        deck.store.append(*reviews)
    if rejects:
        write_jsonl(run_dir.rejects("import"), rejects)
        for reject in rejects[:NUM_SHOWN]:
            note(f"rag-ft: {reject.item} is left out: {reject.reason}")
    if rejects and not reviews and not num_same:
        raise DataError(f"no row of {args.source} could be taken: see {run_dir.rejects('import')}")
    next_step = f"; `rag-ft generate {args.config}` applies them" if reviews else ""
    say(
        f"{len(reviews)} decisions imported, {num_same} rows decide nothing new, {len(rejects)} "
        f"rejected{next_step}"
    )
