"""What people say of answers is kept, with the exchange it is about."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from live_server import Says, lines_of, live, served_models, small_run

from rag_ft.review.store import review_key
from rag_ft.serving import exchanges
from rag_ft.session import Session

QUESTION = "When does the ferry leave?"


@pytest.fixture
def session(tmp_path: Path, tiny_encoder_dir: Path) -> Session:
    return small_run(tmp_path, tiny_encoder_dir)


@pytest.fixture
def url(session: Session) -> Iterator[str]:
    with live(served_models(session, Says("at dawn"))) as address:
        yield address


def ask(url: str) -> dict[str, Any]:
    messages = [{"role": "user", "content": QUESTION}]
    return httpx.post(
        f"{url}/v1/chat/completions", json={"model": "run", "messages": messages}
    ).json()


def judge(url: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{url}/v1/feedback", json=body)


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in lines_of(path)]


def test_a_thumb_is_kept_with_the_exchange(url: str, session: Session) -> None:
    said = ask(url)
    assert judge(url, id=said["id"], rating=-1, comment="wrong").is_success
    [row] = rows(session.run_dir.feedback)
    assert (row["rating"], row["comment"]) == (-1, "wrong")
    assert (row["exchange"]["question"], row["exchange"]["answer"]) == (QUESTION, "at dawn")
    assert rows(session.run_dir.reviews) == []


def test_a_correction_is_a_review_with_its_evidence(url: str, session: Session) -> None:
    said = ask(url)
    shown = said["choices"][0]["message"]["context"]["citations"]
    ferry = next(c for c in shown if c["document_id"] == "ferry.md")
    judge(url, id=said["id"], rating=-1, answer=" at noon ", chunk_ids=[ferry["chunk_id"], "none"])
    [row] = rows(session.run_dir.reviews)
    assert (row["source"], row["decision"], row["answers"]) == ("serve", "add", ["at noon"])
    assert (row["document_id"], row["question"]) == ("ferry.md", QUESTION)
    assert row["key"] == review_key(QUESTION, "ferry.md")
    assert row["pair_id"] == said["id"] and row["reviewer"]
    [evidence] = row["evidence"]
    text = "The ferry leaves at noon from the long pier."
    assert text[evidence["start"] : evidence["end"]] == "at noon"


def test_feedback_on_an_unknown_exchange_is_kept_too(url: str, session: Session) -> None:
    assert judge(url, id="chatcmpl-of-yesterday", rating=1, answer="noon").is_success
    [row] = rows(session.run_dir.feedback)
    assert row["exchange"] is None and row["answer"] == "noon"


@pytest.mark.parametrize("body", [{}, {"id": 3}, {"id": "x", "rating": 5}, {"id": ""}])
def test_malformed_feedback_is_refused(url: str, session: Session, body: dict[str, Any]) -> None:
    assert judge(url, **body).status_code == 400
    assert rows(session.run_dir.feedback) == []


def test_only_the_last_exchanges_are_kept(
    url: str, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchanges, "KEPT", 2)
    first, second, third = (ask(url)["id"] for _ in range(3))
    for exchange_id in (first, second, third):
        judge(url, id=exchange_id, rating=1)
    known = [row["exchange"] is not None for row in rows(session.run_dir.feedback)]
    assert known == [False, True, True]


def test_long_exchanges_are_forgotten_sooner(
    url: str, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exchanges, "KEPT_CHARACTERS", 250)  # of three exchanges
    named = [ask(url)["id"] for _ in range(5)]
    for exchange_id in named:
        judge(url, id=exchange_id, rating=1)
    known = [row["exchange"] is not None for row in rows(session.run_dir.feedback)]
    assert known == sorted(known) and 0 < sum(known) < 5


def test_a_line_that_a_killed_writer_left_does_not_spoil_the_next(
    url: str, session: Session
) -> None:
    session.run_dir.feedback.write_text('{"id": "half', encoding="utf-8")
    judge(url, id="x", rating=1)
    assert [row["id"] for row in rows(session.run_dir.feedback)] == ["x"]
