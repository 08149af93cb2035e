"""Questions with their answers: the last ones in memory, and what people say of them on disk."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock

from rag_ft.prompts.answer_stream import AnswerStream
from rag_ft.relevance import evidence_in_chunk, locate
from rag_ft.serving.answering import Asked
from rag_ft.serving.citations import Citation
from rag_ft.serving.collections import Collection, ServedModel
from rag_ft.storage import JsonlAppender

KEPT = 1000


@dataclass(frozen=True)
class Exchange:
    """A question and what was answered. `served` is a line of served.jsonl."""

    collection: Collection
    served: dict[str, Any]

    @classmethod
    def of(cls, asked: Asked, answer: AnswerStream, citations: Sequence[Citation]) -> Exchange:
        """The exchange of a finished answer."""
        model = asked.model
        return cls(
            model.collection,
            {
                "id": asked.request.id,
                "time": now(),
                "model": model.id,
                "question": asked.question,
                "standalone": asked.standalone,
                "chunk_ids": [citation["chunk_id"] for citation in citations],
                "citations": [c["chunk_id"] for c in citations if c["cited"]],
                "answer": answer.text,
                "abstained": answer.abstained,
                "fingerprints": fingerprints(model),
            },
        )


class Exchanges:
    """The last KEPT exchanges, and the files to which the server appends."""

    def __init__(self, log: bool, fallback: Collection) -> None:
        """
        Args:
            log: Whether every exchange is written to served.jsonl.
            fallback: Gets the feedback on exchanges that are no longer known.
        """
        self._log, self._fallback = log, fallback
        self._kept: OrderedDict[str, Exchange] = OrderedDict()

    def add(self, exchange: Exchange) -> None:
        """Keeps an exchange, and logs it where the log is on."""
        self._kept[exchange.served["id"]] = exchange
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        if self._log:
            append(exchange.collection.session.run_dir.served, exchange.served)

    def judge(
        self,
        exchange_id: str,
        rating: int | None,
        comment: str | None,
        answer: str | None,
        chunk_ids: Sequence[str] | None,
    ) -> bool:
        """Writes feedback, and a correction as a review. Returns whether the exchange is known."""
        exchange = self._kept.get(exchange_id)
        collection = exchange.collection if exchange else self._fallback
        run_dir = collection.session.run_dir
        line = {
            "id": exchange_id,
            "time": now(),
            "rating": rating,
            "comment": comment,
            "answer": answer,
            "chunk_ids": list(chunk_ids) if chunk_ids is not None else None,
            "exchange": exchange.served if exchange else None,
        }
        append(run_dir.feedback, line)
        if exchange and answer and answer.strip():
            chosen = chunk_ids if chunk_ids is not None else exchange.served["citations"]
            append(run_dir.reviews, correction(exchange, answer.strip(), chosen, comment))
        return exchange is not None


def correction(
    exchange: Exchange, answer: str, chunk_ids: Sequence[str], comment: str | None
) -> dict[str, Any]:
    """A line of reviews.jsonl: the question with the answer that somebody gave, and where it stands
    in `chunk_ids`; offsets are those of the document."""
    served = exchange.served
    chunks = list(exchange.collection.session.chunks.select(chunk_ids).values())
    evidence = []
    for chunk in chunks:
        if span := locate(answer, chunk.text):
            found = evidence_in_chunk(chunk, span)
            evidence.append({"chunk_id": chunk.id, "start": found.start, "end": found.end})
    if not evidence:
        evidence = [{"chunk_id": c.id, "start": c.start, "end": c.end} for c in chunks]
    document_id = chunks[0].document_id if chunks else None
    return {
        "pair_id": served["id"],
        "key": review_key(served["standalone"], document_id),
        "source": "serve",
        "decision": "add",
        "reason": comment,
        "question": served["standalone"],
        "answers": [answer],
        "document_id": document_id,
        "evidence": evidence,
        "reviewer": "serve",
        "time": now(),
    }


def review_key(question: str, document_id: str | None) -> str:
    """sha256 of a question and the id of its document, as 64 hex digits: what a review is about."""
    return hashlib.sha256(f"{question}\n{document_id or ''}".encode()).hexdigest()


def fingerprints(model: ServedModel) -> dict[str, str]:
    """What answered: the encoder, and the language model with its adapters."""
    return {"encoder": model.retriever.manifest.encoder, "llm": model.llm.name}


def append(path: Path, line: dict[str, Any]) -> None:
    """Appends one line; processes that append at the same time wait for each other."""
    with FileLock(path.with_name(f".{path.name}.lock")), JsonlAppender(path) as out:
        out.write(line)


def now() -> str:
    """The time in UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")
