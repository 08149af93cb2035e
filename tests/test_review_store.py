"""reviews.jsonl: one decision a line, on disk at once, by many reviewers and processes."""

from __future__ import annotations

import json
import multiprocessing
import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from rag_ft.review.store import ReviewStore, decided, outcome, parse_review
from rag_ft.schema import Evidence, QAPair, Review

PAIR = QAPair(
    "p1",
    "Who built the mill?",
    ("Ola Brand",),
    "mill.md#0",
    "mill.md",
    Evidence("Ola Brand", 22, 31),
    "factoid",
    "train",
    "generated",
)
FIELDS = [
    *("pair_id", "key", "source", "decision", "reason", "question", "answers", "document_id"),
    *("evidence", "reviewer", "time"),
]


def review(decision: str, reviewer: str = "ann", **changes: Any) -> Review:
    return decided(PAIR, decision, reviewer, **changes)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "reviews.jsonl"


def test_a_line_has_the_fields_of_the_format(path: Path) -> None:
    ReviewStore(path).append(review("accept"))
    [row] = [json.loads(line) for line in path.read_text().splitlines()]
    assert list(row) == FIELDS
    assert row["evidence"] == [{"chunk_id": "mill.md#0", "start": 22, "end": 31}]
    assert (row["pair_id"], row["decision"], row["reviewer"]) == ("p1", "accept", "ann")
    assert len(row["key"]) == 64 and row["source"] == "review"


def test_a_line_is_synced_before_append_returns(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = []
    monkeypatch.setattr(os, "fsync", lambda _: synced.append(path.read_text()))
    ReviewStore(path).append(review("accept"), review("reject", "bob"))
    assert len(synced) == 1 and synced[0].count("\n") == 2


def test_the_last_line_of_a_reviewer_wins_and_undo_takes_it_back(path: Path) -> None:
    store, key = ReviewStore(path), review("accept").key
    for decision in ("accept", "reject"):
        store.append(review(decision))
    store.append(review("accept", "bob"))
    assert {name: r.decision for name, r in store.latest(key).items()} == {
        "ann": "reject",
        "bob": "accept",
    }
    store.append(review("undo"))
    assert list(store.latest(key)) == ["bob"]
    store.append(review("undo", "bob"))
    assert store.latest(key) == {} and list(store.keys) == []
    assert len(path.read_text().splitlines()) == 5, "nothing is ever rewritten"


@pytest.mark.parametrize(
    ("decisions", "keeps"),
    [
        (["accept"], True),
        (["reject"], False),
        (["unsure"], None),
        (["accept", "reject"], False),
        (["accept", "edit", "reject"], True),
        (["accept", "unsure"], True),
        ([], None),
    ],
)
def test_the_majority_decides_and_a_tie_rejects(decisions: list[str], keeps: bool | None) -> None:
    found = outcome([review(d, f"r{n}") for n, d in enumerate(decisions)])
    assert found.keeps is keeps and len(found.reviewers) == len(decisions)
    assert (found.text is not None) == (keeps is True)


def test_the_last_edit_gives_the_text() -> None:
    edits = [review("edit", name, answers=(name,)) for name in ("ann", "bob")]
    found = outcome([*edits, review("accept", "cid")])
    assert found.text is not None and found.text.answers == ("bob",)


def test_a_correction_from_the_server_counts_only_where_nobody_has_looked() -> None:
    users = review("add", "serve", source="serve", answers=("Per Holm",))
    alone = outcome([users])
    assert alone.keeps and alone.text == users and alone.reviewers == ()
    assert outcome([users, review("reject")]).keeps is False
    kept = outcome([users, review("accept")])
    assert kept.text is not None and kept.text.answers == ("Ola Brand",)


def test_the_recent_decisions_of_a_reviewer_come_last_first(path: Path) -> None:
    store = ReviewStore(path)
    a, b, c, d = (letter * 64 for letter in "abcd")
    for key in (a, b, c, a):
        store.append(review("accept", key=key))
    store.append(review("accept", "bob", key=d))
    store.append(review("undo", key=c))
    assert store.recent("ann", 5) == [a, b] and store.recent("ann", 1) == [a]
    assert store.recent("bob", 5) == [d]


def test_a_question_that_was_added_is_gone_with_the_last_who_added_it(path: Path) -> None:
    store, key = ReviewStore(path), review("add").key
    store.append(review("add"), review("add", "bob"))
    store.append(review("undo", "bob"))
    assert store.added[key].reviewer == "ann"
    store.append(review("undo"))
    assert dict(store.added) == {}


@pytest.mark.parametrize(
    "line",
    [
        "{",
        "[]",
        '{"pair_id": "x"}',
        '{"decision": "delete"}',
        json.dumps(asdict(review("add", key="no such key"))),
    ],
)
def test_a_line_that_is_no_review_is_rejected_with_its_number(path: Path, line: str) -> None:
    ReviewStore(path).append(review("accept"))
    with path.open("a") as out:
        out.write(line + "\n")
    store = ReviewStore(path)
    store.append(review("reject", "bob"))
    assert [reject.item for reject in store.rejects] == ["reviews.jsonl:2"]
    assert len(store.latest(review("accept").key)) == 2


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("decision", "maybe"),
        ("source", "elsewhere"),
        ("answers", "Ola"),
        ("answers", [""]),
        ("evidence", [{"chunk_id": "x", "start": "0", "end": 3}]),
        ("reviewer", " "),
        ("question", None),
        ("reason", 3),
    ],
)
def test_a_field_of_a_wrong_type_is_named(path: Path, field: str, value: Any) -> None:
    ReviewStore(path).append(review("accept"))
    row = json.loads(path.read_text())
    assert parse_review({**row, "unknown": 1}) == parse_review(row)
    with pytest.raises(ValueError, match=field):
        parse_review({**row, field: value})


def test_the_half_line_of_a_killed_writer_is_not_read_and_does_not_spoil_the_next(
    path: Path,
) -> None:
    ReviewStore(path).append(review("accept"))
    with path.open("a") as out:
        out.write('{"pair_id": "ha')
    store = ReviewStore(path)
    store.append(review("accept", "bob"))
    assert store.rejects == [] and len(store.latest(review("accept").key)) == 2
    assert len(ReviewStore(path).changed) == 2


def test_two_stores_over_one_file_follow_each_other(path: Path) -> None:
    mine, other = ReviewStore(path), ReviewStore(path)
    mine.append(review("accept"))
    other.append(review("reject", "bob"))
    mine.refresh()
    assert mine.changed == other.changed and len(mine.latest(review("accept").key)) == 2


def write_many(path: Path, reviewer: str, num: int) -> None:
    store = ReviewStore(path)
    for number in range(num):
        store.append(replace(review("accept", reviewer), pair_id=f"{reviewer}-{number}"))


def test_two_processes_lose_no_line_of_each_other(path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=write_many, args=(path, n, 40)) for n in ("ann", "bob")]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    store = ReviewStore(path)
    assert len(store.changed) == 80 and store.rejects == []
    ids = {json.loads(line)["pair_id"] for line in path.read_text().splitlines()}
    assert len(ids) == 80
