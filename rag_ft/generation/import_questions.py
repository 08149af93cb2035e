"""Imports questions that people wrote: reads them, checks them, and locates their evidence."""

from __future__ import annotations

import functools
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from pathlib import Path
from typing import Any

from rag_ft.errors import DataError
from rag_ft.generation.json_answers import answers_in_words
from rag_ft.generation.rare_words import RareWordIndex
from rag_ft.relevance import Span, gold_chunks, locate, occurrences
from rag_ft.retrieval.metadata_filter import Filter, parse_filters
from rag_ft.schema import KINDS, SPLITS, Chunk, Document, Evidence, QAPair, Reject, Split
from rag_ft.storage import content_hash, encodable
from rag_ft.text import composed

CONTEXT_CHARACTERS = 200
MAX_LINE_BYTES = 1_000_000


@dataclass(frozen=True)
class AcceptedAnswer:
    """`start` is the answer's position in the document, in characters; None if unknown."""

    text: str
    start: int | None = None


@dataclass
class QuestionRow:
    """One valid line of a questions file; `place` is "<file>:<line number>".

    `found` is (document id, split, evidence) of the row's document, or of the first two documents
    that contain a wanted text if the row names none; only of documents that the row's filters
    allow. `problem` says why the row cannot be placed, if anything.
    """

    place: str
    id: str
    question: str
    answers: tuple[AcceptedAnswer, ...]
    document_id: str | None
    kind: str
    quote: str
    split: Split | None
    filters: dict[str, Any] = field(default_factory=dict)
    problem: Reject | None = None
    found: list[tuple[str, Split, Evidence | None]] = field(default_factory=list)

    @property
    def answerable(self) -> bool:
        """Whether the question has an answer."""
        return self.kind != "unanswerable"

    @functools.cached_property
    def filter(self) -> Filter | None:
        """Which documents the question may be answered from; None: all."""
        return parse_filters(self.filters)

    def allows(self, document: Document) -> bool:
        """Whether the question may be answered from the document."""
        return self.filter is None or self.filter.matches(document)

    @property
    def wanted(self) -> list[str]:
        """The texts of which a document must contain one: the quote, else the answers."""
        return [self.quote] if self.quote else [answer.text for answer in self.answers]

    def find_wanted(self, text: str) -> Evidence | None:
        """Where a text contains a wanted text word for word; None if nowhere."""
        for wanted in self.wanted:
            if composed(wanted) in composed(text) and (found := occurrences(wanted, text)):
                return _best_fit(found, text, self.question)
        return None

    def find_in_document(self, text: str) -> Evidence | None:
        """The evidence in the text of the row's own document: the quote, else the answer at its
        given position, else an answer near its position, else an answer anywhere."""
        if not self.answerable:
            return None
        placed = [(a.text, a.start) for a in self.answers if a.start is not None]
        near = (placed[0][1], placed[0][1]) if placed else None
        if self.quote and (span := locate(self.quote, text, near)):
            return _evidence(span, text)
        for answer, start in placed:
            if start >= 0 and text.startswith(answer, start):
                return _evidence((start, start + len(answer)), text)
        for answer, start in placed:
            if nearest := locate(answer, text, (start, start)):
                return _evidence(nearest, text)
        for accepted in self.answers:
            if found := occurrences(accepted.text, text):
                return _best_fit(found, text, self.question)
        return None


@dataclass(frozen=True)
class Imported:
    """`pairs` in the order of the files; a Reject for every other line."""

    pairs: list[QAPair]
    rejects: list[Reject]

    def check_kept(self, least_share: float, paths: Sequence[Path], rejects: Path) -> None:
        """Raises DataError if no line of `paths` or less than `least_share` (0-1) of them could be
        imported. `rejects` is the file that lists the others."""
        total = len(self.pairs) + len(self.rejects)
        if paths and not total:
            raise DataError(
                f"{paths[0]} contains no question: write one JSON object per line, or remove the "
                "file from generate.questions"
            )
        if total and len(self.pairs) < max(1, least_share * total):
            reasons = Counter(reject.reason for reject in self.rejects)
            reason, count = reasons.most_common(1)[0]
            raise DataError(
                f"only {len(self.pairs)} of {total} lines of generate.questions could be imported; "
                f"most failed by '{reason}' ({count}): see {rejects} and correct the file"
            )

    def counts(self) -> dict[str, int]:
        """The counts of imported questions in generate.done.json."""
        return {
            "imported": len(self.pairs),
            "imported_rejected": len(self.rejects),
            "imported_unlocated": sum(p.evidence is None and p.answerable for p in self.pairs),
            "imported_unanswerable": sum(not p.answerable for p in self.pairs),
        }


def import_questions(
    paths: Sequence[Path], documents: Iterable[Document], chunks: Iterable[Chunk], abstain: str
) -> Imported:
    """Reads pairs of origin "imported" from jsonl files.

    A line is {id, question, answers, document_id, answer_start_in_document, kind, evidence, split,
    filters}; only question and answers are required. A missing position is located in the document.
    A missing document is the only one that contains the evidence or an answer. Documents that the
    filters exclude are not looked at.

    A pair belongs to the split of its document. Without a document it belongs to the split that it
    names, else to test: it is never trained on, although its unknown document may be.

    Args:
        paths: the files.
        documents: all documents of the run; read once.
        chunks: all chunks of the run, those of a document together; read once.
        abstain: the answer of unanswerable questions.

    Raises:
        DataError: a file cannot be read.
    """
    rows, rejects = read_question_files(paths)
    place_in_documents(rows, documents)
    pairs: dict[str, QAPair] = {}
    pairs_of: dict[str, list[QAPair]] = defaultdict(list)
    for row in rows:
        if row.problem:
            rejects.append(row.problem)
            continue
        # A row that several documents could answer stays without a document.
        nowhere = (None, row.split or "test", None)
        document_id, split, evidence = row.found[0] if len(row.found) == 1 else nowhere
        pair = QAPair(
            id=row.id,
            question=row.question,
            answers=tuple(answer.text for answer in row.answers) or (abstain,),
            chunk_id=None,
            document_id=document_id,
            evidence=evidence,
            kind=row.kind,  # type: ignore[arg-type]
            split=split,
            origin="imported",
            checks={"evidence": evidence is not None} if row.answerable else {},
            provenance={"file": row.place},
            filters=row.filters,
        )
        pairs[pair.id] = pair
        if document_id is not None and evidence is not None:
            pairs_of[document_id].append(pair)
    # The chunk of a pair is its first gold chunk.
    for document_id, group in groupby(chunks, key=lambda chunk: chunk.document_id):
        of_document = list(group) if document_id in pairs_of else []
        for pair in pairs_of.get(document_id, ()):
            gold = gold_chunks(pair, of_document)
            pairs[pair.id] = replace(pair, chunk_id=gold[0].id if gold else None)
    return Imported(list(pairs.values()), rejects)


def read_question_files(paths: Sequence[Path]) -> tuple[list[QuestionRow], list[Reject]]:
    """(valid rows, a Reject for every other line that is not empty). Raises DataError if a file
    cannot be read."""
    rows: dict[str, QuestionRow] = {}
    rejects: list[Reject] = []
    for path in paths:
        for place, line in _lines(path):
            try:
                row = _parse(line, place)
                if row.id in rows:
                    raise ValueError(f"duplicate id: '{row.id}' is taken by {rows[row.id].place}")
                rows[row.id] = row
            except ValueError as error:
                reason, _, detail = str(error).partition(": ")
                rejects.append(Reject(place, reason, detail))
    return list(rows.values()), rejects


def _lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """("<file>:<line number>", line) of every line that is not empty."""
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield f"{path.name}:{number}", line
    except OSError as error:
        detail = error.strerror or error
        raise DataError(
            f"cannot read the questions {path} of generate.questions: {detail}"
        ) from error


def _parse(line: bytes, place: str) -> QuestionRow:
    """Raises ValueError("reason: detail") if the line is not valid."""
    if len(line) > MAX_LINE_BYTES:
        raise ValueError(f"bad line: longer than {MAX_LINE_BYTES} bytes")
    try:
        row = encodable(json.loads(line.decode("utf-8-sig")))
    except UnicodeDecodeError as error:
        raise ValueError("bad line: not UTF-8") from error
    except (ValueError, RecursionError) as error:
        raise ValueError(f"bad line: not JSON ({error})") from error
    if not isinstance(row, dict):
        raise ValueError("bad line: not a JSON object")
    question, answers = row.get("question"), row.get("answers")
    if not isinstance(question, str) or not question.strip():
        raise ValueError("missing field: question must be a text")
    kind = row.get("kind") or ("unanswerable" if answers == [] else "factoid")
    if kind not in KINDS:
        raise ValueError(f"wrong field: kind must be one of {', '.join(KINDS)}, not {kind!r}"[:200])
    split = row.get("split")
    if split not in (None, *SPLITS):
        known = ", ".join(SPLITS)
        raise ValueError(f"wrong field: split must be one of {known}, not {split!r}"[:200])
    for key in ("id", "document_id", "evidence"):
        if not isinstance(row.get(key), (str, int, type(None))):
            raise ValueError(f"wrong field: {key} must be a text")
    accepted: tuple[AcceptedAnswer, ...] = ()
    if kind != "unanswerable":
        answers = answers_in_words(answers, line, question)
        accepted = _parse_answers(answers, row.get("answer_start_in_document"))
    filters = row.get("filters") or {}
    try:
        parse_filters(filters)
    except DataError as error:
        raise ValueError(f"wrong field: {error}") from error
    row_id, document_id = row.get("id"), row.get("document_id")
    if row_id is None:
        texts = [answer.text for answer in accepted]
        # Two customers may ask the same; without filters the id stays what it always was.
        row_id = content_hash("imported", question, texts, document_id, *filter(None, [filters]))
    return QuestionRow(
        place=place,
        id=str(row_id),
        question=" ".join(question.split()),
        answers=accepted,
        document_id=None if document_id is None else str(document_id),
        kind=kind,
        quote=str(row.get("evidence") or ""),
        split=split,
        filters=filters,
    )


def _parse_answers(answers: Any, starts: Any) -> tuple[AcceptedAnswer, ...]:
    """Raises ValueError("reason: detail") if these are not answers with a position each."""
    answers = [answers] if isinstance(answers, str) else answers
    if not isinstance(answers, list) or not answers:
        raise ValueError(
            "missing field: answers must be a list of texts, or empty for an unanswerable question"
        )
    if not all(isinstance(answer, str) and answer.strip() for answer in answers):
        raise ValueError("wrong field: every answer must be a text that is not empty")
    # Positions are optional: all of them, or single ones by null.
    starts = [starts] if isinstance(starts, int) else starts
    if starts is None:
        starts = [None] * len(answers)
    if not isinstance(starts, list) or len(starts) != len(answers):
        raise ValueError(
            "wrong field: answer_start_in_document must have one position for each answer"
        )
    if not all(s is None or (isinstance(s, int) and not isinstance(s, bool)) for s in starts):
        raise ValueError("wrong field: a position must be a whole number or null")
    return tuple(map(AcceptedAnswer, answers, starts))


def place_in_documents(rows: Sequence[QuestionRow], documents: Iterable[Document]) -> None:
    """Fills `found` and `problem` of every row."""
    rows_of: dict[str, list[QuestionRow]] = defaultdict(list)
    floating = []  # rows without a document
    for row in rows:
        if row.document_id is not None:
            rows_of[row.document_id].append(row)
        elif row.answerable:
            floating.append(row)
    index = RareWordIndex(floating)
    unmatched = {row.filter for row in rows if row.filter is not None}
    for document in documents:
        unmatched -= {wanted for wanted in unmatched if wanted.matches(document)}
        for row in rows_of.get(document.id, ()):
            if row.allows(document):
                evidence = row.find_in_document(document.text)
                row.found.append((document.id, document.split, evidence))
            else:
                detail = f"{row.document_id}: {row.filters}"
                row.problem = Reject(row.place, "filters exclude its document", detail)
        # Two documents are enough to know that the document is ambiguous.
        for row in index.candidates(document.text):
            if len(row.found) < 2 and row.allows(document):
                evidence = row.find_wanted(document.text)
                if evidence is not None:
                    row.found.append((document.id, document.split, evidence))
    for row in rows:
        if row.filter in unmatched:
            row.problem = Reject(row.place, "filters match no document", str(row.filters))
        elif row.document_id is not None and not row.found and not row.problem:
            detail = f"no document '{row.document_id}' in this run"
            row.problem = Reject(row.place, "unknown document", detail)


def _best_fit(found: list[Span], text: str, question: str) -> Evidence:
    """The occurrence whose surroundings share most words with the question; the first of equals."""
    wanted = set(re.findall(r"\w+", question.casefold()))

    def num_shared(span: Span) -> int:
        around = text[max(0, span[0] - CONTEXT_CHARACTERS) : span[1] + CONTEXT_CHARACTERS]
        return len(wanted.intersection(re.findall(r"\w+", around.casefold())))

    return _evidence(max(found, key=num_shared) if len(found) > 1 else found[0], text)


def _evidence(span: Span, text: str) -> Evidence:
    return Evidence(text[span[0] : span[1]], *span)
