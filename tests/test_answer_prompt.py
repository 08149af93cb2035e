"""A chunk as encoder and generator read it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rag_ft.chunk_store import ChunkStore
from rag_ft.prompts.answer_prompt import AnswerPrompt, chunk_text
from rag_ft.prompts.prompt_set import load_prompts
from rag_ft.schema import Chunk
from rag_ft.storage import write_jsonl

ABSTAIN = "I don't know."


def chunks_of(texts: list[str], title: str = "") -> list[Chunk]:
    return [
        Chunk(f"d#{n}", "d", title, text, 0, len(text), len(text), "test")
        for n, text in enumerate(texts)
    ]


def test_the_title_stands_before_a_chunk_once() -> None:
    [chunk] = chunks_of(["The mill grinds."], title="Mill")
    assert chunk_text(chunk, "title") == "Mill\nThe mill grinds."
    assert chunk_text(chunk, "none") == "The mill grinds."
    [same] = chunks_of(["Mill\nIt grinds."], title="Mill")
    assert chunk_text(same, "title") == "Mill\nIt grinds."
    [untitled] = chunks_of(["It grinds."])
    assert chunk_text(untitled, "title") == "It grinds."


def test_headings_stand_before_a_chunk_unless_it_begins_with_them() -> None:
    [chunk] = chunks_of(["Summer\nIt opens at nine."], title="Mill")
    chunk = replace(chunk, headings=("Mill", "Opening hours", "Summer"))
    assert chunk_text(chunk, "headings") == "Mill\nOpening hours\nSummer\nIt opens at nine."
    later = replace(chunk, text="It closes at six.")
    expected = "Mill\nOpening hours\nSummer\nIt closes at six."
    assert chunk_text(later, "headings") == expected
    assert chunk_text(later, "title") == "Mill\nIt closes at six."
    marked = replace(chunk, text="## Summer\nIt opens.", title="")
    assert chunk_text(marked, "headings") == "Mill\nOpening hours\n## Summer\nIt opens."


def test_neighbours_are_shown_as_one_part_of_the_document(tmp_path: Path) -> None:
    text = "One two three. Four five six.  Seven eight nine. Ten."
    spans = [(0, 29), (15, 29), (31, 48), (49, 53)]
    chunks = [
        Chunk(f"d#{n}", "d", "Title", text[start:end], start, end, 3, "train")
        for n, (start, end) in enumerate(spans)
    ]
    other = Chunk("e#0", "e", "", "Elsewhere.", 0, 10, 2, "train")
    write_jsonl(tmp_path / "chunks.jsonl", [*chunks, other])
    store = ChunkStore(tmp_path / "chunks.jsonl")
    prompt = AnswerPrompt(load_prompts("full", ABSTAIN), "none", store)
    shown = prompt.shown(chunks[1])
    # They overlap, and leave out white space; positions in the document stay right.
    assert (shown.id, shown.start, shown.end) == ("d#1", 0, 48)
    assert shown.text == text[0:48]
    assert prompt.shown(shown) == shown
    assert prompt.shown(chunks[3]).text == text[31:53]
    assert prompt.text(other) == "Elsewhere."
    assert "Seven eight nine." in prompt.messages("Who?", [chunks[1]])[-1]["content"]
    alone = AnswerPrompt(load_prompts("full", ABSTAIN), "none")
    assert alone.shown(chunks[1]) == chunks[1]


def test_an_answer_without_marks_cites_the_chunk_that_contains_it() -> None:
    prompt = AnswerPrompt(load_prompts("full", "I don't know."), "none")
    chunks = [
        Chunk("a#0", "a", "", "The tower is old.", 0, 17, 4, "test"),
        Chunk("b#0", "b", "", "The dye is violet.", 0, 18, 4, "test"),
    ]
    said = prompt.parse("violet", chunks)
    assert (said.answer, said.citations, said.inferred) == ("violet", ("b#0",), True)
    said = prompt.parse("violet [1, 2]", chunks)
    assert (said.answer, said.citations, said.inferred) == ("violet", ("a#0", "b#0"), False)
    for reply in ("I don't know.", "green", ""):
        said = prompt.parse(reply, chunks)
        assert said.citations == () and not said.inferred
