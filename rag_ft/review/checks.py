"""The checks that need no model, run at once on what a reviewer reads or writes; and doubts about a
pair, by which the worst come first."""

from __future__ import annotations

from typing import NamedTuple

from rag_ft.generation.filters import (
    Failure,
    WrittenPair,
    check_evidence,
    check_form,
    check_stands_alone,
    check_subject,
    supports,
)
from rag_ft.relevance import second_chunk_id
from rag_ft.schema import Chunk, QAPair
from rag_ft.text import content_words


class Checked(NamedTuple):
    """What a check said: `detail` says why it failed."""

    name: str
    passed: bool
    detail: str


def check_text(
    question: str, answers: tuple[str, ...], evidence: str | None, kind: str, chunk: Chunk | None
) -> list[Checked]:
    """The checks of generation on a question and its answers.

    Args:
        question: as it stands or is written.
        answers: none: the documents do not say.
        evidence: the text of the evidence; None: there is none.
        kind: of the question.
        chunk: that the question was asked about, where one is known.
    """
    kind = kind if answers else "unanswerable"
    found: list[tuple[str, Failure | None]] = []
    for answer in answers or ("",):
        written = WrittenPair(evidence or "", question, answer)
        form = check_form(written, kind)
        if form or answer == (answers or ("",))[-1]:
            found.append(("form", form))
            break
    found.append(("stands alone", check_stands_alone(question)))
    if kind == "unanswerable":
        if chunk is not None:
            found.append(("subject", check_subject(question, f"{chunk.title} {chunk.text}")))
    elif evidence is None:
        found.append(("evidence", Failure("evidence", "no evidence is marked")))
    else:
        written = WrittenPair(evidence, question, answers[0])
        found.append(("evidence", check_evidence(written, (0, len(evidence)), evidence, kind)))
    return [Checked(name, why is None, why.detail if why else "") for name, why in found]


def doubt(pair: QAPair, chunk: Chunk | None) -> float:
    """How likely a pair is wrong, as far as no model is needed to tell: 0 or more, a larger number
    is worse. Only the order means anything.

    It adds up what the checks say now, what generation measured, and how much of the question is
    not in the chunk and not near the evidence.
    """
    answers = pair.answers if pair.answerable else ()
    evidence = pair.evidence.text if pair.evidence else None
    found = check_text(pair.question, answers, evidence, pair.kind, chunk)
    total = float(sum(not check.passed for check in found))
    if answers and evidence is not None:
        total += 0.5 * (not supports(evidence, answers[0]))
    # What the retriever and the language model said.
    total += 1 - float(pair.checks.get("round_trip_f1", 1.0))
    total += 0.5 * (1 - 1 / max(1, int(pair.checks.get("round_trip_rank") or 1)))
    total += 0.2 * (pair.checks.get("evidence") == "repaired")
    # A question about two chunks finds its words in both.
    words = content_words(pair.question)
    if words and chunk is not None and second_chunk_id(pair) is None:
        in_chunk = content_words(f"{chunk.title} {chunk.text}")
        missing = 1 - len(words & in_chunk) / len(words)
        # An unanswerable question of which the chunk has every word may have an answer there.
        total += missing if answers else 0.3 * (1 - missing)
        if evidence is not None:
            near = content_words(f"{chunk.title} {evidence}")
            total += 1 - len(words & near) / len(words)
    return total
