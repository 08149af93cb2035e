"""The gate: nothing is served that finds less on dev documents than the base."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest

from rag_ft.schema import QAPair
from rag_ft.training.retriever.ship_gate import DevScores, describe_change, measure, select_encoder

PAIRS = [
    QAPair(
        f"q{n}",
        f"question {n}",
        ("a",),
        f"d{n // 2}#0",
        f"d{n // 2}",
        None,
        "factoid",
        "dev",
        "imported",
    )
    for n in range(6)
]


def scores(served: Sequence[float], mrr: float = 0.5) -> DevScores:
    values = np.array(served, dtype=float)
    return DevScores(values, values, np.full(len(values), mrr))


BASE = scores([1, 1, 1, 0, 0, 0])


def test_a_better_encoder_is_shipped_whole_with_the_interval_in_the_reason() -> None:
    selection = select_encoder(BASE, [(1.0, scores([1, 1, 1, 1, 1, 0]))], PAIRS)
    assert (selection.interpolation, selection.shipped) == (1.0, True)
    assert "+33.3 points [" in selection.reason
    assert "6 questions" in selection.reason


def test_a_worse_encoder_is_not_shipped_and_the_reason_says_how_much_worse() -> None:
    worse = scores([1, 0, 0, 0, 0, 0])
    selection = select_encoder(
        BASE, [(interpolation, worse) for interpolation in (1.0, 0.75, 0.5, 0.25)], PAIRS
    )
    assert (selection.interpolation, selection.shipped) == (0.0, False)
    assert selection.scores is BASE
    assert "the base stays" in selection.reason
    assert "-33.3 points" in selection.reason


def test_part_of_the_tuning_is_shipped_where_all_of_it_is_too_much() -> None:
    drawn: list[float] = []

    def candidates() -> Iterator[tuple[float, DevScores]]:
        for interpolation, found in (
            (1.0, [0] * 6),
            (0.75, [1, 0, 0, 0, 0, 0]),
            (0.5, [1, 1, 1, 1, 0, 0]),
            (0.25, [1] * 6),
        ):
            drawn.append(interpolation)
            yield interpolation, scores(found)

    selection = select_encoder(BASE, candidates(), PAIRS)
    assert selection.interpolation == 0.5
    assert "all of the tuning was worse" in selection.reason
    assert drawn == [1.0, 0.75, 0.5], "a share that is not needed is not built"


def test_equal_recall_is_enough_unless_it_ranks_lower() -> None:
    assert scores([1, 1, 1, 0, 0, 0], mrr=0.5).not_below(BASE)
    assert not scores([1, 1, 1, 0, 0, 0], mrr=0.4).not_below(BASE)
    assert not BASE.above(BASE)
    assert scores([1, 1, 1, 1, 0, 0], mrr=0.1).above(BASE)


def test_without_dev_questions_nothing_is_shipped() -> None:
    empty = scores([])
    selection = select_encoder(empty, [(1.0, empty)], [])
    assert (selection.shipped, selection.reason) == (False, "no dev questions to judge by")
    assert describe_change(empty, empty, []) == "no dev questions to measure by"
    assert set(empty.summary.values()) == {0.0}


class Retriever:
    """Serves the gold chunk first for even questions; the dense side finds it at rank 6."""

    def search(
        self, questions: Sequence[str], k: int, mode: str | None = None, filters: Any = None
    ) -> list[list[tuple[str, float]]]:
        others = [(f"other{n}", 0.5) for n in range(5)]
        rankings = []
        for question in questions:
            gold = (f"d{int(question.split()[1]) // 2}#0", 1.0)
            even = int(question.split()[1]) % 2 == 0
            rankings.append([*others, gold] if mode == "dense" or not even else [gold, *others])
        return rankings


def test_recall_is_of_what_is_served_with_the_dense_side_beside_it() -> None:
    found = measure(Retriever(), PAIRS, {pair.id: {pair.chunk_id or ""} for pair in PAIRS})
    assert found.served.tolist() == [1, 0, 1, 0, 1, 0]
    assert found.dense.tolist() == [0] * 6
    assert found.served_mrr.tolist() == pytest.approx([1, 1 / 6] * 3)
    assert found.summary == {
        "dev_served_recall": 0.5,
        "dev_dense_recall": 0.0,
        "dev_served_mrr": 0.5833,
    }
