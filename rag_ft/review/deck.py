"""The cards of a review: pairs, pairs that a check rejected, corrections and thumbs from the
server, questions that people added; in which order, and who still has to decide which."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

from rag_ft.chunk_store import ChunkStore
from rag_ft.relevance import evidence_at
from rag_ft.review.agreement import Rate, rate
from rag_ft.review.checks import doubt
from rag_ft.review.filtering import Card, Columns, Wanted, Where
from rag_ft.review.store import KEEPS, ReviewStore, key_of
from rag_ft.run_dir import RunDir
from rag_ft.schema import KINDS, Chunk, Evidence, QAPair, Review, Split
from rag_ft.storage import content_hash, read_jsonl, read_rows

Order = Literal["worst", "random", "disagreement"]


class Deck:
    """All cards in their order, with the reviews of everybody. Not for several threads."""

    def __init__(
        self,
        cards: list[Card],
        store: ReviewStore,
        chunks: ChunkStore,
        order: Order,
        overlap: float,
    ) -> None:
        """
        Args:
            cards: in the order in which they are shown.
            store: of the run.
            chunks: of the run.
            order: disagreement puts cards over which reviewers differ first.
            overlap: share (0-1) of the cards that every reviewer is to decide; the others are done
                when one has.
        """
        self.cards, self.store, self.chunks = cards, store, chunks
        self._order, self._overlap = order, overlap
        self._number_of: dict[str, int] = {}
        self._asked: dict[str, list[int]] = {}
        self._columns, self._added = Columns(), list[int]()
        for card in cards:
            self._know(card)
        self._followed = 0
        # number -> (kind, whether the pair was accepted as it was), of the cards with an outcome.
        self._outcomes: dict[int, tuple[str, bool]] = {}
        self.follow()

    def follow(self) -> None:
        """Takes over what this and other processes have appended to reviews.jsonl."""
        self.store.refresh()
        changed = self.store.changed[self._followed :]
        self._followed = len(self.store.changed)
        for key in dict.fromkeys(changed):
            if key not in self._number_of and key in self.store.added:
                card = added_card(self.store.added[key], len(self.cards), self.chunks)
                self.cards.append(card)
                self._know(card)
            if key in self._number_of:
                self._count(self.cards[self._number_of[key]])

    def _know(self, card: Card) -> None:
        """Takes the card with the next number into what finds cards."""
        self._number_of[card.key] = card.number
        self._asked.setdefault(card.pair.question.casefold(), []).append(card.number)
        self._columns.add(card)
        if card.where == "added":
            self._added.append(card.number)

    def _count(self, card: Card) -> None:
        self._outcomes.pop(card.number, None)
        if card.where in ("pair", "rejected"):
            decided = self.store.outcome(card.key)
            if decided.keeps is not None and decided.reviewers:
                text = decided.text
                unchanged = text is not None and text.decision == "accept"
                # What a check rejected has a rate of its own.
                name = card.pair.kind if card.where == "pair" else "rejected by a check"
                self._outcomes[card.number] = (name, unchanged)

    def queue(self, reviewer: str, wanted: Wanted) -> list[int]:
        """The numbers of the cards to show, in their order."""
        found = self._columns.among(self._of_status(reviewer, wanted.status), wanted)
        if self._order == "disagreement":
            found.sort(key=lambda number: not self._disputed(self.cards[number]))
        return found

    def _of_status(self, reviewer: str, status: str) -> Sequence[int]:
        """The numbers of the cards of a status; see Wanted. Few cards have reviews: the others are
        not looked at."""
        reviewed = sorted(n for key in self.store.keys if (n := self.number_of(key)) is not None)
        tests: dict[str, Callable[[Card], bool]] = {
            "mine": lambda card: reviewer in self.store.latest(card.key),
            "decided": lambda card: bool(self.store.by_people(card.key)),
            "disputed": self._disputed,
        }
        if test := tests.get(status):
            return [number for number in reviewed if test(self.cards[number])]
        # What somebody added and took back is no card any more.
        gone = {n for n in self._added if self.cards[n].key not in self.store.added}
        gone |= {n for n in reviewed if status != "all" and not self._is_open(n, reviewer)}
        every = range(len(self.cards))
        return [number for number in every if number not in gone] if gone else every

    def _is_open(self, number: int, reviewer: str) -> bool:
        card = self.cards[number]
        if reviewer in self.store.latest(card.key):
            return False
        return not self.store.by_people(card.key) or self.is_shared(card)

    def _disputed(self, card: Card) -> bool:
        """Whether reviewers, or the checks and a reviewer, disagree about a card."""
        reviews = self.store.latest(card.key).values()
        votes = {r.decision == "reject" for r in reviews if r.decision in (*KEEPS, "reject")}
        if card.where in ("pair", "rejected") and votes:
            votes.add(card.where == "rejected")
        return len(votes) > 1

    def is_shared(self, card: Card) -> bool:
        """Whether every reviewer is to decide the card."""
        return int(card.key[:8], 16) < self._overlap * 2**32

    def rates(self) -> list[Rate]:
        """Of the decided pairs the share that was accepted as it was, in all and by kind."""
        looked = Counter(kind for kind, _ in self._outcomes.values())
        good = Counter(kind for kind, accepted in self._outcomes.values() if accepted)
        kinds = sorted(looked, key=lambda name: (name not in KINDS, name))
        passed = [kind for kind in kinds if kind in KINDS]
        every = rate("all", sum(good[k] for k in passed), sum(looked[k] for k in passed))
        return [every, *(rate(kind, good[kind], looked[kind]) for kind in kinds)]

    def number_of(self, key: str) -> int | None:
        """The number of the card with this key."""
        return self._number_of.get(key)

    def repeats(self, question: str, number: int | None) -> bool:
        """Whether a card other than `number`, that no check rejected, asks the same."""
        same = self._asked.get(question.casefold(), ())
        return any(n != number and self.cards[n].where != "rejected" for n in same)


def open_deck(
    run_dir: RunDir,
    chunks: ChunkStore,
    order: Order = "worst",
    overlap: float = 0.2,
    split: Split | None = None,
    sample: int | None = None,
    seed: int = 0,
) -> Deck:
    """The cards of a run.

    Args:
        run_dir: of the run, after generate.
        chunks: of the run.
        order: worst: by `doubt`; random: by the seed; disagreement: what people disagree over
            first, then the worst.
        overlap: see Deck.
        split: of these pairs alone. None: of all.
        sample: at most this many pairs, the first in the order. None: all.
        seed: of the order random.
    """
    store = ReviewStore(run_dir.reviews)
    with_text = functools.lru_cache(maxsize=64)(chunks.get)
    cards: dict[str, Card] = {}
    for key, pair, where, said in _material(run_dir, chunks, store):
        if key in cards and said:
            cards[key] = replace(cards[key], said=(*cards[key].said, *said))
        elif key not in cards and split in (None, pair.split):
            value = doubt(pair, with_text(source_chunk_id(pair)))
            cards[key] = Card(0, key, pair, where, round(value, 3), said)

    def place(card: Card) -> tuple[float, str]:
        return (0.0 if order == "random" else -card.doubt, content_hash(seed, card.key))

    in_order = sorted(cards.values(), key=place)
    if sample is not None:
        kept = {c.key for c in [c for c in in_order if c.where != "rejected"][:sample]}
        in_order = [c for c in in_order if c.where == "rejected" or c.key in kept]
    numbered = [replace(card, number=number) for number, card in enumerate(in_order)]
    return Deck(numbered, store, chunks, order, overlap)


def _material(
    run_dir: RunDir, chunks: ChunkStore, store: ReviewStore
) -> Iterator[tuple[str, QAPair, Where, tuple[dict[str, Any], ...]]]:
    """(key, pair, where it comes from, what users said of it): kept pairs first."""
    # Runs of earlier versions have qa.jsonl alone.
    pairs = run_dir.generated_pairs if run_dir.generated_pairs.exists() else run_dir.qa
    for pair in read_jsonl(pairs, QAPair):
        yield key_of(pair), pair, "pair", ()
    for review in store.added.values():
        added = added_card(review, 0, chunks)
        yield added.key, added.pair, "added", added.said
    if run_dir.feedback.exists():
        for row in read_rows(run_dir.feedback):
            if (liked := served_pair(row, chunks)) is not None:
                said = {name: row.get(name) for name in ("rating", "comment", "time")}
                yield key_of(liked), liked, "served", (said,)
    if run_dir.generated_rejects.exists():
        for pair in read_jsonl(run_dir.generated_rejects, QAPair):
            yield key_of(pair), pair, "rejected", ()


def served_pair(row: dict[str, Any], chunks: ChunkStore) -> QAPair | None:
    """The question and answer that a line of feedback.jsonl is about; None where the server did
    not know them any more, it abstained, or the line is a correction (a review of its own)."""
    exchange = row.get("exchange") or {}
    if row.get("rating") is None or row.get("answer") or exchange.get("abstained", True):
        return None
    cited = exchange.get("citations") or exchange.get("chunk_ids") or []
    found = list(chunks.select(cited[:1]).values())
    question, answer = exchange.get("standalone"), exchange.get("answer")
    if not found or not question or not answer:
        return None
    return people_pair(str(exchange["id"]), question, (answer,), found[0], None)


def added_card(review: Review, number: int, chunks: ChunkStore) -> Card:
    """The card of a question that somebody added."""
    chunk = chunks.get(review.evidence[0].chunk_id) if review.evidence else None
    if chunk is None:
        chunk = next(iter(chunks.of_documents([review.document_id])), None)
    evidence = None
    if chunk is not None and review.evidence:
        evidence = evidence_at(chunk, review.evidence[0])
    pair = people_pair(review.pair_id, review.question, review.answers, chunk, evidence)
    said = ({"rating": None, "comment": review.reason, "time": review.time},)
    return Card(
        number, review.key, pair, "added", doubt(pair, chunk), said if review.reason else ()
    )


def people_pair(
    pair_id: str,
    question: str,
    answers: tuple[str, ...],
    chunk: Chunk | None,
    evidence: Evidence | None,
) -> QAPair:
    """A pair that people asked or wrote, as it is shown on a card."""
    return QAPair(
        id=pair_id,
        question=question,
        answers=answers,
        chunk_id=chunk.id if chunk and answers else None,
        document_id=chunk.document_id if chunk else None,
        evidence=evidence,
        kind="factoid" if answers else "unanswerable",
        split=chunk.split if chunk else "train",
        origin="reviewed",
        provenance={"chunk_id": chunk.id} if chunk else {},
    )


def source_chunk_id(pair: QAPair) -> str | None:
    """The chunk that a pair was asked about, also where it is unanswerable."""
    return pair.chunk_id or pair.provenance.get("chunk_id")
