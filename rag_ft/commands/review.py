"""`rag-ft review`: a page on which people decide which pairs are right."""

from __future__ import annotations

import argparse
import signal
import sys

from rag_ft.commands.arguments import checked_config_of, reviewer_of
from rag_ft.document_store import DocumentStore
from rag_ft.errors import ConfigError
from rag_ft.freshness import require_pairs
from rag_ft.serving.listening import listen
from rag_ft.session import Session
from rag_ft.terminal import note


def review_command(args: argparse.Namespace) -> None:
    """`rag-ft review`: serves the page until SIGTERM or SIGINT; needs no language model."""
    if not 0 <= args.overlap <= 1:
        raise ConfigError("--overlap is a share: between 0 and 1")
    if args.sample is not None and args.sample < 1:
        raise ConfigError("--sample must be at least 1")
    reviewer = reviewer_of(args)
    session = Session.of(checked_config_of(args, "ingest", "generate"))
    require_pairs(session.run_dir)
    key, listener = listen(args.host, args.port, insecure=None)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))

    # Imported here, so that a wrong address is said at once.
    from rag_ft.review.deck import open_deck
    from rag_ft.serving.collections import Collection
    from rag_ft.serving.review_app import ReviewState, make_review_app
    from rag_ft.serving.running import run

    config, run_dir = session.config, session.run_dir
    deck = open_deck(
        run_dir, session.chunks, args.order, args.overlap, args.split, args.sample, config.run.seed
    )
    for reject in deck.store.rejects:
        note(f"rag-ft: {reject.item} is left out: {reject.detail}")
    name = config.run_path.resolve().name
    collection = Collection(name, session, DocumentStore(run_dir.documents), frozenset(), "review")
    state = ReviewState(deck, collection, reviewer, config.llm.advanced.abstain)
    num_rejected = sum(card.where == "rejected" for card in deck.cards)
    about = [
        f"{name}: {len(deck.cards) - num_rejected} cards, and {num_rejected} that a check rejected",
        f"decisions go to {run_dir.reviews}; `rag-ft generate {args.config}` applies them",
    ]
    with listener:
        run(make_review_app(state, config.serve, key), listener, args.host, about)
