"""The encoder's opinion on question and evidence, and what the stage does with it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from foreteller import Foreteller, pairs_of, rejects_of, use
from foreteller import prepared as prepared

from rag_ft.errors import DataError
from rag_ft.generation.filters import Failure
from rag_ft.generation.second_opinion import near_evidence
from rag_ft.schema import Evidence, QAPair
from rag_ft.session import Session
from rag_ft.stages import generate


class Angles:
    """An encoder whose vectors have the angle (degrees) that stands at the end of a text."""

    def encode_queries(self, questions: Sequence[str]) -> np.ndarray:
        return self.encode_chunks(questions)

    def encode_chunks(self, texts: Sequence[str]) -> np.ndarray:
        angles = np.radians([float(text.split()[-1]) for text in texts])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def pair(question: str, evidence: str | None, **changed: Any) -> QAPair:
    span = None if evidence is None else Evidence(evidence, 0, len(evidence))
    made = QAPair(
        question, question, ("a",), "d#0", "d", span, "factoid", "train", "generated", {"x": 1}
    )
    return replace(made, **changed)


def test_a_pair_is_kept_with_its_cosine_or_rejected_with_it() -> None:
    pairs = [pair(f"q {angle}", "e 0") for angle in (0, 30, 60)]
    rejected: list[tuple[str, Failure]] = []
    angles = Angles()
    kept = near_evidence(
        pairs, angles, angles, 0.7, lambda pair, why: rejected.append((pair.id, why))
    )
    found = {pair.id: pair.checks for pair in kept}
    assert found == {
        "q 0": {"x": 1, "evidence_similarity": 1.0},
        "q 30": {"x": 1, "evidence_similarity": 0.866},
    }
    [(name, why)] = rejected
    assert (name, why.reason) == ("q 60", "evidence_similarity") and why.detail.startswith("0.50:")


def test_only_single_facts_with_evidence_are_judged_and_order_stays() -> None:
    far = pair("q 90", "e 0")
    others = [
        replace(far, id="1", kind="summary"),
        pair("2", None, kind="unanswerable"),
        pair("3 0", "e 0"),
    ]
    kept = list(near_evidence(others, Angles(), Angles(), 0.5, pytest.fail))
    assert [one.id for one in kept] == ["1", "2", "3 0"]
    assert "evidence_similarity" not in kept[0].checks | kept[1].checks


def test_the_stage_rejects_what_is_far_and_asks_the_model_nothing_about_it(
    prepared: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run_dir = prepared(
        generate__kinds={"factoid": 1},
        generate__pairs_per_chunk=5,
        generate__advanced__evidence_similarity=1.0,
    )
    model = use(monkeypatch, Foreteller())
    with pytest.raises(DataError, match="only 0 of"):
        generate.run(Session(config, run_dir))
    assert {reject.reason for reject in rejects_of(run_dir)} >= {"evidence_similarity"}
    assert all(asked.messages[0]["content"].startswith("Write") for asked in model.asked)

    config, run_dir = prepared(
        generate__kinds={"factoid": 1}, generate__advanced__evidence_similarity=1e-6
    )
    counts = generate.run(Session(config, run_dir))
    kept = [one for one in pairs_of(run_dir) if one.origin == "generated"]
    assert kept and all(0 < one.checks["evidence_similarity"] <= 1 for one in kept)
    assert counts["accepted"] == len(kept)
