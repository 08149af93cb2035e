"""The places of lines are kept beside their file, and made again when the file is another one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rag_ft.chunk_store import ChunkStore
from rag_ft.line_index import LineIndex, offsets_of
from rag_ft.schema import Chunk
from rag_ft.storage import write_jsonl


def chunk(name: str, number: int) -> Chunk:
    return Chunk(f"{name}#{number}", name, "title", "text", 0, 4, 1, "train")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "chunks.jsonl", [chunk(f"d{n}", m) for n in range(40) for m in (0, 1)])
    return tmp_path / "chunks.jsonl"


def never(_: bytes) -> tuple[str, int]:
    raise AssertionError("the file is read again")


def test_the_second_opening_reads_nothing(path: Path) -> None:
    assert ChunkStore(path)["d7#1"] == chunk("d7", 1)
    lines = LineIndex(path, "Chunk", never)
    assert len(lines) == 80 and [lines.read(n) for n in lines.find("d7#1")] == [lines.read(15)]
    store = ChunkStore(path)
    assert [c.id for c in store.of_documents(["d3"])] == ["d3#0", "d3#1"]


@pytest.mark.parametrize("damage", ["grown", "newer", "cut", "garbage", "empty"])
def test_a_table_that_does_not_belong_to_the_file_is_made_again(path: Path, damage: str) -> None:
    len(ChunkStore(path))
    table = offsets_of(path)
    if damage == "grown":
        write_jsonl(path, [chunk("e", 0), *ChunkStore(path)])
    elif damage == "newer":
        write_jsonl(path, [chunk("e0", 0), *list(ChunkStore(path))[1:]])
        later = table.stat().st_mtime_ns + 10**9
        os.utime(path, ns=(later, later))
    else:
        content = {"cut": table.read_bytes()[:-30], "garbage": b"x" * 99, "empty": b""}
        table.write_bytes(content[damage])
    store = ChunkStore(path)
    assert [store[c.id] for c in ChunkStore(path)] == list(ChunkStore(path))


def test_a_folder_that_cannot_be_written_to_is_read_all_the_same(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "replace", refuse)
    assert ChunkStore(path)["d7#1"] == chunk("d7", 1)
    assert not offsets_of(path).exists()
