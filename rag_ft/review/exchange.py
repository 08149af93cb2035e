"""Pairs on their way to another tool for review, and decisions on their way back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from rag_ft.relevance import Span, locate
from rag_ft.review.cards import chunk_of
from rag_ft.review.deck import Deck
from rag_ft.review.filtering import Card
from rag_ft.review.store import KEEPS, REASONS, decided
from rag_ft.schema import Chunk, Place, Reject, Review
from rag_ft.storage import now

DECIDED = ("accept", "reject", "edit", "unsure")


@dataclass(frozen=True)
class ReviewRow:
    """A pair as another tool shows it. `last` is the decision that was made last, if any: it gives
    question, answers and evidence. `evidence` is a span of the chunk's text."""

    card: Card
    chunk: Chunk | None
    last: Review | None
    question: str
    answers: tuple[str, ...]
    evidence: Span | None

    @property
    def text(self) -> str:
        """The text of the chunk."""
        return self.chunk.text if self.chunk else ""

    @property
    def quote(self) -> str:
        """The text of the evidence."""
        return self.text[self.evidence[0] : self.evidence[1]] if self.evidence else ""

    @property
    def decision(self) -> str:
        """What other tools are shown: an edited or added pair is one that was accepted."""
        decision = self.last.decision if self.last else "accept"
        return "accept" if decision in KEEPS else decision

    @property
    def confidence(self) -> float:
        """1 for a pair without any doubt, towards 0 with many."""
        return round(1 / (1 + self.card.doubt), 4)


@dataclass(frozen=True)
class Returned:
    """What came back about one pair. None: the tool did not say. `span` is one of the chunk's text;
    where there is a `quote`, it decides. `item` names the row, for rejects; where there is a
    `problem`, it cannot be taken."""

    item: str
    key: str
    decision: str | None = None
    reason: str | None = None
    question: str | None = None
    answers: tuple[str, ...] | None = None
    span: Span | None = None
    quote: str | None = None
    reviewer: str | None = None
    time: str | None = None
    problem: str | None = None


def review_rows(deck: Deck) -> Iterator[ReviewRow]:
    """The cards in their order, without those that a check rejected."""
    for card in deck.cards:
        if card.where != "rejected":
            yield review_row(deck, card)


def review_row(deck: Deck, card: Card) -> ReviewRow:
    """A card with its chunk and the last decision about it."""
    pair, chunk = card.pair, chunk_of(deck, card.pair)
    reviews = list(deck.store.by_people(card.key).values())
    last = reviews[-1] if reviews else None
    question, answers = pair.question, pair.answers if pair.answerable else ()
    place = None
    if pair.evidence:
        place = Place(chunk.id if chunk else "", pair.evidence.start, pair.evidence.end)
    if last is not None:
        question, answers = last.question, last.answers
        place = last.evidence[0] if last.evidence else None
    # The evidence of an edit may stand in another chunk.
    if place is not None and chunk is not None and place.chunk_id != chunk.id:
        chunk = deck.chunks.get(place.chunk_id) or chunk
    span = None
    if place is not None and chunk is not None:
        start, end = (
            max(0, place.start - chunk.start),
            min(len(chunk.text), place.end - chunk.start),
        )
        span = (start, end) if start < end else None
    return ReviewRow(card, chunk, last, question, answers, span)


def reviews_from(
    deck: Deck, returned: Iterable[Returned], reviewer: str
) -> tuple[list[Review], list[Reject], int]:
    """(reviews that are new, rejected rows, the number of rows that decide nothing new).

    Args:
        deck: of the run.
        returned: what came back.
        reviewer: who decided where the tool does not say.
    """
    reviews, rejects, num_same = [], [], 0
    for row in returned:
        try:
            review = _review(deck, row, row.reviewer or reviewer)
        except ValueError as error:
            rejects.append(Reject(row.item, str(error), row.key[:64]))
            continue
        if review is None or _is_known(deck, review):
            num_same += 1
        else:
            reviews.append(review)
    return reviews, rejects, num_same


def _review(deck: Deck, row: Returned, reviewer: str) -> Review | None:
    """None where a row decides nothing.

    Raises:
        ValueError: says why the row cannot be taken.
    """
    if row.problem:
        raise ValueError(row.problem)
    number = deck.number_of(row.key)
    if number is None:
        raise ValueError("no such pair in this run")
    if row.decision is not None and row.decision not in DECIDED:
        raise ValueError(f"the decision must be one of {', '.join(DECIDED)}")
    base = review_row(deck, deck.cards[number])
    # Cells and forms change white space, and several answers are lines of one text: what is the
    # same but for that was not edited.
    question, answers = base.question, base.answers
    if row.question is not None and row.question.split() not in (question.split(), []):
        question = " ".join(row.question.split())
    if row.answers is not None and _lines(row.answers) != _lines(answers):
        answers = tuple(" ".join(answer.split()) for answer in row.answers)
    span = _span(row, base)
    changed = (question, answers, span) != (base.question, base.answers, base.evidence)
    decision = row.decision or ("edit" if changed else None)
    if decision is None:
        return None
    if decision == "accept":
        # An accepted text that was written by hand before stays an edit.
        was_edited = base.last is not None and base.last.decision in ("edit", "add")
        decision = "edit" if changed or was_edited else "accept"
    if decision == "reject" and row.reason and row.reason not in REASONS:
        raise ValueError(f"the reason must be one of: {', '.join(REASONS)}")
    evidence: tuple[Place, ...] = ()
    if span and base.chunk is not None and answers:
        start = base.chunk.start
        evidence = (Place(base.chunk.id, start + span[0], start + span[1]),)
    return decided(
        base.card.pair,
        "add" if base.card.where == "served" and decision in ("accept", "edit") else decision,
        reviewer,
        key=row.key,
        source="import",
        reason=row.reason or None,
        question=question,
        answers=answers,
        document_id=base.chunk.document_id if base.chunk else base.card.pair.document_id,
        evidence=evidence,
        time=row.time or now(),
    )


def answers_of(text: str | None) -> tuple[str, ...] | None:
    """The answers in a text, one a line; None where the tool did not say."""
    if text is None:
        return None
    return tuple(line.strip() for line in text.split("\n") if line.strip())


def _lines(answers: Iterable[str]) -> list[list[str]]:
    """The words of each line that is not empty."""
    return [line.split() for answer in answers for line in answer.splitlines() if line.strip()]


def _span(row: Returned, base: ReviewRow) -> Span | None:
    """The evidence that came back, as a span of the chunk. Raises ValueError where it is not in the
    chunk."""
    if row.quote is not None:
        if row.quote == base.quote:
            return base.evidence
        if not row.quote.strip():
            return None
        near = row.span or base.evidence
        if near and base.text[near[0] : near[1]] == row.quote:
            return near
        found = locate(row.quote, base.text, near)
        if found is None:
            raise ValueError("the evidence is not in the chunk")
        return found
    if row.span is None:
        return base.evidence
    if not 0 <= row.span[0] < row.span[1] <= len(base.text):
        raise ValueError("the evidence is not in the chunk")
    return row.span


def _is_known(deck: Deck, review: Review) -> bool:
    """Whether this reviewer's last decision says the same: a file that is imported twice."""
    last = deck.store.latest(review.key).get(review.reviewer)
    if last is None:
        return False
    says = [(r.decision, r.reason, r.question, r.answers, r.evidence) for r in (last, review)]
    return says[0] == says[1]
