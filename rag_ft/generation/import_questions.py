"""Questions written by people, brought into a run: read, checked, and located in its documents."""

from __future__ import annotations

import dataclasses
import json
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import groupby
from pathlib import Path
from typing import Any

from rag_ft.errors import DataError
from rag_ft.relevance import Span, gold_chunks, locate, occurrences
from rag_ft.schema import KINDS, Chunk, Document, Evidence, QAPair, Reject, Split
from rag_ft.storage import content_hash, encodable

SPLITS = ("train", "dev", "test")
CONTEXT_CHARACTERS = 200
MAX_LINE_BYTES = 1_000_000
KEY_CHARACTERS = 8
_ALPHANUMERIC = re.compile(r"[^\W_]+")


@dataclass
class Row:
    """One valid line of a questions file; `starts` is parallel to `answers`, None where no position is known."""

    place: str
    id: str
    question: str
    answers: tuple[str, ...]
    starts: tuple[int | None, ...]
    document_id: str | None
    kind: str
    quote: str
    split: Split | None
    found: list[tuple[str, Split, Evidence | None]] = field(default_factory=list)

    @property
    def answerable(self) -> bool:
        return self.kind != "unanswerable"


@dataclass(frozen=True)
class Imported:
    """`pairs` in file order; a Reject for every other line."""

    pairs: list[QAPair]
    rejects: list[Reject]

    def counts(self) -> dict[str, int]:
        return {
            "imported": len(self.pairs),
            "imported_rejected": len(self.rejects),
            "imported_unlocated": sum(p.evidence is None and p.answerable for p in self.pairs),
            "imported_unanswerable": sum(not p.answerable for p in self.pairs),
        }


def import_questions(
    paths: Sequence[Path], documents: Iterable[Document], chunks: Iterable[Chunk], abstain: str
) -> Imported:
    """QAPairs of origin "imported" from jsonl files of {id, question, answers, document_id,
    answer_start_in_document, kind, evidence, split}; only question and answers must be there.

    A missing position is located in the document, a missing document by the one document that holds the evidence or
    an answer. A pair belongs to the split of its document; without a document to the split it names, else to test,
    where it is never trained on, though the document it is about may be. `documents` and `chunks` are gone through
    once, in the same order of documents.

    Raises:
        DataError: a file cannot be read.
    """
    rows, rejects = _read_files(paths)
    _place_in_documents(rows, documents)
    pairs: list[QAPair] = []
    for row in rows:
        if row.document_id is not None and not row.found:
            rejects.append(
                Reject(
                    row.place, "unknown document", f"no document '{row.document_id}' in this run"
                )
            )
        else:
            pairs.append(_pair(row, abstain))
    return Imported(_place_in_chunks(pairs, chunks), rejects)


def _read_files(paths: Sequence[Path]) -> tuple[list[Row], list[Reject]]:
    rows: dict[str, Row] = {}
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
    """("file:line number", line) of every line that is not empty."""
    try:
        with path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield f"{path.name}:{number}", line
    except OSError as error:
        raise DataError(
            f"cannot read the questions {path} of generate.questions: {error.strerror or error}"
        ) from error


def _parse(line: bytes, place: str) -> Row:
    """Raises ValueError("reason: detail") for whatever is wrong with the line."""
    row = _json_object(line)
    question, answers = row.get("question"), row.get("answers")
    if not isinstance(question, str) or not question.strip():
        raise ValueError("missing field: question must be a text")
    kind = row.get("kind") or ("unanswerable" if answers == [] else "factoid")
    if kind not in KINDS:
        raise ValueError(f"wrong field: kind must be one of {', '.join(KINDS)}, not {kind!r}"[:200])
    if row.get("split") not in (None, *SPLITS):
        raise ValueError(
            f"wrong field: split must be one of {', '.join(SPLITS)}, not {row['split']!r}"[:200]
        )
    for key in ("id", "document_id", "evidence"):
        if not isinstance(row.get(key), (str, int, type(None))):
            raise ValueError(f"wrong field: {key} must be a text")
    answers = () if kind == "unanswerable" else _answers(answers)
    document_id = row.get("document_id")
    return Row(
        place=place,
        id=str(row["id"])
        if row.get("id") is not None
        else content_hash("imported", question, answers, document_id),
        question=" ".join(question.split()),
        answers=answers,
        starts=_starts(row.get("answer_start_in_document"), len(answers)),
        document_id=None if document_id is None else str(document_id),
        kind=kind,
        quote=str(row.get("evidence") or ""),
        split=row.get("split"),
    )


def _json_object(line: bytes) -> dict[str, Any]:
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
    return row


def _answers(answers: Any) -> tuple[str, ...]:
    answers = [answers] if isinstance(answers, str) else answers
    if not isinstance(answers, list) or not answers:
        raise ValueError(
            "missing field: answers must be a list of texts, or empty where nothing answers the question"
        )
    if not all(isinstance(answer, str) and answer.strip() for answer in answers):
        raise ValueError("wrong field: every answer must be a text that is not empty")
    return tuple(answers)


def _starts(starts: Any, num_answers: int) -> tuple[int | None, ...]:
    starts = [starts] if isinstance(starts, int) else starts
    if starts is None or num_answers == 0:
        return (None,) * num_answers
    if not isinstance(starts, list) or len(starts) != num_answers:
        raise ValueError(
            "wrong field: answer_start_in_document must have one position for each answer"
        )
    if not all(s is None or (isinstance(s, int) and not isinstance(s, bool)) for s in starts):
        raise ValueError("wrong field: a position must be a whole number or null")
    return tuple(starts)


def _place_in_documents(rows: Sequence[Row], documents: Iterable[Document]) -> None:
    """Fills `found` of every row: its document, or for rows without one the first two that hold what it quotes."""
    known: dict[str, list[Row]] = defaultdict(list)
    floating = []
    for row in rows:
        if row.document_id is not None:
            known[row.document_id].append(row)
        elif row.answerable:
            floating.append(row)
    index = _WantedTexts(floating)
    for document in documents:
        for row in known.get(document.id, ()):
            row.found.append((document.id, document.split, _locate(row, document.text)))
        for row in index.candidates(document.text):
            if len(row.found) < 2 and (evidence := _quoted(row, document.text)) is not None:
                row.found.append((document.id, document.split, evidence))


class _WantedTexts:
    """Rows found by one rare word of what they want in a text, so that not every row is searched in every document.
    Each text that holds what a row wants has that word, or a longer one around it."""

    def __init__(self, rows: Iterable[Row]) -> None:
        wanted = [(row, _ALPHANUMERIC.findall(text)) for row in rows for text in _wanted(row)]
        num_rows = Counter(word for _, words in wanted for word in set(words))
        self._rows: dict[str, list[Row]] = defaultdict(list)
        for row, words in wanted:
            if words:  # what has no letter or digit is found nowhere
                rarest = min(words, key=lambda word: (num_rows[word], -len(word)))
                self._rows[rarest].append(row)
        self._beginning: dict[str, list[str]] = defaultdict(list)
        for word in self._rows:
            self._beginning[word[:KEY_CHARACTERS]].append(word)
        self._lengths = sorted({len(key) for key in self._beginning})
        self._within = lru_cache(maxsize=1 << 16)(self._find_within)

    def candidates(self, text: str) -> list[Row]:
        """The rows that may be found in a text, each once; all others are not."""
        words = set(_ALPHANUMERIC.findall(text)) if self._rows else ()
        wanted = {found for word in words for found in self._within(word)}
        return list({id(row): row for word in wanted for row in self._rows[word]}.values())

    def _find_within(self, word: str) -> tuple[str, ...]:
        """The rows' words that stand anywhere in a word of a text: what is wanted may begin or end inside one."""
        parts = {
            word[at : at + size] for size in self._lengths for at in range(len(word) - size + 1)
        }
        return tuple(
            found
            for part in parts & self._beginning.keys()
            for found in self._beginning[part]
            if found in word
        )


def _wanted(row: Row) -> Sequence[str]:
    return [row.quote] if row.quote else row.answers


def _quoted(row: Row, text: str) -> Evidence | None:
    """The span of a text that holds, word for word, the row's quote or else one of its answers."""
    for wanted in _wanted(row):
        if wanted in text and (found := occurrences(wanted, text)):
            return _evidence(_fitting(found, text, row.question), text)
    return None


def _locate(row: Row, text: str) -> Evidence | None:
    """The evidence of a row in its document: its quote, else its answer at the position given, else where it fits."""
    if not row.answerable:
        return None
    known = next((s for s in row.starts if s is not None), None)
    if row.quote and (span := locate(row.quote, text, None if known is None else (known, known))):
        return _evidence(span, text)
    for answer, start in zip(row.answers, row.starts, strict=True):
        if start is not None and start >= 0 and text[start : start + len(answer)] == answer:
            return _evidence((start, start + len(answer)), text)
    for answer, start in zip(row.answers, row.starts, strict=True):
        if start is not None and (span := locate(answer, text, (start, start))):
            return _evidence(span, text)
    for answer in row.answers:
        if found := occurrences(answer, text):
            return _evidence(_fitting(found, text, row.question), text)
    return None


def _fitting(found: list[Span], text: str, question: str) -> Span:
    """Of several occurrences the one whose surroundings share most words with the question; the first of equals."""
    wanted = set(re.findall(r"\w+", question.casefold()))

    def shared(span: Span) -> int:
        around = text[max(0, span[0] - CONTEXT_CHARACTERS) : span[1] + CONTEXT_CHARACTERS]
        return len(wanted.intersection(re.findall(r"\w+", around.casefold())))

    return max(found, key=shared) if len(found) > 1 else found[0]


def _evidence(span: Span, text: str) -> Evidence:
    return Evidence(text[span[0] : span[1]], *span)


def _pair(row: Row, abstain: str) -> QAPair:
    """The pair without its chunk. Rows that several documents could prove are left without a place."""
    document_id, split, evidence = (
        row.found[0] if len(row.found) == 1 else (None, row.split or "test", None)
    )
    return QAPair(
        id=row.id,
        question=row.question,
        answers=row.answers or (abstain,),
        chunk_id=None,
        document_id=document_id,
        evidence=evidence,
        kind=row.kind,  # type: ignore[arg-type]
        split=split,
        origin="imported",
        checks={"evidence": evidence is not None} if row.answerable else {},
        provenance={"file": row.place},
    )


def _place_in_chunks(pairs: list[QAPair], chunks: Iterable[Chunk]) -> list[QAPair]:
    """The pairs, each with the first chunk that holds its whole evidence (or overlaps it)."""
    waiting: dict[str, list[int]] = defaultdict(list)
    for place, pair in enumerate(pairs):
        if pair.evidence is not None and pair.document_id is not None:
            waiting[pair.document_id].append(place)
    placed = list(pairs)
    for document_id, group in groupby(chunks, key=lambda chunk: chunk.document_id):
        places = waiting.get(document_id, ())
        of_document = list(group) if places else []
        for place in places:
            gold = gold_chunks(pairs[place], of_document)
            chunk_id = gold[0].id if gold else None
            placed[place] = dataclasses.replace(pairs[place], chunk_id=chunk_id)
    return placed
