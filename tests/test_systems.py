"""What each system is shown for a question."""

from __future__ import annotations

import dataclasses

from test_evaluate import TEXTS, question

from rag_ft.evaluation.systems import NAMES, SERVED, SYSTEMS, ask_of, asks_of
from rag_ft.relevance import oracle_context
from rag_ft.schema import Chunk, QAPair


def test_evidence_over_two_chunks_shows_the_oracle_both() -> None:
    pair = question("mill", "Who?", "Ruth Falk")
    start, end = pair.evidence.start, pair.evidence.end
    middle = (start + end) // 2
    chunks = {
        "mill#0": Chunk("mill#0", "mill", "Mill", "", 0, middle, 5, "test"),
        "mill#1": Chunk("mill#1", "mill", "Mill", "", middle, 200, 5, "test"),
    }
    oracle = next(system for system in SYSTEMS if system.name == "oracle_base")
    ask = ask_of(oracle, pair, {"base": [], "tuned": []}, set(chunks), chunks, top_k=3)
    assert ask.chunk_ids == ("mill#0", "mill#1")


def test_a_question_over_two_chunks_shows_the_oracle_the_second_too() -> None:
    pair = dataclasses.replace(
        question("mill", "Who?", "Ruth Falk"), provenance={"second_chunk_id": "pier#0"}
    )
    chunks = {f"{n}#0": Chunk(f"{n}#0", n, n, t, 0, len(t), 5, "test") for n, t in TEXTS.items()}
    assert oracle_context(pair, {"mill#0"}, chunks) == ["mill#0", "pier#0"]


def test_an_unknown_gold_chunk_is_neither_shown_nor_withheld() -> None:
    chunks = {f"{n}#0": Chunk(f"{n}#0", n, n, t, 0, len(t), 5, "test") for n, t in TEXTS.items()}
    hits = {name: list(chunks) for name in SERVED}
    nowhere = QAPair("q", "Who?", ("Ruth Falk",), None, None, None, "factoid", "test", "imported")
    asked = [ask.system for ask in asks_of(nowhere, hits, set(), chunks, top_k=2)]
    assert asked == [name for name in NAMES if not name.startswith(("oracle", "withheld"))]
    for pair, gold in (
        (question("mill", "Who?", "Ruth Falk"), {"mill#0"}),
        (question("mill", "Why?", None), set()),
    ):
        assert [ask.system for ask in asks_of(pair, hits, gold, chunks, top_k=2)] == list(NAMES)
