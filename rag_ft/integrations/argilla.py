"""Pairs as records of Argilla 2, and its responses as decisions: the files of
`dataset.records.from_json` and `to_json`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rag_ft.integrations.json_lists import read_items, text_of, write_list
from rag_ft.review.exchange import Returned, ReviewRow, answers_of

QUESTIONS = ("decision", "reason", "question", "answers", "evidence")


def write(rows: Iterable[ReviewRow], target: Path) -> None:
    """A list of records; docs/how-to/review.md shows the settings of their dataset."""
    write_list(target, map(record_of, rows))


def record_of(row: ReviewRow) -> dict[str, Any]:
    """A record; the pair, or what a reviewer made of it, is suggested."""
    card, last = row.card, row.last
    values: dict[str, Any] = {
        "decision": row.decision,
        "question": row.question,
        "answers": "\n".join(row.answers),
    }
    if last and last.decision == "reject" and last.reason:
        values["reason"] = last.reason
    if row.evidence:
        start, end = row.evidence
        values["evidence"] = [{"start": start, "end": end, "label": "evidence"}]
    agent, score = (last.reviewer, None) if last else ("rag_ft", row.confidence)
    return {
        "id": card.key,
        "fields": {
            "pair": f"{row.question}\n\n" + "\n".join(row.answers or ("(no answer)",)),
            "chunk": row.text or "(no chunk)",
        },
        "metadata": {
            "pair_id": card.pair.id,
            "document_id": card.pair.document_id or "",
            "kind": card.pair.kind,
            "split": card.pair.split,
            "origin": card.pair.origin,
        },
        "suggestions": {
            name: {"value": value, "score": score if name == "decision" else None, "agent": agent}
            for name, value in values.items()
        },
        "responses": {},
        "vectors": {},
    }


def read(path: Path) -> Iterator[Returned]:
    """The responses of all users.

    Raises:
        DataError: the file is not a list of records.
    """
    wanted = "a file of Argilla: it must be a list of records"
    return read_items(path, wanted, "record", _responses)


def _responses(item: str, record: dict[str, Any]) -> Iterator[Returned]:
    by_user: dict[str, dict[str, Any]] = {}
    for name, responses in (record.get("responses") or {}).items():
        for response in responses if name in QUESTIONS else ():
            user = str(response.get("user_id") or "")
            by_user.setdefault(user, {})[name] = response.get("value")
    for user, values in by_user.items():
        yield _returned(item, str(record.get("id")), user, values)


def _returned(item: str, key: str, user: str, values: dict[str, Any]) -> Returned:
    spans = values.get("evidence")
    # An empty list: the reviewer removed the evidence.
    span = (int(spans[0]["start"]), int(spans[0]["end"])) if spans else None
    quote = "" if spans == [] else None
    decision = text_of(values.get("decision"))
    return Returned(
        item,
        key,
        decision,
        text_of(values.get("reason")) if decision == "reject" else None,
        text_of(values.get("question")),
        answers_of(text_of(values.get("answers"))),
        span,
        quote,
        user or None,
    )
