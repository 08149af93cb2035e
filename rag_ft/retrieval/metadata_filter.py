"""Filters: which documents a question may be answered from, by id, source and metadata.

    {"customer": "acme", "year": [2023, 2024], "id": "manuals/*"}

Every field must match. A list matches where one of its values does, and a value that ends in `*`
matches what begins with the text before the star. Values are compared as texts: 2024 and "2024" are
equal, and so are true and "true"; upper and lower case differ.
"""

from __future__ import annotations

import functools
from array import array
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rag_ft.chunk_store import ChunkStore
from rag_ft.errors import DataError
from rag_ft.schema import Document
from rag_ft.storage import read_jsonl

# {field: value, list of values, or "prefix*"}; an empty one allows every document.
Filters = Mapping[str, Any]
# The fields of every document; metadata of the same name are not looked at.
OWN_FIELDS = ("id", "document_id", "source")
PREFIX = "*"
# Filters whose chunks are remembered: a byte a chunk each.
MAX_REMEMBERED = 32


class Condition(NamedTuple):
    """The field's text must be one of `texts` or begin with one of `prefixes`."""

    field: str
    texts: frozenset[str]
    prefixes: tuple[str, ...]


@dataclass(frozen=True)
class Filter:
    """Parsed filters. Those with the same meaning are equal, so that they can be keys."""

    conditions: tuple[Condition, ...]

    def matches(self, document: Document) -> bool:
        """Whether every condition holds. A field that the document lacks matches nothing."""
        fields = list(fields_of(document))
        return all(
            any(f == c.field and (t in c.texts or t.startswith(c.prefixes)) for f, t in fields)
            for c in self.conditions
        )


def parse_filters(filters: Any) -> Filter | None:
    """The filter in a JSON value; None where it is null or empty and allows everything.

    Raises:
        DataError: it is no object, or a value is no text, number, boolean, or list of these.
    """
    if filters is None:
        return None
    if not isinstance(filters, Mapping):
        raise DataError('filters must be an object such as {"customer": "acme"}')
    conditions = []
    for field, value in filters.items():
        if not isinstance(field, str) or not field:
            raise DataError("filters: the name of a field must be a text that is not empty")
        listed = value if isinstance(value, list | tuple) else [value]
        texts = [text for item in listed if (text := as_text(item)) is not None]
        # An empty list is more likely a mistake than a wish to find nothing.
        if not texts or len(texts) < len(listed):
            raise DataError(
                f"filters: {field[:80]!r} must have a text, a number, true, false, or a list of at "
                "least one of these"
            )
        exact = frozenset(text for text in texts if not text.endswith(PREFIX))
        prefixes = sorted({text[:-1] for text in texts if text.endswith(PREFIX)})
        conditions.append(Condition(field, exact, tuple(prefixes)))
    return Filter(tuple(sorted(conditions, key=lambda c: c.field))) if conditions else None


def group_by_filter(filters: Sequence[Filters]) -> dict[Filter | None, list[int]]:
    """{filter: the places that have it}, both in order. Raises DataError as `parse_filters`."""
    groups: dict[Filter | None, list[int]] = defaultdict(list)
    for place, one in enumerate(filters):
        groups[parse_filters(one)].append(place)
    return groups


def as_text(value: Any) -> str | None:
    """A value as filters compare it; None for null, lists and objects. A whole number has no
    fraction: 2.0 is "2"."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return str(value) if isinstance(value, str | int | float) else None


def fields_of(document: Document) -> Iterator[tuple[str, str]]:
    """(field, text) of all that filters can compare: the document's own fields, then its metadata;
    of a list each item."""
    yield from zip(OWN_FIELDS, (document.id, document.id, document.source), strict=True)
    for field, value in document.metadata.items():
        for item in value if isinstance(value, list | tuple) else [value]:
            if field not in OWN_FIELDS and (text := as_text(item)) is not None:
                yield field, text


class DocumentTable:
    """The fields of a run's documents, and which chunks belong to which document.

    Opening reads nothing. The first filter reads the documents once and keeps their fields, not
    their texts. Threads may share a table.
    """

    def __init__(self, documents: Path, chunks: Path) -> None:
        """The files documents.jsonl and chunks.jsonl of a run."""
        self._documents, self._chunks = documents, chunks
        self.allowed = functools.lru_cache(maxsize=MAX_REMEMBERED)(self._find_allowed)

    def _find_allowed(self, wanted: Filter) -> np.ndarray:
        """Read-only booleans, one for each chunk in file order: whether `wanted` allows it.

        Raises:
            DataError: (first call) one of the files is missing or damaged.
        """
        numbers_of, document_of_row, num_documents = self._read
        accepted = np.ones(num_documents + 1, dtype=bool)
        for condition in wanted.conditions:
            matched = np.zeros(num_documents + 1, dtype=bool)
            numbers_by_text = numbers_of.get(condition.field, {})
            for text in condition.texts & numbers_by_text.keys():
                matched[numbers_by_text[text]] = True
            for text in numbers_by_text if condition.prefixes else ():
                if text.startswith(condition.prefixes):
                    matched[numbers_by_text[text]] = True
            accepted &= matched
        allowed: np.ndarray = accepted[document_of_row]
        allowed.flags.writeable = False
        return allowed

    @functools.cached_property
    def _read(self) -> tuple[dict[str, dict[str, array[int]]], np.ndarray, int]:
        """({field: {text: numbers of documents}}, the document of each chunk, documents). A chunk
        without a document has the number after the last, which no filter matches."""
        numbers_of: dict[str, dict[str, array[int]]] = defaultdict(dict)
        number_of: dict[str, int] = {}
        for number, document in enumerate(read_jsonl(self._documents, Document)):
            number_of[document.id] = number
            for field, text in fields_of(document):
                numbers_of[field].setdefault(text, array("I")).append(number)
        store = ChunkStore(self._chunks)
        document_of_row = np.full(len(store), len(number_of), dtype=np.uint32)
        for document_id, rows in store.rows_by_document.items():
            document_of_row[rows] = number_of.get(document_id, len(number_of))
        store.close()
        return numbers_of, document_of_row, len(number_of)
