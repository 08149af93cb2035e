"""The review page: its routes over one run, behind the same guard as the server."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from pydantic import Field
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp

from rag_ft.config import ServeConfig
from rag_ft.review.cards import card_data, chunk_of, neighbours, written_checks
from rag_ft.review.deck import Deck
from rag_ft.review.filtering import Card, Wanted
from rag_ft.review.store import REASONS, decided, review_key
from rag_ft.schema import KINDS, Place, Review
from rag_ft.serving import pages
from rag_ft.serving.collections import Collection
from rag_ft.serving.errors import HANDLERS, ApiError
from rag_ft.serving.guard import Guard, Key
from rag_ft.serving.requests import Body, read_body
from rag_ft.serving.telemetry import Telemetry

NUM_RECENT = 50  # decisions that can be undone after a reload
MAX_DOCUMENTS = 5000  # that the list of a filter offers
Name = Annotated[str, Field(min_length=1, max_length=80, pattern=r"\S")]
Text = Annotated[str, Field(max_length=20_000)]


@dataclass(frozen=True)
class ReviewState:
    """`reviewer` is the name that the page suggests; `abstain` the answer of unanswerable
    questions."""

    deck: Deck
    collection: Collection
    reviewer: str
    abstain: str


class EvidenceBody(Body):
    """A span of the text of a chunk, in characters (code points)."""

    chunk_id: Text
    start: int = Field(ge=0)
    end: int = Field(ge=0)


class WrittenBody(Body):
    """What a reviewer writes about a card. No answers: the documents do not say."""

    number: int = Field(ge=0)
    question: Text = Field(pattern=r"\S")
    answers: list[Text] = Field(max_length=100)
    evidence: EvidenceBody | None = None
    is_new: bool = False


class DecisionBody(Body):
    """A decision about cards. `written` goes with edit and add; `seen` is the number of lines that
    the page knows."""

    reviewer: Name
    numbers: list[int] = Field(min_length=1, max_length=1_000_000)
    decision: Literal["accept", "reject", "unsure", "undo", "edit", "add"]
    reason: Text | None = None
    written: WrittenBody | None = None
    seen: int = Field(0, ge=0)


def make_review_app(state: ReviewState, settings: ServeConfig, key: Key | None = None) -> ASGIApp:
    """The ASGI application of the review page; see Guard for `key`."""

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[dict[str, Any]]:
        shared: dict[str, Any] = {"review": state, "home": "review", "key": key}
        yield shared | {"collections": lambda: [state.collection]}

    routes = [
        Route("/", review_page),
        Route("/documents/{id:path}", pages.document_page),
        Route("/static/{name}", pages.static_file),
        Route("/login", pages.login_page, methods=["GET"]),
        Route("/login", pages.login, methods=["POST"]),
        Route("/review/queue", queue),
        Route("/review/cards/{number}", card),
        Route("/review/neighbours/{number}", card_neighbours),
        Route("/review/checks", checks, methods=["POST"]),
        Route("/review/decisions", decide, methods=["POST"]),
    ]
    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers=HANDLERS)
    return Guard(app, settings, key, Telemetry())


async def review_page(request: Request) -> Response:
    """GET /."""
    state: ReviewState = request.state.review
    cards = state.deck.cards
    documents = {c.pair.document_id: None for c in cards if c.pair.document_id is not None}
    page = pages.render(
        "review.html",
        run=state.collection.name,
        reviewer=state.reviewer,
        reasons=REASONS,
        kinds=[kind for kind in KINDS if any(card.pair.kind == kind for card in cards)],
        documents=sorted(documents)[:MAX_DOCUMENTS],
    )
    return HTMLResponse(page)


async def queue(request: Request) -> Response:
    """GET /review/queue?reviewer=&status=&where=&kind=&split=&document=&text=: the numbers of the
    cards, and what there is to know of the whole."""
    state: ReviewState = request.state.review
    query = request.query_params
    names = Wanted.__dataclass_fields__
    wanted = Wanted(**{name: query[name][:1000] for name in names if query.get(name)})
    state.deck.follow()
    deck, reviewer = state.deck, query.get("reviewer", "")
    keys = deck.store.recent(reviewer, NUM_RECENT)
    recent = [number for key in keys if (number := deck.number_of(key)) is not None]
    numbers = deck.queue(reviewer, wanted)
    # The card that shows next comes along: the page need not ask for it.
    first = _card_json(state, deck.cards[numbers[0]], reviewer) if numbers else None
    found = {"numbers": numbers, "recent": recent, "card": first, **_progress(deck, None)}
    return JSONResponse(found)


async def card(request: Request) -> Response:
    """GET /review/cards/{number}?reviewer=. What checks and others said is there once this reviewer
    has decided."""
    state: ReviewState = request.state.review
    found = _card(state.deck, _number(request))
    reviewer = request.query_params.get("reviewer", "")
    return JSONResponse(_card_json(state, found, reviewer))


async def card_neighbours(request: Request) -> Response:
    """GET /review/neighbours/{number}: the chunks before and after that of a card."""
    state: ReviewState = request.state.review
    found = _card(state.deck, _number(request))
    return JSONResponse(neighbours(state.deck, found))


async def checks(request: Request) -> Response:
    """POST /review/checks: what the checks that need no model say of an edit."""
    state: ReviewState = request.state.review
    body = await read_body(request, WrittenBody)
    found = _card(state.deck, body.number)
    place = _place(state.deck, body.evidence)
    own = None if body.is_new else found.number
    rows = written_checks(state.deck, found, body.question, _answers(body), place, own)
    return JSONResponse({"checks": [row._asdict() for row in rows]})


async def decide(request: Request) -> Response:
    """POST /review/decisions. The answer comes when the lines are on the disk."""
    state: ReviewState = request.state.review
    body = await read_body(request, DecisionBody)
    deck = state.deck
    cards = [_card(deck, number) for number in dict.fromkeys(body.numbers)]
    if body.decision in ("edit", "add"):
        if body.written is None:
            raise ApiError(400, "written: an edit needs question and answers", "written")
        lines = [_written(deck, cards[0], body, body.written)]
    else:
        lines = [_decided(deck, each, body) for each in cards]
    deck.store.append(*lines)
    deck.follow()
    added = deck.number_of(lines[0].key) if body.decision == "add" else None
    # What was taken back shows again.
    again = _card_json(state, cards[0], body.reviewer) if body.decision == "undo" else None
    return JSONResponse({"added": added, "card": again, **_progress(deck, body.seen)})


def _card_json(state: ReviewState, found: Card, reviewer: str) -> dict[str, Any]:
    return card_data(state.deck, found, reviewer, state.collection.documents)


def _progress(deck: Deck, seen: int | None) -> dict[str, Any]:
    """{seen, rates, changed: {number: reviewers}}: `changed` since the line `seen`."""
    keys = dict.fromkeys(deck.store.changed[seen:]) if seen is not None else {}
    changed = {
        number: list(deck.store.by_people(key))
        for key in keys
        if (number := deck.number_of(key)) is not None and not deck.is_shared(deck.cards[number])
    }
    rates = [asdict(rate) for rate in deck.rates()]
    return {"seen": len(deck.store.changed), "rates": rates, "changed": changed}


def _number(request: Request) -> int:
    """The number in the path, or -1, which no card has: Starlette's own conversion fails where
    there are thousands of digits."""
    digits = request.path_params["number"]
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 10 else -1


def _card(deck: Deck, number: int) -> Card:
    if not 0 <= number < len(deck.cards):
        raise ApiError(404, "no such card: reload the page")
    return deck.cards[number]


def _decided(deck: Deck, found: Card, body: DecisionBody) -> Review:
    decision: str = body.decision
    changes: dict[str, Any] = {"key": found.key, "reason": body.reason or None}
    if found.where in ("added", "served"):
        # Such a pair is in no file of the run: whoever accepts it adds it.
        chunk = chunk_of(deck, found.pair)
        added = deck.store.added.get(found.key)
        changes |= {"evidence": added.evidence if added else ()}
        if not changes["evidence"] and chunk is not None and found.pair.answerable:
            changes["evidence"] = (Place(chunk.id, chunk.start, chunk.end),)
        if decision == "accept" and added is None:
            decision = "add"
    return decided(found.pair, decision, body.reviewer.strip(), **changes)


def _written(deck: Deck, found: Card, body: DecisionBody, written: WrittenBody) -> Review:
    question = " ".join(written.question.split())
    answers, place = _answers(written), _place(deck, written.evidence)
    chunk = chunk_of(deck, found.pair)
    if place is not None:
        chunk = deck.chunks[place.chunk_id]
    document_id = chunk.document_id if chunk is not None else found.pair.document_id
    changes: dict[str, Any] = {
        "key": found.key,
        "question": question,
        "answers": answers,
        "document_id": document_id,
        "evidence": (place,) if place is not None and answers else (),
        "reason": body.reason or None,
    }
    decision = body.decision
    if decision == "add":
        changes["key"] = review_key(question, document_id)
        changes["pair_id"] = changes["key"][:16]
        if not changes["evidence"] and chunk is not None and answers:
            changes["evidence"] = (Place(chunk.id, chunk.start, chunk.end),)
    elif found.where == "served" and found.key not in deck.store.added:
        decision = "add"
    return decided(found.pair, decision, body.reviewer.strip(), **changes)


def _answers(written: WrittenBody) -> tuple[str, ...]:
    """The answers that are not empty, each once."""
    tidy = (" ".join(answer.split()) for answer in written.answers)
    return tuple(dict.fromkeys(filter(None, tidy)))


def _place(deck: Deck, evidence: EvidenceBody | None) -> Place | None:
    """The evidence as positions in the document. Raises ApiError where the chunk has none there."""
    if evidence is None:
        return None
    chunk = deck.chunks.get(evidence.chunk_id)
    if chunk is None or not evidence.start < evidence.end <= len(chunk.text):
        raise ApiError(400, "evidence: it must be a part of a chunk", "evidence")
    return Place(chunk.id, chunk.start + evidence.start, chunk.start + evidence.end)
