"""The records that travel between stages: frozen dataclasses with ids, one JSON line each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

Split = Literal["train", "dev", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
# What stands before a chunk where a model reads it.
ChunkContext = Literal["none", "title", "headings"]
Kind = Literal["factoid", "summary", "inference", "multi_hop", "unanswerable"]
KINDS: tuple[Kind, ...] = get_args(Kind)
Origin = Literal["generated", "imported", "reviewed"]
Decision = Literal["accept", "reject", "edit", "unsure", "add", "undo"]
DECISIONS: tuple[Decision, ...] = get_args(Decision)


@dataclass(frozen=True)
class Document:
    """One readable source. `id` is its path under the source folder, or the `id` of its JSONL
    line."""

    id: str
    title: str
    text: str
    source: str
    split: Split
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Chunk:
    """A part of a document: `text` is exactly `document.text[start:end]`. `num_tokens` counts the
    encoder's tokens without special ones.

    `page` to `page_end` are the pages it stands on, from 1; None where the format has no pages.
    `headings` are those above its first sentence, the top one first; `inner_headings` are the
    others in its text.
    """

    id: str
    document_id: str
    title: str
    text: str
    start: int
    end: int
    num_tokens: int
    split: Split
    page: int | None = None
    page_end: int | None = None
    headings: tuple[str, ...] = ()
    inner_headings: tuple[str, ...] = ()

    @property
    def place(self) -> str:
        """Where the chunk stands, for people: `page 3-4, Opening hours > Summer`; "" if unknown."""
        parts = []
        if self.page is not None:
            last = self.page_end or self.page
            parts.append(f"page {self.page}" + (f"-{last}" if last != self.page else ""))
        if self.headings:
            parts.append(" > ".join(self.headings))
        return ", ".join(parts)


@dataclass(frozen=True)
class Evidence:
    """The quoted span that supports an answer: `text == document.text[start:end]`."""

    text: str
    start: int
    end: int


@dataclass(frozen=True)
class QAPair:
    """A question with its accepted answers, the first of which is the canonical one.

    `chunk_id` names the chunk that it was asked about, and `evidence` the span that supports the
    answer. Both are None where no place is known: for unanswerable questions, and for imported
    questions whose place cannot be found. `hard_chunk_ids` name chunks that the retriever ranked
    high and that are not gold. `filters` say which documents the question may be answered from, as
    in retrieval/metadata_filter.py; empty: from all.
    """

    id: str
    question: str
    answers: tuple[str, ...]
    chunk_id: str | None
    document_id: str | None
    evidence: Evidence | None
    kind: Kind
    split: Split
    origin: Origin
    checks: dict[str, Any] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)
    hard_chunk_ids: tuple[str, ...] = ()
    filters: dict[str, Any] = field(default_factory=dict)

    @property
    def answer(self) -> str:
        """The canonical answer."""
        return self.answers[0]

    @property
    def answerable(self) -> bool:
        """Whether the documents contain an answer."""
        return self.kind != "unanswerable"


@dataclass(frozen=True)
class Hit:
    """A retrieved chunk. `rank` counts from 1; a higher `score` is better."""

    question_id: str
    rank: int
    chunk_id: str
    score: float


@dataclass(frozen=True)
class Prediction:
    """What a system answered. `answer` has no citation marks; `chunk_ids` were shown, in order, and
    `citations` are those among them that the reply cites. `inferred`: it cites none, and the one
    that contains the answer stands there."""

    question_id: str
    system: str
    answer: str
    chunk_ids: tuple[str, ...]
    citations: tuple[str, ...]
    seconds: float
    inferred: bool = False


@dataclass(frozen=True)
class Score:
    """The value of one metric for one answer, or one ranking, of a system."""

    question_id: str
    system: str
    metric: str
    value: float


@dataclass(frozen=True)
class Reject:
    """An input or a pair that was left out, with the reason. Bad input is data, not an
    exception. `partial` marks a part of a document whose rest was read: a page, an attachment."""

    item: str
    reason: str
    detail: str = ""
    partial: bool = False


@dataclass(frozen=True)
class Place:
    """A span of a chunk, as positions in its document."""

    chunk_id: str
    start: int
    end: int


@dataclass(frozen=True)
class Review:
    """One decision of one reviewer: a line of reviews.jsonl.

    `key` is the sha256 of the question and the document id of the pair as it was generated, so that
    a review finds its pair again in a later run. `question`, `answers` (none: the documents do not
    say) and `evidence` are those that the reviewer decided on, or wrote.
    """

    pair_id: str
    key: str
    source: Literal["review", "serve", "import"]
    decision: Decision
    reason: str | None
    question: str
    answers: tuple[str, ...]
    document_id: str | None
    evidence: tuple[Place, ...]
    reviewer: str
    time: str
