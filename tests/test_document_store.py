"""Documents are found by id, and read only when they are asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from rag_ft.document_store import DocumentStore
from rag_ft.errors import DataError
from rag_ft.schema import Document
from rag_ft.storage import write_jsonl

DOCUMENTS = [
    Document(f'a "{n}"\n', f"title {n}", f"text – ü {n}", "source", "train", {"n": n})
    for n in range(5)
]


def test_documents_are_found_by_id(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "documents.jsonl", DOCUMENTS)
    store = DocumentStore(tmp_path / "documents.jsonl")
    assert [store[document.id] for document in reversed(DOCUMENTS)] == DOCUMENTS[::-1]
    assert DOCUMENTS[0].id in store and "none" not in store
    with pytest.raises(KeyError):
        store["none"]


def test_a_missing_or_damaged_file_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist"):
        DocumentStore(tmp_path / "documents.jsonl")["a"]
    (tmp_path / "documents.jsonl").write_text('{"id": "a"}\n')
    with pytest.raises(DataError, match="line 1 is not a Document"):
        DocumentStore(tmp_path / "documents.jsonl")["a"]
    (tmp_path / "documents.jsonl").write_text('{"id": "a", "x": 1}\n')
    with pytest.raises(DataError, match="is not a Document"):
        DocumentStore(tmp_path / "documents.jsonl")["a"]
