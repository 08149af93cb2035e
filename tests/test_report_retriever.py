"""report/retriever: what tuning did to the ranking."""

from __future__ import annotations

from rag_ft.config import Config
from rag_ft.report.retriever import moved
from rag_ft.run_dir import RunDir
from rag_ft.schema import Chunk, Hit, QAPair


def test_the_questions_whose_gold_chunk_moved_most_are_shown_with_their_ranks() -> None:
    pairs = [
        QAPair(f"q{n}", f"Who {n}?", ("x",), f"g{n}", "d", None, "factoid", "test", "imported")
        for n in range(4)
    ]
    gold = {pair.id: {f"g{n}"} for n, pair in enumerate(pairs)}
    chunks = {f"g{n}": Chunk(f"g{n}", "d", "", f"Proof {n}.", 0, 8, 2, "test") for n in range(4)}
    base = [
        Hit("q0", 7, "g0", 0.5),
        Hit("q1", 1, "g1", 0.9),
        Hit("q2", 3, "g2", 0.7),
        Hit("q1", 9, "other", 0.1),
    ]
    tuned = [
        Hit("q0", 1, "g0", 0.5),
        Hit("q1", 4, "g1", 0.9),
        Hit("q2", 3, "g2", 0.7),
        Hit("q3", 2, "g3", 0.8),
    ]
    found = moved(pairs, {"base": base, "tuned": tuned}, gold, chunks)
    assert [(r["id"], r["before"], r["after"]) for r in found["up"]["rows"]] == [
        ("q0", 7, 1),
        ("q3", None, 2),
    ]
    assert [(r["id"], r["before"], r["after"], r["text"]) for r in found["down"]["rows"]] == [
        ("q1", 1, 4, "Proof 1.")
    ]


def test_the_page_tells_what_the_retriever_learned_from(reported: tuple[Config, RunDir]) -> None:
    text = reported[1].report_html.read_text()
    assert "targets of median entropy 0.45" in text and "for 70.0 % of the questions" in text
    assert "round-0-lsr: loss" in text
    assert "left out: the scores tell no chunks apart" in text
    assert text.count("gold chunk</th>") == 2
