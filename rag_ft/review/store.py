"""reviews.jsonl: what people decided about pairs, and what holds where they decided differently."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rag_ft.schema import DECISIONS, Place, QAPair, Reject, Review
from rag_ft.storage import append_lines, encodable, naming, now

# Why a pair is rejected, in the order of the keys 1 to 6.
REASONS = ("not grounded", "wrong", "ambiguous", "trivial", "duplicate", "other")
SERVE = "serve"  # the reviewer of corrections that come from the server: anybody
SOURCES = ("review", "serve", "import")
MAX_TEXT = 20_000  # characters
KEY = re.compile("[0-9a-f]{64}")  # see review_key
KEEPS = ("accept", "edit", "add")  # the decisions after which a pair is used


def review_key(question: str, document_id: str | None) -> str:
    """sha256 of a question and the id of its document, as 64 hex digits: what a review is about."""
    return hashlib.sha256(f"{question}\n{document_id or ''}".encode()).hexdigest()


def key_of(pair: QAPair) -> str:
    """The key of a pair as it was generated or imported."""
    return review_key(pair.question, pair.document_id)


def decided(pair: QAPair, decision: str, reviewer: str, **changes: Any) -> Review:
    """A review of `pair` that was made now; `changes` are other fields of the line."""
    evidence: tuple[Place, ...] = ()
    if pair.evidence and pair.chunk_id:
        evidence = (Place(pair.chunk_id, pair.evidence.start, pair.evidence.end),)
    fields: dict[str, Any] = {
        "pair_id": pair.id,
        "key": key_of(pair),
        "source": "review",
        "reason": None,
        "question": pair.question,
        "answers": pair.answers if pair.answerable else (),
        "document_id": pair.document_id,
        "evidence": evidence,
        "time": now(),
    }
    return Review(**fields | {"decision": decision, "reviewer": reviewer} | changes)


def parse_review(row: Any) -> Review:
    """The review in a JSON object. Fields that are not known are ignored.

    Raises:
        ValueError: says which field is wrong.
    """
    if not isinstance(row, dict):
        raise ValueError("not a JSON object")
    row = encodable(row)
    for name in ("pair_id", "key", "question", "reviewer", "time"):
        if not isinstance(row.get(name), str) or len(row[name]) > MAX_TEXT:
            raise ValueError(f"{name} must be a text")
    if not KEY.fullmatch(row["key"]):
        raise ValueError("key must be 64 hex digits")
    for name in ("reason", "document_id"):
        if not isinstance(row.get(name), str | None):
            raise ValueError(f"{name} must be a text or null")
    if row.get("source") not in SOURCES or row.get("decision") not in DECISIONS:
        raise ValueError(f"source must be one of {SOURCES}, decision one of {DECISIONS}")
    if not row["reviewer"].strip() or not row["question"].strip():
        raise ValueError("reviewer and question must not be empty")
    answers, evidence = row.get("answers"), row.get("evidence")
    if not isinstance(answers, list) or not all(isinstance(a, str) and a.strip() for a in answers):
        raise ValueError("answers must be a list of texts")
    if not isinstance(evidence, list):
        raise ValueError("evidence must be a list")
    places = tuple(_place(item) for item in evidence)
    known: dict[str, Any] = {name: row.get(name) for name in Review.__dataclass_fields__}
    return Review(**known | {"answers": tuple(answers), "evidence": places})


def _place(row: Any) -> Place:
    if isinstance(row, dict):
        chunk_id, start, end = row.get("chunk_id"), row.get("start"), row.get("end")
        if isinstance(chunk_id, str) and type(start) is int and type(end) is int:
            return Place(chunk_id, start, end)
    raise ValueError("evidence must be a list of {chunk_id, start, end}")


@dataclass(frozen=True)
class Outcome:
    """What all reviewers together decided about one key.

    `keeps`: whether the pair stays; None where nobody accepted or rejected it. `text` is the review
    whose question, answers and evidence hold, where it stays. `reviewers` looked at it; there are
    none where only a user of the server corrected an answer.
    """

    keeps: bool | None
    text: Review | None
    reviewers: tuple[str, ...]


def outcome(reviews: Collection[Review]) -> Outcome:
    """What holds: the majority decides, and a tie rejects. The last edit gives the text, else the
    last who accepted.

    Args:
        reviews: the last review of each reviewer about one key, in the order of their lines.
    """
    # Corrections from the server count only where no reviewer has looked.
    people = [review for review in reviews if review.source != "serve"]
    votes = people or list(reviews)
    kept = [review for review in votes if review.decision in KEEPS]
    num_against = sum(review.decision == "reject" for review in votes)
    keeps = len(kept) > num_against if kept or num_against else None
    written = [review for review in kept if review.decision != "accept"] or kept
    text = written[-1] if keeps else None
    return Outcome(keeps, text, tuple(review.reviewer for review in people))


class ReviewStore:
    """The reviews of a run: reads its file, appends to it, and follows what others append.

    `rejects` are lines that are no review. `changed` are the keys of all lines, in their order.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._read, self._num_lines = path, 0, 0
        self._latest: dict[str, dict[str, Review]] = {}
        self._added: dict[str, Review] = {}
        self.changed: list[str] = []
        self.rejects: list[Reject] = []
        self.refresh()

    def refresh(self) -> None:
        """Reads the lines that were appended since."""
        if not self._path.exists() or self._path.stat().st_size <= self._read:
            return
        with naming(self._path), self._path.open("rb") as lines:
            lines.seek(self._read)
            for line in lines:
                if not line.endswith(b"\n"):
                    break  # somebody is writing it
                self._read += len(line)
                self._num_lines += 1
                try:
                    self._take(parse_review(json.loads(line)))
                except (ValueError, RecursionError) as error:
                    place = f"{self._path.name}:{self._num_lines}"
                    self.rejects.append(Reject(place, "not a review", str(error)[:200]))

    def append(self, *reviews: Review) -> None:
        """Writes reviews; they are on the disk when it returns."""
        append_lines(self._path, *reviews)
        self.refresh()

    def latest(self, key: str) -> Mapping[str, Review]:
        """{reviewer: the last review} about a key; without reviewers who took theirs back."""
        return self._latest.get(key, {})

    def by_people(self, key: str) -> dict[str, Review]:
        """As `latest`, without the corrections of users of the server."""
        return {name: r for name, r in self.latest(key).items() if r.source != "serve"}

    def recent(self, reviewer: str, limit: int) -> list[str]:
        """The keys that a reviewer decided last, the last one first; at most `limit`."""
        mine = (key for key, reviews in reversed(self._latest.items()) if reviewer in reviews)
        return list(itertools.islice(mine, limit))

    def outcome(self, key: str) -> Outcome:
        """What all reviewers together decided about a key."""
        return outcome(self.latest(key).values())

    @property
    def keys(self) -> Collection[str]:
        """The keys about which a review holds."""
        return self._latest.keys()

    @property
    def added(self) -> Mapping[str, Review]:
        """key -> the review that added a question which nobody generated."""
        return self._added

    def _take(self, review: Review) -> None:
        of_key = self._latest[review.key] = self._latest.pop(review.key, {})
        of_key.pop(review.reviewer, None)  # the order is that of the lines
        if review.decision != "undo":
            of_key[review.reviewer] = review
        if review.decision == "add":
            self._added[review.key] = review
        elif review.decision == "undo" and review.key in self._added:
            # The question is gone with the last one who added it.
            left = [r for r in of_key.values() if r.decision == "add"]
            mine = self._added[review.key].reviewer == review.reviewer
            if mine and left:
                self._added[review.key] = left[-1]
            elif mine:
                del self._added[review.key]
        if not of_key:
            del self._latest[review.key]
        self.changed.append(review.key)
