"""Files that are read as documents: written from bytes, and damaged at random."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from rag_ft.documents.blocks import join_blocks
from rag_ft.documents.formats.content import Content, UnreadableError
from rag_ft.documents.reading import ReadFile, ReadSettings, read_file

MEGABYTE = 2**20


def read_as(
    tmp_path: Path, name: str, raw: bytes, max_bytes: float = MEGABYTE, **settings: Any
) -> ReadFile:
    path = tmp_path / name
    path.write_bytes(raw)
    return read_file(path, ReadSettings(max_bytes, **settings))


def text_of(content: Content) -> str:
    """The text of a document that consists of what a reader returned."""
    return join_blocks(content.blocks)[0]


def check_that_damage_is_a_reject(tmp_path: Path, name: str, whole: bytes) -> None:
    """Cuts the file or changes some of its bytes, 60 times. Each copy must be read, or be rejected
    for a known reason."""
    chance = random.Random(2)
    for _ in range(60):
        raw = bytearray(
            whole[: chance.randrange(1, len(whole))] if chance.random() < 0.4 else whole
        )
        for _ in range(chance.randrange(1, 8)):
            raw[chance.randrange(len(raw))] = chance.randrange(256)
        try:
            read_as(tmp_path, name, bytes(raw))
        except UnreadableError as error:
            assert error.reason in {"corrupt", "empty", "encrypted", "too large", "not text"}
