"""Which cards a reviewer sees, in which order, and what is counted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from review_run import make_review_run

from rag_ft.review.checks import check_text, doubt
from rag_ft.review.deck import Deck, open_deck
from rag_ft.review.filtering import Wanted
from rag_ft.review.store import ReviewStore, decided
from rag_ft.schema import QAPair
from rag_ft.session import Session
from rag_ft.storage import append_lines, read_jsonl, write_jsonl


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return make_review_run(tmp_path)


def deck_of(session: Session, **settings: Any) -> Deck:
    return open_deck(session.run_dir, session.chunks, **settings)


def asked(deck: Deck, reviewer: str = "ann", **wanted: str) -> list[str]:
    return [deck.cards[number].pair.id for number in deck.queue(reviewer, Wanted(**wanted))]


def decide(deck: Deck, pair_id: str, decision: str, reviewer: str = "ann", **changes: Any) -> None:
    [card] = [card for card in deck.cards if card.pair.id == pair_id]
    deck.store.append(decided(card.pair, decision, reviewer, **changes))
    deck.follow()


def test_every_pair_is_a_card_and_rejected_ones_are_shown_only_on_request(session: Session) -> None:
    deck = deck_of(session)
    assert len(asked(deck)) == 30 and not [i for i in asked(deck) if i.startswith("r")]
    assert sorted(asked(deck, where="rejected")) == [f"r{n}" for n in range(6)]


def test_the_worst_come_first(session: Session) -> None:
    path = session.run_dir.generated_pairs
    pairs = list(read_jsonl(path, QAPair))
    wrong = replace(pairs[7], answers=("Nobody at all",))
    vague = replace(pairs[12], question="Who built it?")
    by_id = {pair.id: pair for pair in (wrong, vague)}
    write_jsonl(path, [by_id.get(pair.id, pair) for pair in pairs])
    assert set(asked(deck_of(session))[:2]) == {wrong.id, vague.id}


def test_a_random_order_is_fixed_by_the_seed(session: Session) -> None:
    first, again, other = (asked(deck_of(session, order="random", seed=s)) for s in (1, 1, 2))
    assert first == again != other and sorted(first) == sorted(other)
    assert first != asked(deck_of(session))


def test_a_sample_is_the_first_of_the_order(session: Session) -> None:
    for order in ("worst", "random"):
        whole = asked(deck_of(session, order=order))
        assert asked(deck_of(session, order=order, sample=4)) == whole[:4]


def test_a_split_can_be_reviewed_alone(session: Session) -> None:
    deck = deck_of(session, split="test")
    assert {card.pair.split for card in deck.cards} == {"test"} and len(asked(deck)) == 10


@pytest.mark.parametrize(
    ("wanted", "num"),
    [
        ({"kind": "unanswerable"}, 6),
        ({"split": "dev"}, 10),
        ({"document": "d3.md"}, 5),
        ({"text": "PAINTED mill"}, 6),
        ({"text": "rank>=4 part"}, 6),
        ({"text": "rank=1"}, 6),
        ({"text": '"part 1 of"'}, 6),
        ({"text": "evidence=quoted agreement<1"}, 0),
        ({"where": "generated"}, 30),
        ({"where": "imported"}, 0),
        ({"text": "rank>many"}, 0),
    ],
)
def test_filters(session: Session, wanted: dict[str, str], num: int) -> None:
    assert len(asked(deck_of(session), **wanted)) == num


def test_a_decided_card_is_done_for_all_but_where_reviewers_overlap(session: Session) -> None:
    for overlap, others in ((0.0, 29), (1.0, 30)):
        deck = deck_of(session, overlap=overlap)
        if overlap == 0:
            decide(deck, "p0-0", "accept")
        assert len(asked(deck, "ann")) == 29 and asked(deck, "ann", status="mine") == ["p0-0"]
        assert len(asked(deck, "bob")) == others
        assert asked(deck, "bob", status="decided") == ["p0-0"]


def test_the_share_of_overlap_is_kept(tmp_path: Path) -> None:
    deck = deck_of(make_review_run(tmp_path, 200, 5), overlap=0.2)
    share = sum(deck.is_shared(card) for card in deck.cards) / len(deck.cards)
    assert 0.15 < share < 0.25


def test_disagreement_comes_first(session: Session) -> None:
    deck = deck_of(session, order="disagreement", overlap=1.0)
    last = asked(deck)[-1]
    decide(deck, last, "accept", "bob")
    assert asked(deck)[0] != last, "the checks accepted it too"
    decide(deck, last, "reject", "cid")
    assert asked(deck)[0] == last and asked(deck, status="disputed") == [last]
    decide(deck, "r0", "accept", "bob")
    assert "r0" in asked(deck, status="disputed", where="rejected")


def test_the_rate_counts_what_was_accepted_as_written(session: Session) -> None:
    deck = deck_of(session)
    decide(deck, "p0-0", "accept")
    decide(deck, "p0-1", "edit", answers=("X",))
    decide(deck, "p0-4", "reject")
    decide(deck, "p0-3", "unsure")
    rates = {rate.name: (rate.num_good, rate.num) for rate in deck.rates()}
    assert rates == {"all": (1, 3), "factoid": (1, 2), "unanswerable": (0, 1)}
    decide(deck, "p0-1", "undo")
    assert deck.rates()[0].num == 2


def test_thumbs_and_corrections_of_users_are_cards(session: Session) -> None:
    exchange = {
        "id": "chat-1",
        "standalone": "Who owns the mill?",
        "answer": "Ola Brand",
        "abstained": False,
        "citations": ["d0.md#0"],
        "chunk_ids": ["d0.md#0"],
    }
    rows = [
        {"id": "chat-1", "rating": -1, "comment": "no", "answer": None, "exchange": exchange},
        {"id": "chat-1", "rating": -1, "answer": "Per Holm", "exchange": exchange},
        {"id": "old", "rating": 1, "answer": None, "exchange": None},
        {"id": "chat-2", "rating": 1, "exchange": {**exchange, "abstained": True}},
    ]
    append_lines(session.run_dir.feedback, *rows)
    pair = next(iter(read_jsonl(session.run_dir.generated_pairs, QAPair)))
    correction = decided(
        pair, "add", "serve", source="serve", key="f" * 64, question="Who sold the mill?"
    )
    append_lines(session.run_dir.reviews, correction)
    deck = deck_of(session)
    [served] = [card for card in deck.cards if card.where == "served"]
    assert (served.pair.question, served.pair.answers) == ("Who owns the mill?", ("Ola Brand",))
    assert served.said[0]["comment"] == "no"
    [added] = [card for card in deck.cards if card.where == "added"]
    assert added.pair.question == "Who sold the mill?" and added.pair.document_id == "d0.md"
    assert {served.pair.id, added.pair.id} <= set(asked(deck))


def test_a_question_that_another_process_adds_becomes_a_card(session: Session) -> None:
    deck = deck_of(session)
    pair = deck.cards[0].pair
    line = decided(pair, "add", "bob", key="e" * 64, question="Who swept the mill?")
    ReviewStore(session.run_dir.reviews).append(line)
    deck.follow()
    assert deck.cards[-1].pair.question == "Who swept the mill?"
    assert deck.repeats("who swept the MILL?", None)


# Checks without a model.


def test_the_checks_of_generation_run_on_a_text(session: Session) -> None:
    [chunk] = [c for c in session.chunks if c.id == "d0.md#0"]
    sentence = "Part 0 of mill 0 was built by Ola Brand in 1700."

    def failed(question: str, answers: tuple[str, ...], evidence: str | None) -> set[str]:
        rows = check_text(question, answers, evidence, "factoid", chunk)
        return {row.name for row in rows if not row.passed}

    good = "Who built part 0 of mill 0?"
    assert failed(good, ("Ola Brand",), sentence) == set()
    assert failed(good, ("Per Holm",), sentence) == {"evidence"}
    assert failed(good, ("Ola Brand",), None) == {"evidence"}
    assert failed("Built by?", ("Ola Brand",), sentence) == {"form"}
    assert failed("Who built it?", ("Ola Brand",), sentence) == {"stands alone"}
    assert failed("Who painted the Grey Heron?", (), None) == {"subject"}


def test_doubt_grows_with_what_speaks_against_a_pair(session: Session) -> None:
    pair = next(iter(read_jsonl(session.run_dir.generated_pairs, QAPair)))
    [chunk] = [c for c in session.chunks if c.id == pair.chunk_id]
    base = doubt(pair, chunk)
    worse = [
        replace(pair, checks={**pair.checks, "round_trip_f1": 0.6}),
        replace(pair, checks={**pair.checks, "round_trip_rank": 8}),
        replace(pair, answers=("Per Holm",)),
        replace(pair, question="Who painted the Grey Heron of Uskar?"),
    ]
    assert all(doubt(each, chunk) > base for each in worse)
