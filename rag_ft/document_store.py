"""Random access to the documents of a run, by id."""

from __future__ import annotations

import functools
import json
import re
from pathlib import Path

from rag_ft.errors import DataError
from rag_ft.line_index import LineIndex
from rag_ft.schema import Document
from rag_ft.storage import from_json

_HEAD = re.compile(rb'\{"id": ("(?:[^"\\]|\\.)*"), ')


class DocumentStore:
    """Opening reads nothing; the first access of a new file reads it once and keeps the places of
    its lines beside it (see LineIndex). Only documents that are asked for are parsed. Threads may
    share a store.

    Raises:
        DataError: (on first access) the file is missing, or a line is not a document.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __contains__(self, document_id: str) -> bool:
        """Whether the run has a document of this id."""
        return self._find(document_id) is not None

    def __getitem__(self, document_id: str) -> Document:
        """Raises KeyError where the run has no such document."""
        found = self._find(document_id)
        if found is None:
            raise KeyError(document_id)
        return found

    def close(self) -> None:
        """Closes the file; the next access opens it again."""
        if "_lines" in self.__dict__:
            self._lines.close()
            del self._lines

    @functools.cached_property
    def _lines(self) -> LineIndex:
        def head_of(line: bytes) -> tuple[str, int] | None:
            head = _HEAD.match(line)
            return (json.loads(head[1]), 0) if head else None

        return LineIndex(self.path, "Document", head_of)

    def _find(self, document_id: str) -> Document | None:
        for line in self._lines.find(document_id):
            try:
                found = from_json(self._lines.read(line).decode("utf-8"), Document)
            except (ValueError, TypeError, KeyError) as error:
                raise DataError(f"{self.path}: {document_id} is not a Document: {error}") from error
            if found.id == document_id:
                return found
        return None
