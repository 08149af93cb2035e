"""What the review page is told of a card."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from review_run import make_review_run

from rag_ft.document_store import DocumentStore
from rag_ft.review.cards import card_data
from rag_ft.review.deck import open_deck
from rag_ft.schema import Chunk
from rag_ft.storage import read_jsonl, write_jsonl


@pytest.mark.parametrize(
    ("headings", "place"),
    [
        ((), "page 3"),
        (("Mill 0",), "page 3"),
        (("Mill 0", "South wing"), "page 3, South wing"),
        (("South wing", "Mill 0"), "page 3, South wing > Mill 0"),
    ],
)
def test_the_title_of_a_document_is_said_once(
    tmp_path: Path, headings: tuple[str, ...], place: str
) -> None:
    session = make_review_run(tmp_path, num_documents=1)
    chunks = [
        replace(c, headings=headings, page=3) for c in read_jsonl(session.run_dir.chunks, Chunk)
    ]
    write_jsonl(session.run_dir.chunks, chunks)
    deck = open_deck(session.run_dir, session.chunks)
    data = card_data(deck, deck.cards[0], "ann", DocumentStore(session.run_dir.documents))
    assert (data["document"]["title"], data["document"]["place"]) == ("Mill 0", place)
