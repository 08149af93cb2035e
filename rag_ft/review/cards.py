"""What the page shows of a card."""

from __future__ import annotations

from dataclasses import replace
from typing import Any
from urllib.parse import quote

from rag_ft.document_store import DocumentStore
from rag_ft.relevance import evidence_at, second_chunk_id
from rag_ft.review.checks import Checked, check_text
from rag_ft.review.deck import Deck, source_chunk_id
from rag_ft.review.filtering import Card
from rag_ft.schema import Chunk, Place, QAPair, Review

NUM_NEIGHBOURS = 1  # on each side


def card_data(deck: Deck, card: Card, reviewer: str, documents: DocumentStore) -> dict[str, Any]:
    """A card as JSON. Positions in chunks count code points.

    What the language model and the checks of generation decided (`judge`) and what others decided
    (`others`) are there only once `reviewer` has decided: they would lead the decision.
    """
    pair = card.pair
    mine = deck.store.latest(card.key).get(reviewer)
    chunk = chunk_of(deck, pair)
    answers = pair.answers if pair.answerable else ()
    evidence = pair.evidence.text if pair.evidence else None
    rows = check_text(pair.question, answers, evidence, pair.kind, chunk)
    people = deck.store.by_people(card.key)
    others = [review for name, review in people.items() if name != reviewer]
    title = chunk.title if chunk is not None else ""
    if not title and pair.document_id is not None and pair.document_id in documents:
        title = documents[pair.document_id].title
    return {
        "number": card.number,
        "question": pair.question,
        "answers": answers,
        "kind": pair.kind,
        "split": pair.split,
        "origin": pair.origin if card.where == "pair" else card.where,
        "document": {
            "id": pair.document_id,
            "title": title or pair.document_id or "no document",
            "place": _place_under(title, chunk) if chunk is not None else "",
            "url": _document_url(pair, chunk),
        },
        "chunks": [_chunk_data(each, pair) for each in chunks_of(deck, pair)],
        "checks": [row._asdict() for row in rows],
        "facts": _facts(pair),
        "said": list(card.said),
        "mine": _review_data(deck, mine) if mine else None,
        "num_others": len(others),
        "others": [_review_data(deck, r) for r in others] if mine else [],
        "judge": judge_data(card) if mine else None,
    }


def chunk_of(deck: Deck, pair: QAPair) -> Chunk | None:
    """The chunk that a pair was asked about; the first one of its document where none is known."""
    found = deck.chunks.get(source_chunk_id(pair))
    if found is None and pair.document_id is not None:
        found = next(iter(deck.chunks.of_documents([pair.document_id])), None)
    return found


def chunks_of(deck: Deck, pair: QAPair) -> list[Chunk]:
    """The chunk of a pair, and the other one of a question about two."""
    both = chunk_of(deck, pair), deck.chunks.get(second_chunk_id(pair))
    return [chunk for chunk in both if chunk is not None]


def neighbours(deck: Deck, card: Card) -> dict[str, Any]:
    """{before, after}: the chunks around that of a card, without evidence marked."""
    chunk = chunk_of(deck, card.pair)
    if chunk is None:
        return {"before": [], "after": []}
    of_document = deck.chunks.of_documents([chunk.document_id])
    at = next(place for place, each in enumerate(of_document) if each.id == chunk.id)
    before = of_document[max(0, at - NUM_NEIGHBOURS) : at]
    after = of_document[at + 1 : at + 1 + NUM_NEIGHBOURS]
    return {
        "before": [_chunk_data(each, None) for each in before],
        "after": [_chunk_data(each, None) for each in after],
    }


def written_checks(
    deck: Deck,
    card: Card,
    question: str,
    answers: tuple[str, ...],
    place: Place | None,
    own: int | None,
) -> list[Checked]:
    """The checks of what a reviewer writes. `own` is the number of the card that it replaces; None:
    it is a question of its own."""
    chunk, evidence = chunk_of(deck, card.pair), None
    if place is not None:
        chunk = deck.chunks[place.chunk_id]
        found = evidence_at(chunk, place)
        evidence = found.text if found is not None else None
    kind = card.pair.kind if own is not None and card.pair.answerable else "factoid"
    question = " ".join(question.split())
    rows = check_text(question, answers, evidence, kind, chunk)
    repeated = deck.repeats(question, own)
    return [
        *rows,
        Checked("not asked yet", not repeated, "another pair asks the same" if repeated else ""),
    ]


def judge_data(card: Card) -> dict[str, Any] | None:
    """{keeps, detail}: what the checks of generation decided, the language model's round trip among
    them; None for what people wrote."""
    checks = card.pair.checks
    if card.where == "rejected":
        return {"keeps": False, "detail": f"{checks.get('rejected')}: {checks.get('detail', '')}"}
    if card.where != "pair" or card.pair.origin == "imported":
        return None
    agreed = checks.get("round_trip_f1")
    detail = "" if agreed is None else f"the model's own answer agrees with F1 {agreed:g}"
    return {"keeps": True, "detail": detail}


def _facts(pair: QAPair) -> list[tuple[str, str]]:
    """The stored checks in words, without those of the language model."""
    facts = []
    if (rank := pair.checks.get("round_trip_rank")) is not None:
        facts.append(("retriever", f"finds the chunk at rank {rank}"))
    if pair.checks.get("evidence") == "repaired":
        facts.append(("evidence", "was not quoted by the model: the sentence asked about"))
    return facts


def _chunk_data(chunk: Chunk, pair: QAPair | None) -> dict[str, Any]:
    """`evidence` is [start, end] in the text, as far as the chunk has it."""
    span = None
    if pair is not None and pair.evidence and chunk.document_id == pair.document_id:
        start, end = max(pair.evidence.start, chunk.start), min(pair.evidence.end, chunk.end)
        span = [start - chunk.start, end - chunk.start] if start < end else None
    return {"id": chunk.id, "text": chunk.text, "place": chunk.place, "evidence": span}


def _place_under(title: str, chunk: Chunk) -> str:
    """The place of a chunk, shown after the document's title: which is not said twice."""
    first, *rest = chunk.headings or ("",)
    return replace(chunk, headings=tuple(rest)).place if first == title else chunk.place


def _document_url(pair: QAPair, chunk: Chunk | None) -> str | None:
    if pair.document_id is None:
        return None
    mark = f"?chunk={quote(chunk.id, safe='')}#cited" if chunk is not None else ""
    return f"/documents/{quote(pair.document_id)}{mark}"


def _review_data(deck: Deck, review: Review) -> dict[str, Any]:
    """A review as the page shows it; the evidence as a span of its chunk."""
    span = None
    if review.evidence:
        place = review.evidence[0]
        chunk = deck.chunks.get(place.chunk_id)
        if chunk is not None and evidence_at(chunk, place) is not None:
            start, end = place.start - chunk.start, place.end - chunk.start
            span = {"chunk_id": chunk.id, "start": start, "end": end}
    return {
        "decision": review.decision,
        "reason": review.reason,
        "question": review.question,
        "answers": review.answers,
        "evidence": span,
        "reviewer": review.reviewer,
        "time": review.time,
    }
