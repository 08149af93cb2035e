"""metrics.json: what it promises, and what the headline rests on."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from synthetic_run import QUICK, make_synthetic_run, metrics_of, reported_with

from rag_ft.config import Config
from rag_ft.report.metrics_json import MIN_HUMAN_QUESTIONS
from rag_ft.report.summary import grid, summary_table
from rag_ft.run_dir import RunDir
from rag_ft.schema import QAPair
from rag_ft.session import Session
from rag_ft.stages import report
from rag_ft.storage import read_jsonl, write_jsonl


def test_metrics_hold_what_the_schema_promises(reported: tuple[Config, RunDir]) -> None:
    metrics = metrics_of(reported[1])
    promised = {
        "schema",
        "headline",
        "systems",
        "comparisons",
        "verdict",
        "leakage",
        "funnel",
        "cost",
    }
    assert promised <= metrics.keys()
    answer_systems = {
        "closed_book",
        "base",
        "tuned_generator",
        "tuned_retriever",
        "tuned",
        "oracle_base",
    }
    assert (
        answer_systems | {"oracle_tuned", "withheld_base", "withheld_tuned", "lexical"}
        <= metrics["systems"].keys()
    )
    level = metrics["systems"]["tuned"]["f1"]
    assert level["ci95"][0] < level["value"] < level["ci95"][1]
    keys = {"a", "b", "metric", "delta", "ci95", "p", "p_holm", "n"}
    assert all(keys <= row.keys() for row in metrics["comparisons"])


def test_a_difference_is_the_difference_of_the_two_levels(reported: tuple[Config, RunDir]) -> None:
    metrics = metrics_of(reported[1])
    rows = [
        row
        for row in metrics["comparisons"]
        if row["metric"] in ("f1", "em", "recall@5", "abstention_f1")
    ]
    assert len(rows) > 10
    refusing = {
        (row["a"], row["b"]): row["ci95"] for row in rows if row["metric"] == "abstention_f1"
    }
    assert refusing.keys() == {("base", b) for b in ("tuned_generator", "tuned_retriever", "tuned")}
    assert all(low < high for low, high in refusing.values())
    for row in rows:
        levels = [metrics["systems"][row[side]][row["metric"]]["value"] for side in "ab"]
        assert row["delta"] == pytest.approx(levels[1] - levels[0], abs=1e-5)


def test_where_every_question_has_an_answer_abstention_is_not_compared(tmp_path: Path) -> None:
    config, run_dir = make_synthetic_run(tmp_path, **QUICK)
    pairs = [pair for pair in read_jsonl(run_dir.qa, QAPair) if pair.answerable]
    write_jsonl(run_dir.qa, pairs)
    report.run(Session(config, run_dir))
    assert "abstention_f1" not in {row["metric"] for row in metrics_of(run_dir)["comparisons"]}
    assert "NaN" not in run_dir.metrics.read_text()


def test_an_untuned_component_is_compared_with_nothing_and_named(tmp_path: Path) -> None:
    run_dir = reported_with(tmp_path, tuned=["retriever"])
    metrics = metrics_of(run_dir)
    assert metrics["tuned"] == {"generator": False, "retriever": True, "reranker": False}
    compared = {(row["a"], row["b"]) for row in metrics["comparisons"]}
    assert ("base", "tuned_generator") not in compared
    assert ("base", "tuned") in compared
    page = run_dir.report_html.read_text()
    assert "The generator is the base one: no pair to train on." in page
    # A run without a reranker says nothing of one.
    assert "The generator was not tuned" in page and "reranker was" not in page


def test_a_tuned_reranker_is_the_third_component(tmp_path: Path) -> None:
    run_dir = reported_with(tmp_path, tuned=["generator", "retriever", "reranker"])
    metrics, page = metrics_of(run_dir), run_dir.report_html.read_text()
    assert all(metrics["tuned"].values())
    assert {"f1", "recall@5"} <= metrics["systems"]["tuned_reranker"].keys()
    compared = {(c["a"], c["b"]) for c in metrics["comparisons"] if c["metric"] == "recall@5"}
    served = {"tuned_retriever", "tuned_reranker", "tuned"}
    assert {("base", name) for name in served} < compared
    assert {("tuned_retriever", "tuned"), ("tuned_reranker", "tuned")} < compared
    # Every row of the grid has the recall of the ranking that it reads.
    rows = {row["name"]: row for row in grid(metrics)}
    for name in served:
        cell = rows[name]["cells"]["recall@5"]
        assert cell == metrics["systems"][name]["recall@5"] and rows[name]["changes"]["recall@5"]
    assert rows["tuned_generator"]["cells"]["recall@5"] == rows["base"]["cells"]["recall@5"]
    assert "tuned reranker" in page and "all components tuned" in page


def test_without_a_tuned_reranker_nothing_is_shown_of_it(tmp_path: Path) -> None:
    run_dir = reported_with(tmp_path)
    metrics = metrics_of(run_dir)
    assert "tuned_reranker" not in metrics["systems"]
    rows = {row["name"]: row for row in grid(metrics)}
    assert rows["tuned_retriever"]["cells"]["recall@5"] == metrics["systems"]["tuned"]["recall@5"]
    assert rows["tuned_retriever"]["changes"]["recall@5"]["b"] == "tuned"


def test_enough_human_questions_make_the_headline_alone(tmp_path: Path) -> None:
    config, run_dir = make_synthetic_run(tmp_path, num_documents=16, **QUICK)
    rows = [json.loads(line) for line in run_dir.qa.read_text().splitlines()]
    write_jsonl(
        run_dir.qa,
        [{**row, "origin": "imported" if i % 2 else "generated"} for i, row in enumerate(rows)],
    )
    report.run(Session(config, run_dir))
    metrics = metrics_of(run_dir)
    assert metrics["headline"]["origins"] == ["imported"]
    assert metrics["headline"]["questions"] == len(rows) // 2 >= MIN_HUMAN_QUESTIONS
    assert metrics["by_origin"].keys() == {"human", "generated"}


def test_few_human_questions_do_not_carry_the_headline(tmp_path: Path) -> None:
    config, run_dir = make_synthetic_run(tmp_path, num_documents=4, **QUICK)
    rows = [json.loads(line) for line in run_dir.qa.read_text().splitlines()]
    write_jsonl(
        run_dir.qa,
        [{**row, "origin": "imported" if i < 5 else "generated"} for i, row in enumerate(rows)],
    )
    report.run(Session(config, run_dir))
    assert metrics_of(run_dir)["headline"]["origins"] == ["generated", "imported"]


def test_questions_without_a_known_document_are_counted_separately(tmp_path: Path) -> None:
    run_dir = reported_with(tmp_path, unplaced=10)
    metrics, page, text = (
        metrics_of(run_dir),
        run_dir.report_html.read_text(),
        run_dir.report_md.read_text(),
    )
    headline, num = metrics["headline"], metrics["headline"]["questions"]
    assert (headline["documents"], headline["unplaced"]) == (12, 10)
    said = (
        f"{num} test questions (generated): {num - 10} about 12 documents that were never "
        "trained on, 10 about no"
    )
    assert all(said in told for told in (page, text, summary_table(run_dir)))
    note = (
        f"10 of {num} test questions have no known document: such a question may be about a "
        "document that was"
    )
    assert all(note in told for told in (page, text, summary_table(run_dir)))
    asked = {
        name: metrics["systems"][name]["f1"]["n"]
        for name in ("base", "oracle_base", "withheld_tuned")
    }
    assert asked == {"base": num, "oracle_base": num - 10, "withheld_tuned": num - 10}
    assert (
        "Answerable questions without a known gold chunk (10) are not asked where it is shown or "
        "withheld" in page
    )
    assert (
        len(
            re.findall(
                r"<small>(?:<bdi>)?\(no known document\)(?:</bdi>)?</small></th><td>10</td>", page
            )
        )
        == 1
    )


def test_where_no_document_is_known_nothing_is_claimed_about_documents(tmp_path: Path) -> None:
    evaluate = {"advanced": {"num_resamples": 300, "robustness": True}}
    run_dir = reported_with(
        tmp_path, num_documents=2, per_document=4, unplaced=8, evaluate=evaluate
    )
    rows = [json.loads(line) for line in run_dir.qa.read_text().splitlines()]
    write_jsonl(run_dir.qa, [row for row in rows if row["document_id"] is None])
    evaluate_all = Config(evaluate=evaluate, run={"dir": tmp_path})  # type: ignore[arg-type]
    report.run(Session(evaluate_all, run_dir))
    metrics, page = metrics_of(run_dir), run_dir.report_html.read_text()
    assert metrics["headline"]["documents"] == 0 and "oracle_base" not in metrics["systems"]
    assert "test questions (generated) about no known document</p>" in page
    assert "No test question has a known document" in page
    assert "that were never trained on" not in page and "0 test documents" not in page
    assert not [
        note
        for note in metrics["verdict"]["notes"]
        if "test documents" in note or "one document" in note
    ]


def test_the_caution_about_few_documents_counts_known_ones(tmp_path: Path) -> None:
    notes = metrics_of(reported_with(tmp_path / "three", num_documents=3, unplaced=9))["verdict"][
        "notes"
    ]
    assert [note for note in notes if note.startswith("Only 3 test documents")]
    notes = metrics_of(reported_with(tmp_path / "one", num_documents=1, unplaced=3))["verdict"][
        "notes"
    ]
    assert notes[-1].startswith(
        "Only one test document is known. 3 of 8 test questions have no known document"
    )
    assert not [note for note in notes if "no interval can be given" in note]
