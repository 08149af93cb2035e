"""Counts for Prometheus: requests, seconds by step, tokens, answers without support."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from rag_ft.llm.interface import Reply
from rag_ft.prompts.answer_stream import AnswerStream

BUCKETS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 120)


class Telemetry:
    """The metrics of one server. Nothing of a question or an answer is in them."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._requests = Counter(
            "rag_ft_requests",
            "Requests by route and HTTP status.",
            ["route", "status"],
            registry=registry,
        )
        self._seconds = Histogram(
            "rag_ft_step_seconds",
            "Seconds of a step: rewrite, retrieve, rerank, embed, document, feedback, first_token, "
            "total.",
            ["step"],
            buckets=BUCKETS,
            registry=registry,
        )
        self._tokens = Counter(
            "rag_ft_tokens", "Tokens by kind: prompt or completion.", ["kind"], registry=registry
        )
        self._abstained = Counter("rag_ft_abstained", "Answers that abstain.", registry=registry)
        self._uncited = Counter(
            "rag_ft_without_citation", "Answers from chunks that cite none.", registry=registry
        )
        self.in_flight = Gauge(
            "rag_ft_in_flight", "Requests that are being answered.", registry=registry
        )

    def request(self, route: str, status: int, seconds: float) -> None:
        """One request has ended."""
        self._requests.labels(route, str(status)).inc()
        self.step("total", seconds)

    def step(self, step: str, seconds: float) -> None:
        """One step has taken `seconds`."""
        self._seconds.labels(step).observe(seconds)

    def answered(self, reply: Reply, from_chunks: bool, answer: AnswerStream) -> None:
        """One answer is complete."""
        self._tokens.labels("prompt").inc(reply.prompt_tokens)
        self._tokens.labels("completion").inc(reply.completion_tokens)
        if not from_chunks:
            return
        if answer.abstained:
            self._abstained.inc()
        elif not answer.marks:
            self._uncited.inc()

    def page(self) -> bytes:
        """The metrics as Prometheus reads them."""
        return generate_latest(self.registry)
