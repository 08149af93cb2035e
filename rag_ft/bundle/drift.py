"""Whether a bundle still answers as the run did: after merging, quantising or converting, or on
another machine. check.jsonl holds the run's answers to questions of its dev documents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rag_ft.errors import DataError, NotGoodEnoughError
from rag_ft.evaluation.metric_table import DECIDING_ANSWER
from rag_ft.evaluation.metrics.answers import score_answer
from rag_ft.evaluation.statistics import Estimate, bootstrap
from rag_ft.evaluation.verdict import points
from rag_ft.rag import RagAnswer
from rag_ft.schema import QAPair
from rag_ft.storage import read_jsonl

CHECK = "check.jsonl"
MAX_LOSS = 0.01  # of F1 (0-1)

Row = dict[str, Any]


class Answerer(Protocol):
    """What answers one question, such as RagPipeline."""

    def answer(self, question: str, filters: Mapping[str, Any] | None = None) -> RagAnswer:
        """The answer to a question, from the chunks that `filters` allow."""
        ...


@dataclass(frozen=True)
class Drift:
    """What changed between the stored answers and those of a bundle.

    `equal` of `questions` answers are the same text, `same_chunks` were made from the same chunks.
    `f1` before and after, and its paired change.
    """

    questions: int
    equal: int
    same_chunks: int
    f1_before: float
    f1_after: float
    change: Estimate

    @property
    def agreement(self) -> float:
        """The share (0-1) of equal answers."""
        return self.equal / self.questions

    def __str__(self) -> str:
        low, high = self.change.ci95 or (None, None)
        around = "" if low is None or high is None else f" [{points(low)}, {points(high)}]"
        return (
            f"{self.equal} of {self.questions} answers are equal, {self.same_chunks} are made from "
            f"the same chunks; F1 {100 * self.f1_before:.1f} -> {100 * self.f1_after:.1f} "
            f"({points(self.change.value)}{around})"
        )

    def numbers(self) -> dict[str, Any]:
        """The same for bundle.json, and in a sentence."""
        return {
            "sentence": str(self),
            "questions": self.questions,
            "equal": self.equal,
            "same_chunks": self.same_chunks,
            "f1_before": round(self.f1_before, 6),
            "f1_after": round(self.f1_after, 6),
            "f1_change_ci95": self.change.ci95,
        }


def questions_to_check(qa: Path, limit: int) -> list[QAPair]:
    """At most `limit` questions about dev documents, evenly over the file; where there are fewer,
    some about train documents, so that each run has something to check.

    Raises:
        DataError: the run has no pairs.
    """
    if not qa.exists():
        raise DataError(f"{qa} does not exist: run generate first")
    pairs = [pair for pair in read_jsonl(qa, QAPair) if pair.split != "test"]
    chosen: list[QAPair] = []
    for split in ("dev", "train"):
        found, room = [pair for pair in pairs if pair.split == split], limit - len(chosen)
        step = max(1.0, len(found) / room) if room else 1.0
        chosen += [found[int(n * step)] for n in range(min(room, len(found)))]
    if not chosen:
        raise DataError(f"{qa} has no question of a train or dev document to check a bundle with")
    return chosen


def answer_rows(rag: Answerer, pairs: Sequence[QAPair]) -> Iterator[Row]:
    """The lines of check.jsonl: each question with its accepted answers (none: right is to
    abstain), what is answered, and from which chunks."""
    for pair in pairs:
        said = rag.answer(pair.question, pair.filters)
        yield {
            "id": pair.id,
            "document_id": pair.document_id,
            "question": pair.question,
            "filters": pair.filters,
            "answers": pair.answers if pair.answerable else (),
            "answer": said.answer,
            "abstained": said.abstained,
            "chunk_ids": [found.chunk.id for found in said.chunks],
        }


def measure_drift(rag: Answerer, rows: Sequence[Row], seed: int = 0) -> Drift:
    """Asks the questions of check.jsonl again and compares.

    Raises:
        DataError: there is no question, or a line lacks a key.
    """
    if not rows:
        raise DataError(f"{CHECK} holds no question")
    equal = same = 0
    before, after = [], []
    try:
        for row in rows:
            said = rag.answer(row["question"], row["filters"])
            equal += said.answer == row["answer"]
            same += [found.chunk.id for found in said.chunks] == row["chunk_ids"]
            before.append(_f1(row["answer"], row["answers"], row["abstained"]))
            after.append(_f1(said.answer, row["answers"], said.abstained))
        names = [str(row["document_id"]) for row in rows]
    except (KeyError, TypeError) as error:
        raise DataError(f"{CHECK} is damaged ({error!r}): make the bundle again") from error
    # Questions about one document go right or wrong together.
    documents = np.unique(names, return_inverse=True)[1]
    change = np.array(after) - np.array(before)
    [estimate] = bootstrap(change[:, None], np.ones((len(rows), 1)), documents, seed=seed)
    return Drift(len(rows), equal, same, float(np.mean(before)), float(np.mean(after)), estimate)


def require_no_drift(drift: Drift, min_agreement: float) -> None:
    """Raises NotGoodEnoughError where F1 falls by more than MAX_LOSS or agreement is too low."""
    if drift.change.value < -MAX_LOSS:
        raise NotGoodEnoughError(
            f"F1 fell by more than {100 * MAX_LOSS:g} point: {points(drift.change.value)}"
        )
    if drift.agreement < min_agreement:
        raise NotGoodEnoughError(
            f"{drift.equal} of {drift.questions} answers are equal, and {100 * min_agreement:g} % "
            "are required (--min-agreement)"
        )


def _f1(answer: str, accepted: Sequence[str], abstained: bool) -> float:
    return score_answer(answer, accepted, abstained)[DECIDING_ANSWER]
