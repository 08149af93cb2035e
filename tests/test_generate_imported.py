"""Generated pairs beside questions that people wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from foreteller import Foreteller, pairs_of, rejects_of, use
from foreteller import prepared as prepared

from rag_ft.config_loader import make_config
from rag_ft.engine import language_model
from rag_ft.errors import DataError
from rag_ft.session import Session
from rag_ft.stages import generate


def test_imported_questions_alone_load_no_model(
    prepared: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = tmp_path / "questions.jsonl"
    row = {
        "id": "h1",
        "question": "Who is the captain of the Old Tower?",
        "answers": ["Ola Brand"],
        "document_id": "d1",
    }
    questions.write_text(json.dumps(row) + "\n" + '{"question": "Who?"}\n')
    config, run_dir = prepared(generate__pairs_per_chunk=0, generate__questions=[questions])
    monkeypatch.setattr(
        language_model, "open_language_model", lambda *_, **__: pytest.fail("a model was opened")
    )
    counts = generate.run(Session(config, run_dir))
    [pair] = pairs_of(run_dir)
    assert (pair.id, pair.origin, pair.split, pair.chunk_id) == ("h1", "imported", "train", "d1#0")
    assert (counts["imported"], counts["imported_rejected"], counts["asked"]) == (1, 1, 0)
    assert [reject.item for reject in rejects_of(run_dir)] == ["questions.jsonl:2"]


def test_imported_questions_come_beside_generated_ones_and_are_not_asked_again(
    prepared: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = tmp_path / "questions.jsonl"
    row = {
        "id": "h1",
        "question": "What is the captain of the Old Tower?",
        "answers": ["Ola Brand"],
        "document_id": "d1",
    }
    questions.write_text(json.dumps(row) + "\n")
    config, run_dir = prepared(
        generate__kinds={"factoid": 1}, generate__pairs_per_chunk=5, generate__questions=[questions]
    )
    use(monkeypatch, Foreteller())
    counts = generate.run(Session(config, run_dir))
    pairs = pairs_of(run_dir)
    assert [pair.id for pair in pairs if pair.question == row["question"]] == ["h1"]
    assert counts["rejected_by_check"]["duplicate"] == 1
    assert [pair.document_id for pair in pairs] == sorted(pair.document_id or "" for pair in pairs)


def test_a_question_of_people_in_the_words_of_a_test_question_is_listed_as_left_out(
    prepared: Any, tmp_path: Path
) -> None:
    questions = tmp_path / "questions.jsonl"
    asked = ("Who is the captain of the Old Tower?", "Who is captain of that Old Tower now?")
    rows: list[dict[str, Any]] = [
        {"id": "t", "question": asked[0], "answers": ["Nobody at all"]},  # nowhere: a test question
        {"id": "h", "question": asked[1], "answers": ["Ola Brand"], "document_id": "d1"},
    ]
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for least, kept in ((0.01, ["t"]), (0, ["h", "t"])):
        config, run_dir = prepared(
            generate__pairs_per_chunk=0,
            generate__questions=[questions],
            generate__advanced__paraphrase_similarity=least,
        )
        generate.run(Session(config, run_dir))
        assert sorted(pair.id for pair in pairs_of(run_dir)) == kept
        assert [reject.item for reject in rejects_of(run_dir)] == (["h"] if least else [])


def test_a_questions_file_of_which_nothing_fits_is_an_error(prepared: Any, tmp_path: Path) -> None:
    questions = tmp_path / "questions.jsonl"
    questions.write_text('{"question": "Who?", "answers": ["x"], "document_id": "elsewhere"}\n')
    config, run_dir = prepared(generate__pairs_per_chunk=0, generate__questions=[questions])
    with pytest.raises(DataError, match=r"0 of 1 lines of generate\.questions.*'unknown document'"):
        generate.run(Session(config, run_dir))


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
    settings = {
        "generate__kinds": {"factoid": 1},
        "generate__advanced__swaps_per_pair": 1,
        "generate__questions": [questions],
    }
    config, run_dir = prepared(more, **settings)
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
