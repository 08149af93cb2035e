"""Random access to the documents of a run, by id."""

from __future__ import annotations

import functools
import json
import os
import re
from pathlib import Path
from typing import BinaryIO

from rag_ft.errors import DataError
from rag_ft.schema import Document
from rag_ft.storage import from_json

_HEAD = re.compile(rb'\{"id": ("(?:[^"\\]|\\.)*"), ')


class DocumentStore:
    """Opening reads nothing; the first access scans the file once for ids. Only documents that are
    asked for are parsed. Threads may share a store.

    Raises:
        DataError: (on first access) the file is missing, or a line is not a document.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def __contains__(self, document_id: str) -> bool:
        """Whether the run has a document of this id."""
        return document_id in self._places

    def __getitem__(self, document_id: str) -> Document:
        """Raises KeyError where the run has no such document."""
        start, length = self._places[document_id]
        line = os.pread(self._file.fileno(), length, start)
        try:
            return from_json(line.decode("utf-8"), Document)
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(f"{self.path}: {document_id} is not a Document: {error}") from error

    def close(self) -> None:
        """Closes the file; the next access opens it again."""
        if "_file" in self.__dict__:
            self._file.close()
            del self._file
        self.__dict__.pop("_places", None)

    @functools.cached_property
    def _file(self) -> BinaryIO:
        try:
            return self.path.open("rb")
        except FileNotFoundError as error:
            raise DataError(
                f"{self.path} does not exist: run the stage that writes it first"
            ) from error

    @functools.cached_property
    def _places(self) -> dict[str, tuple[int, int]]:
        """Document id -> where its line begins, and its length in bytes."""
        places: dict[str, tuple[int, int]] = {}
        at = 0
        for number, line in enumerate(self._file, 1):
            head = _HEAD.match(line)
            if head is None:
                raise DataError(
                    f"{self.path} line {number} is not a Document: run `rag-ft ingest CONFIG "
                    "--force`"
                )
            places[json.loads(head[1])] = (at, len(line))
            at += len(line)
        return places
