"""Which documents ingest has met: their ids and texts, in a database of SQLite on disk."""

from __future__ import annotations

import sqlite3

CACHE_KB = 4096


class KnownDocuments:
    """{id: where it comes from} and {text: number of the document}; memory does not grow with it.
    The file is a temporary one of the system's, and gone at the end."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.execute("PRAGMA journal_mode = OFF")
        self._database.execute(f"PRAGMA cache_size = -{CACHE_KB}")
        self._database.execute("CREATE TABLE ids (id BLOB PRIMARY KEY, place BLOB) WITHOUT ROWID")
        self._database.execute(
            "CREATE TABLE texts (text BLOB PRIMARY KEY, number INTEGER) WITHOUT ROWID"
        )
        self._database.execute("BEGIN")

    def __contains__(self, document_id: object) -> bool:
        """Whether the id is taken."""
        return self.place_of(str(document_id)) is not None

    def place_of(self, document_id: str) -> str | None:
        """Where the document of this id comes from."""
        found = self._database.execute("SELECT place FROM ids WHERE id = ?", (_raw(document_id),))
        row = found.fetchone()
        return row and bytes(row[0]).decode("utf-8", "surrogatepass")

    def number_of(self, digest: bytes) -> int | None:
        """The number of the document whose text has this digest."""
        found = self._database.execute("SELECT number FROM texts WHERE text = ?", (digest,))
        row = found.fetchone()
        return row and int(row[0])

    def add(self, document_id: str, place: str, digest: bytes, number: int) -> None:
        """Takes a document whose id and text are new."""
        self._database.execute("INSERT INTO ids VALUES (?, ?)", (_raw(document_id), _raw(place)))
        self._database.execute("INSERT INTO texts VALUES (?, ?)", (digest, number))


def _raw(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")
