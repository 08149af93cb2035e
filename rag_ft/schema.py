"""The records that travel between stages: frozen dataclasses with ids, one JSON line each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = ("train", "dev", "test")
Kind = Literal["factoid", "summary", "inference", "multi_hop", "unanswerable"]
KINDS: tuple[Kind, ...] = ("factoid", "summary", "inference", "multi_hop", "unanswerable")


@dataclass(frozen=True)
class Document:
    """One readable source. `id` is its path under the source folder, or the `id` of its JSONL line."""

    id: str
    title: str
    text: str
    source: str
    split: Split
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Chunk:
    """`text` is exactly `document.text[start:end]`; `num_tokens` counts the encoder's tokens, specials excluded."""

    id: str
    document_id: str
    title: str
    text: str
    start: int
    end: int
    num_tokens: int
    split: Split


@dataclass(frozen=True)
class Evidence:
    """The quoted span that proves an answer: `text == document.text[start:end]`."""

    text: str
    start: int
    end: int


@dataclass(frozen=True)
class QAPair:
    """A question with its accepted answers (the first is the canonical one), tied to the chunk that proves it.

    `chunk_id` and `evidence` are None where no place is known (imported questions without a position that
    cannot be located, unanswerable questions). `hard_chunk_ids` are chunks that looked right and were not.
    """

    id: str
    question: str
    answers: tuple[str, ...]
    chunk_id: str | None
    document_id: str | None
    evidence: Evidence | None
    kind: Kind
    split: Split
    origin: Literal["generated", "imported", "reviewed"]
    checks: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    hard_chunk_ids: tuple[str, ...] = ()

    @property
    def answer(self) -> str:
        return self.answers[0]

    @property
    def answerable(self) -> bool:
        return self.kind != "unanswerable"


@dataclass(frozen=True)
class Hit:
    """`rank` counts from 1; `score` is what the retriever ranked by (higher is better)."""

    question_id: str
    rank: int
    chunk_id: str
    score: float


@dataclass(frozen=True)
class Prediction:
    """`answer` is what the system said, citation marks removed; `citations` are the chunk ids it cited."""

    question_id: str
    system: str
    answer: str
    chunk_ids: tuple[str, ...]
    citations: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class Score:
    question_id: str
    system: str
    metric: str
    value: float


@dataclass(frozen=True)
class Reject:
    """What was dropped, where, and why: bad input is data, not an exception."""

    item: str
    reason: str
    detail: str = ""
