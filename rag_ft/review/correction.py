"""A served question with an answer that somebody gave or approved, as a review."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rag_ft.chunk_store import ChunkStore
from rag_ft.relevance import evidence_in_chunk, locate
from rag_ft.review.store import SERVE, review_key
from rag_ft.schema import Place, Review
from rag_ft.storage import now


def correction(
    served: Mapping[str, Any],
    answer: str,
    chunk_ids: Sequence[str],
    comment: str | None,
    chunks: ChunkStore,
) -> Review:
    """The question of an exchange (a line of served.jsonl) with `answer`, and where it stands in
    the chunks of these ids."""
    shown = list(chunks.select(chunk_ids).values())
    evidence = []
    for chunk in shown:
        if span := locate(answer, chunk.text):
            found = evidence_in_chunk(chunk, span)
            evidence.append(Place(chunk.id, found.start, found.end))
    if not evidence:
        evidence = [Place(chunk.id, chunk.start, chunk.end) for chunk in shown]
    document_id = shown[0].document_id if shown else None
    return Review(
        pair_id=served["id"],
        key=review_key(served["standalone"], document_id),
        source="serve",
        decision="add",
        reason=comment,
        question=served["standalone"],
        answers=(answer,),
        document_id=document_id,
        evidence=tuple(evidence),
        reviewer=SERVE,
        time=now(),
    )
