"""Every question with what each system said: the data behind the question browser of the page."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from rag_ft.evaluation.comparisons import ScoreTable
from rag_ft.evaluation.metric_table import DECIDING_ANSWER, EXACT_MATCH, LABELS
from rag_ft.evaluation.systems import SYSTEMS
from rag_ft.schema import Chunk, Document, Prediction, QAPair
from rag_ft.text import normalise

# Why an answer was scored as it was; the page turns the code into words.
EXACT, HOLDS, PARTIAL, WRONG, RIGHT_ABSTENTION, BLIND_ABSTENTION, NEEDLESS_ABSTENTION, INVENTED = (
    range(8)
)
# The gold chunk is not known, so nobody knows whether it was in the context.
UNJUDGED_ABSTENTION = 8
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
    numbers]}; `scores` are the labels of these two; `unlocated` are the numbers of the systems that
    are not asked a question without a known gold chunk.
    """
    rows = {pair.id: row for row, pair in enumerate(table.pairs)}
    numbers = _Numbers()
    questions = [_question(pair, gold.get(pair.id, set()), numbers) for pair in table.pairs]
    names = list(predictions)
    for number, name in enumerate(names):
        for prediction in predictions[name]:
            row = rows.get(prediction.question_id)
            if row is not None:
                questions[row]["a"][number] = _answer(table, row, prediction, gold, numbers)
    shown = [_chunk(chunks, chunk_id, numbers) for chunk_id in numbers.chunks]
    return {
        "systems": names,
        "scores": [LABELS[metric] for metric in SHOWN_SCORES],
        "unlocated": [number for number, name in enumerate(names) if name in UNLOCATED],
        "documents": [_title(documents, name) for name in numbers.documents],
        "chunks": shown,
        "questions": questions,
    }


def script_json(data: Any) -> str:
    """JSON that is safe inside a <script> element: nothing in it can end the element or open a
    comment."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


class _Numbers:
    """Ids -> small numbers, in order of first use."""

    def __init__(self) -> None:
        self.chunks: dict[str, int] = {}
        self.documents: dict[str, int] = {}

    def chunk(self, chunk_id: str) -> int:
        return self.chunks.setdefault(chunk_id, len(self.chunks))

    def document(self, document_id: str) -> int:
        return self.documents.setdefault(document_id, len(self.documents))


def _question(pair: QAPair, gold: set[str], numbers: _Numbers) -> dict[str, Any]:
    return {
        "id": pair.id,
        "q": pair.question,
        "kind": pair.kind,
        "origin": pair.origin,
        "doc": numbers.document(pair.document_id) if pair.document_id else None,
        "answers": list(pair.answers) if pair.answerable else [],
        "gold": sorted(numbers.chunk(chunk_id) for chunk_id in gold),
        "ev": [pair.evidence.start, pair.evidence.end] if pair.evidence else None,
        "a": {},
    }


def _answer(
    table: ScoreTable,
    row: int,
    prediction: Prediction,
    gold: Mapping[str, set[str]],
    numbers: _Numbers,
) -> list[Any]:
    pair, system = table.pairs[row], prediction.system
    scores = {metric: _score(table, system, metric, row) for metric in REASON_METRICS}
    known = gold.get(pair.id, set())
    seen = bool(known & set(prediction.chunk_ids)) if known or not prediction.chunk_ids else None
    why = reason(scores, pair.answerable and not system.startswith("withheld"), seen)
    shown = [numbers.chunk(i) for i in prediction.chunk_ids]
    cited = [numbers.chunk(i) for i in prediction.citations]
    exact, overlap = (scores[metric] for metric in SHOWN_SCORES)
    return [prediction.answer, int(exact), round(overlap, 3), why, shown, cited]


def reason(scores: Mapping[str, float], answerable: bool, seen: bool | None) -> int:
    """Why an answer has its score, as one of the codes above; `seen`: whether a gold chunk was in
    the context, None where no gold chunk is known."""
    if scores["abstained"] and answerable:
        return (
            UNJUDGED_ABSTENTION
            if seen is None
            else NEEDLESS_ABSTENTION
            if seen
            else BLIND_ABSTENTION
        )
    if scores["abstained"]:
        return RIGHT_ABSTENTION
    if not answerable:
        return INVENTED
    if scores[EXACT_MATCH]:
        return EXACT
    if scores["contains"]:
        return HOLDS
    return PARTIAL if scores[DECIDING_ANSWER] else WRONG


def _score(table: ScoreTable, system: str, metric: str, row: int) -> float:
    values = table.values.get((system, metric))
    return 0.0 if values is None or np.isnan(values[row]) else float(values[row])


def _title(documents: Mapping[str, Document], name: str) -> str:
    title = documents[name].title if name in documents else ""
    return f"{title} ({name})" if title and normalise(title) != normalise(name) else name


def _chunk(chunks: Mapping[str, Chunk], chunk_id: str, numbers: _Numbers) -> dict[str, Any]:
    chunk = chunks.get(chunk_id)
    if chunk is None:
        return {"id": chunk_id, "t": "", "s": 0, "doc": None, "title": ""}
    document = numbers.document(chunk.document_id)
    return {
        "id": chunk_id,
        "t": chunk.text,
        "s": chunk.start,
        "doc": document,
        "title": chunk.title,
    }
