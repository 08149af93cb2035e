"""What templates and terminal tables are rendered with."""

from __future__ import annotations

from rag_ft.report.rendering import facts


def test_counts_of_a_stage_are_shown_in_words() -> None:
    counts = {
        "num_dropped_test_questions": 0,
        "num_tokens": 1204725,
        "shipped": 1,
        "overfitted": 0,
        "dev_recall_base": 0.987,
        "reason": "",
        "by_kind": {"factoid": 3},
    }
    assert facts(counts) == [
        ("test questions left out", "0"),
        ("tokens", "1,204,725"),
        ("shipped", "yes"),
        ("overfitted", "no"),
        ("dev recall base", "0.987"),
    ]
