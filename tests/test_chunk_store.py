"""Chunks are read by id, document and split without parsing the others."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rag_ft import chunk_store, line_index
from rag_ft.chunk_store import ChunkStore
from rag_ft.errors import DataError
from rag_ft.schema import Chunk, Split
from rag_ft.storage import write_jsonl

ODD = 'says "split": "test"}\n, "split": "test", \\" and ends'


def chunk(document_id: str, number: int, split: Split = "train", text: str = "text") -> Chunk:
    return Chunk(f"{document_id}#{number}", document_id, "title", text, 0, len(text), 1, split)


CHUNKS = [
    chunk("a", 0),
    chunk("a", 1, text=ODD),
    chunk('b "ü\n', 0, "test"),
    chunk("c", 0, "dev"),
    chunk("a", 2),
]


@pytest.fixture
def store(tmp_path: Path) -> ChunkStore:
    write_jsonl(tmp_path / "chunks.jsonl", CHUNKS)
    return ChunkStore(tmp_path / "chunks.jsonl")


def test_every_chunk_is_found_by_its_id(store: ChunkStore) -> None:
    assert [store[c.id] for c in reversed(CHUNKS)] == CHUNKS[::-1]
    assert list(store) == CHUNKS and len(store) == len(CHUNKS)
    assert "a#0" in store and "a#9" not in store
    with pytest.raises(KeyError):
        store["a#9"]


def test_selected_chunks_come_in_file_order_without_unknown_ones(store: ChunkStore) -> None:
    assert list(store.select(["c#0", "a#1", "none", "a#0", "a#1"]).values()) == [
        CHUNKS[0],
        CHUNKS[1],
        CHUNKS[3],
    ]


def test_chunks_of_documents_come_in_file_order(store: ChunkStore) -> None:
    assert store.of_documents(["c", "a", None, "none"]) == [
        CHUNKS[0],
        CHUNKS[1],
        CHUNKS[3],
        CHUNKS[4],
    ]
    assert store.count_by_document({"train", "dev"}) == {"a": 3, "c": 1}
    assert store.split_by_document() == {chunk.document_id: chunk.split for chunk in CHUNKS}


def test_the_split_is_that_of_the_record_whatever_a_text_says(store: ChunkStore) -> None:
    assert list(store.of_splits({"test"})) == [CHUNKS[2]]
    assert list(store.of_splits(("train", "dev"))) == [CHUNKS[0], CHUNKS[1], CHUNKS[3], CHUNKS[4]]


def test_only_what_is_asked_for_is_parsed(
    store: ChunkStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[str] = []

    def counted(line: str, kind: Any) -> Any:
        parsed.append(line)
        return real(line, kind)

    real = chunk_store.from_json
    monkeypatch.setattr(chunk_store, "from_json", counted)
    assert store["c#0"].split == "dev" and len(store) == 5
    list(store.of_splits({"test"}))
    assert len(parsed) == 2


def test_ids_of_equal_hash_are_told_apart(
    store: ChunkStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(line_index, "_hash", lambda _: 7)
    assert [store[c.id] for c in CHUNKS] == CHUNKS and "a#9" not in store


def test_a_missing_or_damaged_file_is_named_with_the_remedy(
    tmp_path: Path, store: ChunkStore
) -> None:
    with pytest.raises(DataError, match="run the stage that writes it first"):
        len(ChunkStore(tmp_path / "none.jsonl"))
    with store.path.open("a") as out:
        out.write('{"id": "d#0"}\n')
    with pytest.raises(DataError, match="line 6"):
        store["a#0"]


def test_a_closed_store_opens_again(store: ChunkStore) -> None:
    assert store["a#0"] == CHUNKS[0]
    store.close()
    assert store["a#0"] == CHUNKS[0]


def test_an_empty_file_holds_no_chunk(tmp_path: Path) -> None:
    (tmp_path / "chunks.jsonl").write_text("")
    store = ChunkStore(tmp_path / "chunks.jsonl")
    assert len(store) == 0 and "a#0" not in store and store.of_documents(["a"]) == []
