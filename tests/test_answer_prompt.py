"""A chunk as encoder and generator read it."""

from __future__ import annotations

from rag_ft.prompts.answer_prompt import chunk_text
from rag_ft.schema import Chunk


def chunks_of(texts: list[str], title: str = "") -> list[Chunk]:
    return [
        Chunk(f"d#{n}", "d", title, text, 0, len(text), len(text), "test")
        for n, text in enumerate(texts)
    ]


def test_the_title_stands_before_a_chunk_once() -> None:
    [chunk] = chunks_of(["The mill grinds."], title="Mill")
    assert chunk_text(chunk, True) == "Mill\nThe mill grinds."
    assert chunk_text(chunk, False) == "The mill grinds."
    [same] = chunks_of(["Mill\nIt grinds."], title="Mill")
    assert chunk_text(same, True) == "Mill\nIt grinds."
    [untitled] = chunks_of(["It grinds."])
    assert chunk_text(untitled, True) == "It grinds."
