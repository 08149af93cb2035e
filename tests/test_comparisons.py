"""What is compared: differences between systems whose components were really tuned."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import pytest

from rag_ft.evaluation.comparisons import make_table, summarise
from rag_ft.schema import QAPair, Score

BOTH = {"generator", "retriever"}


def compared(
    tuned: Collection[str], systems: Sequence[str]
) -> tuple[dict[str, dict], dict[tuple[str, str], dict]]:
    """(levels, the differences in F1 by their two systems) of systems that are right at random. A
    system whose component was not tuned has the scores of the base one, as in an evaluation."""
    needed = {
        "base": set(),
        "tuned_generator": {"generator"},
        "tuned_retriever": {"retriever"},
        "tuned": BOTH,
    }
    rng, pairs, scores = np.random.default_rng(3), [], []
    for number in range(60):
        key, right = f"q{number}", {}
        pairs.append(
            QAPair(key, key, ("x",), None, f"d{number // 3}", None, "factoid", "test", "imported")
        )
        for system in systems:
            cell = str(sorted(needed[system] & set(tuned))) if system in needed else system
            right[cell] = right.get(cell, float(rng.random() < 0.5))
            scores.append(Score(key, system, "f1", right[cell]))
    levels, rows = summarise(make_table(pairs, scores), tuned, 300, 0)
    return levels, {(row["a"], row["b"]): row for row in rows}


@pytest.mark.parametrize("component", ["generator", "retriever"])
def test_with_one_component_tuned_its_difference_is_tested_once(component: str) -> None:
    tuned, only = {component}, f"tuned_{component}"
    levels, rows = compared(tuned, ("base", "tuned_generator", "tuned_retriever", "tuned"))
    assert rows.keys() == {("base", only)}
    assert rows["base", only]["p_holm"] == rows["base", only]["p"]
    assert levels["tuned"] == levels[only]  # its row stays


def test_with_both_components_tuned_every_cell_is_compared() -> None:
    rows = compared(
        BOTH,
        ("base", "tuned_generator", "tuned_retriever", "tuned", "ensemble_base", "ensemble_tuned"),
    )[1]
    assert rows.keys() == {
        ("base", "tuned_generator"),
        ("base", "tuned_retriever"),
        ("base", "tuned"),
        ("tuned_retriever", "tuned"),
        ("tuned_generator", "tuned"),
        ("base", "ensemble_base"),
        ("tuned", "ensemble_tuned"),
    }


def test_with_nothing_tuned_only_untuned_systems_are_compared() -> None:
    assert compared(set(), ("base", "tuned", "ensemble_base", "ensemble_tuned"))[1].keys() == {
        ("base", "ensemble_base")
    }
