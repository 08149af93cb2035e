"""Questions with their answers: the last ones in memory, and what people say of them on disk."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rag_ft.prompts.answer_stream import AnswerStream
from rag_ft.review.correction import correction
from rag_ft.serving.answering import Asked
from rag_ft.serving.citations import Citation
from rag_ft.serving.collections import Collection, ServedModel
from rag_ft.storage import append_lines, now

KEPT = 1000
KEPT_CHARACTERS = 10_000_000  # of questions and answers


@dataclass(frozen=True)
class Exchange:
    """A question and what was answered. `served` is a line of served.jsonl."""

    collection: Collection
    served: dict[str, Any]

    @property
    def num_characters(self) -> int:
        """Of question and answer, which can be long."""
        return sum(len(self.served[name]) for name in ("question", "standalone", "answer"))

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
    """The last exchanges, at most KEPT, and the files to which the server appends."""

    def __init__(self, log: bool, fallback: Collection) -> None:
        """
        Args:
            log: Whether every exchange is written to served.jsonl.
            fallback: Gets the feedback on exchanges that are no longer known.
        """
        self._log, self._fallback = log, fallback
        self._kept: OrderedDict[str, Exchange] = OrderedDict()
        self._num_characters = 0

    def add(self, exchange: Exchange) -> None:
        """Keeps an exchange, and logs it where the log is on."""
        self._kept[exchange.served["id"]] = exchange
        self._num_characters += exchange.num_characters
        while len(self._kept) > KEPT or self._num_characters > KEPT_CHARACTERS:
            _, oldest = self._kept.popitem(last=False)
            self._num_characters -= oldest.num_characters
        if self._log:
            append_lines(exchange.collection.session.run_dir.served, exchange.served, durable=False)

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
        append_lines(run_dir.feedback, line)
        if exchange and answer and answer.strip():
            chosen = chunk_ids if chunk_ids is not None else exchange.served["citations"]
            chunks = collection.session.chunks
            review = correction(exchange.served, answer.strip(), chosen, comment, chunks)
            append_lines(run_dir.reviews, review)
        return exchange is not None


def fingerprints(model: ServedModel) -> dict[str, str]:
    """What answered: the encoder, and the language model with its adapters."""
    return {"encoder": model.retriever.manifest.encoder, "llm": model.llm.name}
