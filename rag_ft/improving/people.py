"""What people said of the versions of a run, as the reviews of the next one."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from rag_ft.chunk_store import ChunkStore
from rag_ft.document_store import DocumentStore
from rag_ft.relevance import locate
from rag_ft.review.correction import correction
from rag_ft.review.store import key_of, parse_review
from rag_ft.run_dir import RunDir
from rag_ft.schema import Chunk, Place, QAPair, Review
from rag_ft.storage import read_jsonl, read_rows


def said_of(versions: Sequence[RunDir]) -> list[tuple[Review, RunDir]]:
    """The reviews of all versions and the answers that users approved, each once and with the first
    version that has it, in the order of time."""
    found: dict[Review, tuple[Review, RunDir]] = {}
    for run_dir in versions:
        for review in reviews_of(run_dir):
            found.setdefault(without_evidence(review), (review, run_dir))
    corrected = {review.key for review in found}
    for run_dir in versions:
        for review in approved(run_dir):
            if review.key not in corrected:
                found.setdefault(without_evidence(review), (review, run_dir))
    return sorted(found.values(), key=lambda said: said[0].time)


def without_evidence(review: Review) -> Review:
    """What a review has in common with the one that a later version carried over."""
    return replace(review, evidence=())


def reviews_of(run_dir: RunDir) -> Iterator[Review]:
    """The lines of reviews.jsonl that are reviews; generate lists the others as rejects."""
    if not run_dir.reviews.exists():
        return
    with run_dir.reviews.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                yield parse_review(json.loads(line))
            except (ValueError, RecursionError):
                continue


def approved(run_dir: RunDir) -> Iterator[Review]:
    """Served answers with more thumbs up than down, as questions to add. Questions that the run has
    an accepted answer to keep it; an answer that cites nothing has no place in the documents."""
    if not run_dir.feedback.exists():
        return
    votes: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    for row in read_rows(run_dir.feedback):
        served = row.get("exchange") or {}
        if row.get("rating") and not row.get("answer") and served.get("citations"):
            votes[served["standalone"], served["answer"]].append(row)
    chunks = ChunkStore(run_dir.chunks)
    known = {key_of(pair) for pair in read_jsonl(run_dir.qa, QAPair)} if votes else set()
    for rows in votes.values():
        served, balance = rows[-1]["exchange"], sum(row["rating"] for row in rows)
        if balance <= 0 or served["abstained"]:
            continue
        review = correction(served, served["answer"], served["citations"], None, chunks)
        if review.document_id is not None and review.key not in known:
            yield replace(review, time=rows[-1]["time"])


def carried_over(said: Iterable[tuple[Review, RunDir]], version: RunDir) -> Iterator[Review]:
    """The reviews with their evidence where it stands in the documents of `version`. Evidence that
    has gone becomes an empty span, with which generate rejects the review."""
    documents, chunks = DocumentStore(version.documents), ChunkStore(version.chunks)
    stores: dict[RunDir, DocumentStore] = {}
    for review, run_dir in said:
        before = stores.setdefault(run_dir, DocumentStore(run_dir.documents))
        name = review.document_id
        if not review.evidence or name is None or name not in before or name not in documents:
            yield review
            continue
        old, new = before[name].text, documents[name].text
        if old == new:
            yield review
            continue
        own = chunks.of_documents([name])
        places = (moved(place, old, new, own) for place in review.evidence)
        yield replace(review, evidence=tuple(places))


def moved(place: Place, old: str, new: str, chunks: Sequence[Chunk]) -> Place:
    """Where the evidence of `place` in the text `old` stands in `new`, which `chunks` are cut from;
    an empty span where it has gone."""
    quote = old[place.start : place.end]
    if quote and (span := locate(quote, new, (place.start, place.end))):
        for chunk in chunks:
            if chunk.start <= span[0] and span[1] <= chunk.end:
                return Place(chunk.id, *span)
    return Place(place.chunk_id, 0, 0)
