"""Generated pairs beside questions that people wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from test_generate import Foreteller, pairs_of, rejects_of, use
from test_generate import prepared as prepared

from rag_ft.config_loader import make_config
from rag_ft.errors import DataError
from rag_ft.session import Session
from rag_ft.stages import generate


def test_a_bad_file_of_questions_costs_no_request(
    prepared: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text("no json\n" * 3)
    config, run_dir = prepared(generate__questions=[bad])
    model = use(monkeypatch, Foreteller())
    with pytest.raises(DataError, match=r"only 0 of 3 lines of generate\.questions.*bad line"):
        generate.run(Session(config, run_dir))
    assert model.asked == []
    assert [reject.reason for reject in rejects_of(run_dir)] == ["bad line"] * 3


def test_what_a_person_asked_is_not_asked_again_as_if_nothing_answered_it(
    prepared: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    facts = "The captain of the Blue Ferry is Per Holm. The price of the Blue Ferry is 9 euros. "
    facts += "The colour of the Red Lamp is dark green."
    more = [{"id": "two", "title": "Two", "text": facts, "split": "train"}]
    questions = tmp_path / "questions.jsonl"
    row = {
        "id": "h1",
        "question": "What is the price of the red lamp?",
        "answers": ["7 euros"],
        "document_id": "two",
    }
    questions.write_text(json.dumps(row) + "\n")
    knobs = {
        "generate__kinds": {"factoid": 1},
        "generate__advanced__swaps_per_pair": 1,
        "generate__questions": [questions],
    }
    config, run_dir = prepared(more, **knobs)
    model = use(monkeypatch, Foreteller())
    counts = generate.run(Session(config, run_dir))
    swapped = {pair.question for pair in pairs_of(run_dir) if pair.kind == "unanswerable"}
    assert swapped == {
        "What is the captain of the Red Lamp?",
        "What is the colour of the Blue Ferry?",
    }
    assert counts["rejected_by_check"]["duplicate"] == 1
    assert [r.detail for r in rejects_of(run_dir) if r.reason == "duplicate"] == [
        "What is the price of the Red Lamp? | earlier: What is the price of the red lamp?"
    ]
    assert counts["asked"] == counts["accepted"] + sum(counts["rejected_by_check"].values())
    assert not any(
        "What is the price of the Red Lamp?" in r.messages[0]["content"] for r in model.asked
    )

    values = config.model_dump()
    values["generate"]["advanced"]["checks"] = ["evidence"]
    config = make_config(values)
    generate.run(Session(config, run_dir))
    assert "What is the price of the Red Lamp?" in {pair.question for pair in pairs_of(run_dir)}
