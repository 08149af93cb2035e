"""Every question with what each system said: the data behind the question browser of the page."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from rag_ft.evaluation.comparisons import ScoreTable
from rag_ft.evaluation.metric_table import DECIDING_ANSWER, EXACT_MATCH, LABELS
from rag_ft.evaluation.systems import SYSTEMS
from rag_ft.schema import Chunk, Document, Hit, Prediction
from rag_ft.storage import json_text
from rag_ft.text import normalise

# Why an answer has its score; page.js holds the words for each code (WHY).
EXACT = 0  # equals an accepted answer
HOLDS = 1  # contains an accepted answer
PARTIAL = 2  # shares words with one
WRONG = 3
RIGHT_ABSTENTION = 4
BLIND_ABSTENTION = 5  # the gold chunk was not in the context
NEEDLESS_ABSTENTION = 6  # it was
INVENTED = 7  # answered where abstaining is right
UNJUDGED_ABSTENTION = 8  # the gold chunk is unknown
SHOWN_SCORES = (EXACT_MATCH, DECIDING_ANSWER)
REASON_METRICS = (*SHOWN_SCORES, "contains", "abstained")
UNLOCATED = {system.name for system in SYSTEMS if system.context in ("oracle", "withheld")}


def browser_data(
    table: ScoreTable,
    predictions: Mapping[str, Iterable[Prediction]],
    gold: Mapping[str, set[str]],
    chunks: Mapping[str, Chunk],
    documents: Mapping[str, Document],
) -> dict[str, Any]:
    """{"systems", "scores", "unlocated", "documents", "chunks", "questions"}: chunks and documents
    once each, referred to by number.

    A question's answers are {system number: [answer, em, f1, why, chunk numbers, cited chunk
    numbers, whether these are inferred]}. `scores` are the labels of em and f1. `unlocated` are the
    numbers of the systems that are only asked questions with a known gold chunk.
    """
    # Numbers instead of ids keep the page small.
    numbers = Numbers()
    questions = []
    for pair in table.pairs:
        question: dict[str, Any] = {
            "id": pair.id,
            "q": pair.question,
            "kind": pair.kind,
            "origin": pair.origin,
            "doc": numbers.document(pair.document_id) if pair.document_id else None,
            "answers": list(pair.answers) if pair.answerable else [],
            "gold": sorted(numbers.chunk(chunk_id) for chunk_id in gold.get(pair.id, ())),
            "ev": [pair.evidence.start, pair.evidence.end] if pair.evidence else None,
            "a": {},
        }
        questions.append(question)

    # Predictions of questions that qa.jsonl no longer holds are left out.
    rows = {pair.id: row for row, pair in enumerate(table.pairs)}
    for number, name in enumerate(predictions):
        for prediction in predictions[name]:
            row = rows.get(prediction.question_id)
            if row is not None:
                answer = shown_answer(table, row, prediction, gold.get(prediction.question_id))
                answer.append([numbers.chunk(i) for i in prediction.chunk_ids])
                answer.append([numbers.chunk(i) for i in prediction.citations])
                answer.append(int(prediction.inferred))
                questions[row]["a"][number] = answer

    # By now every chunk that the page shows has a number; its document may still need one.
    texts = []
    for chunk_id in numbers.chunks:
        text: dict[str, Any] = {"id": chunk_id, "t": "", "s": 0, "doc": None, "title": ""}
        if chunk := chunks.get(chunk_id):
            document = numbers.document(chunk.document_id)
            text |= {"t": chunk.text, "s": chunk.start, "doc": document, "title": chunk.title}
        texts.append(text)
    titles = [document_title(name, documents.get(name)) for name in numbers.documents]
    return {
        "systems": list(predictions),
        "scores": [LABELS[metric] for metric in SHOWN_SCORES],
        "unlocated": [number for number, name in enumerate(predictions) if name in UNLOCATED],
        "documents": titles,
        "chunks": texts,
        "questions": questions,
    }


def add_ranks(data: dict[str, Any], hits: Mapping[str, Iterable[Hit]]) -> None:
    """Adds to the result of `browser_data` where chunks stand in the rankings: "rankings", their
    names, and for each question "r", {chunk number: {ranking number: [rank, score]}} of the chunks
    that some system was shown. `hits` are those of each ranking."""
    data["rankings"] = list(hits)
    chunk_of = {chunk["id"]: number for number, chunk in enumerate(data["chunks"])}
    shown: dict[str, tuple[dict[int, Any], set[int]]] = {}
    for question in data["questions"]:
        question["r"] = {}
        seen = {number for answer in question["a"].values() for number in answer[4]}
        shown[question["id"]] = question["r"], seen
    for number, ranked in enumerate(hits.values()):
        for hit in ranked:
            ranks, seen = shown.get(hit.question_id, ({}, set()))
            chunk = chunk_of.get(hit.chunk_id)
            if chunk is not None and chunk in seen:
                ranks.setdefault(chunk, {})[number] = [hit.rank, float(f"{hit.score:.3g}")]


def script_json(data: Any) -> str:
    """JSON that is safe inside a <script> element: nothing in it can end the element or open a
    comment."""
    # Escapes are the same text to a JSON parser, but no markup to the HTML parser before it.
    text = json_text(data, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def document_title(name: str, document: Document | None) -> str:
    """ "Title (name)", or the name alone where the title says the same."""
    title = document.title if document else ""
    return f"{title} ({name})" if title and normalise(title) != normalise(name) else name


class Numbers:
    """Ids -> small numbers, in order of first use."""

    def __init__(self) -> None:
        self.chunks: dict[str, int] = {}
        self.documents: dict[str, int] = {}

    def chunk(self, chunk_id: str) -> int:
        """The number of a chunk; a new one at the first use."""
        return self.chunks.setdefault(chunk_id, len(self.chunks))

    def document(self, document_id: str) -> int:
        """The number of a document; a new one at the first use."""
        return self.documents.setdefault(document_id, len(self.documents))


def shown_answer(
    table: ScoreTable, row: int, prediction: Prediction, gold: set[str] | None
) -> list[Any]:
    """[answer, exact match (0 or 1), F1 (0-1), why it has this score] of the question in `row`."""
    scores = {}
    for metric in REASON_METRICS:
        values = table.values.get((prediction.system, metric))
        is_scored = values is not None and not np.isnan(values[row])
        scores[metric] = float(values[row]) if is_scored and values is not None else 0.0
    # Without a known gold chunk nobody can say whether the context held one, unless it is empty.
    seen = None
    if gold or not prediction.chunk_ids:
        seen = not (gold or set()).isdisjoint(prediction.chunk_ids)
    is_withheld = prediction.system.startswith("withheld")
    why = reason(scores, table.pairs[row].answerable and not is_withheld, seen)
    exact, overlap = (scores[metric] for metric in SHOWN_SCORES)
    return [prediction.answer, int(exact), round(overlap, 3), why]


def reason(scores: Mapping[str, float], answerable: bool, seen: bool | None) -> int:
    """Why an answer has its score, as one of the codes above; `seen`: whether a gold chunk was in
    the context, None where no gold chunk is known."""
    # Abstaining is right where there is no answer, and excusable where no gold chunk was shown.
    if scores["abstained"]:
        if not answerable:
            return RIGHT_ABSTENTION
        if seen is None:
            return UNJUDGED_ABSTENTION
        return NEEDLESS_ABSTENTION if seen else BLIND_ABSTENTION
    if not answerable:
        return INVENTED
    if scores[EXACT_MATCH]:
        return EXACT
    if scores["contains"]:
        return HOLDS
    return PARTIAL if scores[DECIDING_ANSWER] else WRONG
