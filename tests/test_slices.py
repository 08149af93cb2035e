"""slices: parts of the questions, and gaps larger than chance."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from synthetic_run import QUICK, make_synthetic_run, metrics_of

from rag_ft.schema import QAPair, Score
from rag_ft.session import Session
from rag_ft.stages import report
from rag_ft.storage import read_jsonl, write_jsonl


def test_where_no_parts_can_be_compared_the_page_says_so(tmp_path: Path) -> None:
    config, run_dir = make_synthetic_run(tmp_path, **QUICK)
    report.run(Session(config, run_dir))
    compared = "No part of the questions does worse under the tuned system"
    assert compared in run_dir.report_html.read_text()
    write_jsonl(
        run_dir.qa, [pair for pair in read_jsonl(run_dir.qa, QAPair) if not pair.answerable][:6]
    )
    report.run(Session(config, run_dir))
    assert "Nothing was compared here" in run_dir.report_html.read_text()
    assert compared not in run_dir.report_html.read_text()


def test_a_part_of_a_single_document_is_no_gap(tmp_path: Path) -> None:
    config, run_dir = make_synthetic_run(tmp_path, num_documents=12, **QUICK)
    documents = [json.loads(line) for line in run_dir.documents.read_text().splitlines()]
    documents[0]["metadata"]["source"] = "alone"
    write_jsonl(run_dir.documents, documents)
    scores = [json.loads(line) for line in run_dir.scores.read_text().splitlines()]
    for row in scores:
        if (
            row["metric"] == "f1"
            and row["system"] == "tuned"
            and row["question_id"].startswith(documents[0]["id"])
        ):
            row["value"] = 0.0
    write_jsonl(run_dir.scores, scores)
    report.run(Session(config, run_dir))
    [alone] = [row for row in metrics_of(run_dir)["slices"] if row["part"] == "alone"]
    assert (alone["n"], alone["compared"], alone["gap"]) == (8, False, None)


def test_a_slice_that_does_much_worse_is_named(tmp_path: Path) -> None:
    config, run_dir = make_synthetic_run(tmp_path, num_documents=30, **QUICK)
    scores = [json.loads(line) for line in run_dir.scores.read_text().splitlines()]
    kinds = {row["id"]: row["kind"] for row in map(json.loads, run_dir.qa.read_text().splitlines())}
    for row in scores:
        if row["metric"] == "f1" and row["system"] == "tuned":
            row["value"] = 0.1 if kinds[row["question_id"]] == "summary" else row["value"]
    write_jsonl(run_dir.scores, scores)
    report.run(Session(config, run_dir))
    gaps = [row["part"] for row in metrics_of(run_dir)["slices"] if row["gap"]]
    assert gaps == ["summary"]


def test_a_part_that_could_not_be_compared_says_so(tmp_path: Path) -> None:
    config, run_dir = make_synthetic_run(tmp_path, num_documents=4, **QUICK)
    pairs = list(read_jsonl(run_dir.qa, QAPair))
    few = [
        dataclasses.replace(pair, kind="inference" if i < 3 else "factoid")
        for i, pair in enumerate(pairs)
    ]
    write_jsonl(run_dir.qa, few)
    report.run(Session(config, run_dir))
    found = {row["part"]: row["compared"] for row in metrics_of(run_dir)["slices"]}
    assert found == {"inference": False, "factoid": False, "north": True, "south": True}


def test_scores_of_the_base_alone_are_reported(tmp_path: Path) -> None:
    config, run_dir = make_synthetic_run(tmp_path, num_documents=4, **QUICK)
    write_jsonl(
        run_dir.scores,
        [score for score in read_jsonl(run_dir.scores, Score) if score.system == "base"],
    )
    report.run(Session(config, run_dir))
    metrics = metrics_of(run_dir)
    assert metrics["verdict"]["sentence"] == "Undecided: no answers of a tuned system were scored."
    assert metrics["slices"] and not any(row["compared"] for row in metrics["slices"])
    assert all(row["metrics"]["f1"]["tuned"] is None for row in metrics["slices"])
    assert "NaN" not in run_dir.metrics.read_text() and "nan" not in run_dir.report_md.read_text()
