"""report: metrics.json, the markdown and the page, from a finished run made without a model."""

from __future__ import annotations

import dataclasses
import html
import html.parser
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
from synthetic_run import make_synthetic_run

from rag_ft.config import Config
from rag_ft.errors import DataError
from rag_ft.report.browser import (
    BLIND_ABSTENTION,
    EXACT,
    INVENTED,
    NEEDLESS_ABSTENTION,
    RIGHT_ABSTENTION,
    UNJUDGED_ABSTENTION,
    reason,
    script_json,
)
from rag_ft.report.charts import curve, training_curves
from rag_ft.report.metrics_json import MIN_HUMAN_QUESTIONS
from rag_ft.report.retriever import moved
from rag_ft.report.summary import summary_table
from rag_ft.run_dir import RunDir
from rag_ft.schema import Chunk, Hit, QAPair, Score
from rag_ft.session import Session
from rag_ft.stages import report
from rag_ft.storage import read_jsonl, write_jsonl

QUICK = {"evaluate": {"advanced": {"num_resamples": 300}}}
EVIL = "</script><script>document.title='pwned'</script><img src=x onerror=document.title='pwned'> {thing} & \"q\" 'q'"
CHROMIUM = Path("/usr/bin/chromium")


@pytest.fixture(scope="module")
def reported(tmp_path_factory: pytest.TempPathFactory) -> tuple[Config, RunDir]:
    config, run_dir = make_synthetic_run(
        tmp_path_factory.mktemp("run"),
        evaluate={"advanced": {"num_resamples": 300, "robustness": True}},
    )
    report.run(Session(config, run_dir))
    return config, run_dir


def metrics_of(run_dir: RunDir) -> dict[str, Any]:
    return json.loads(run_dir.metrics.read_text())


def reported_with(folder: Path, **changes: Any) -> RunDir:
    config, run_dir = make_synthetic_run(folder, **{**QUICK, **changes})
    report.run(Session(config, run_dir))
    return run_dir


# --- metrics.json -------------------------------------------------------------------------------------------------


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


def test_the_funnel_adds_up_from_asked_to_accepted(reported: tuple[Config, RunDir]) -> None:
    funnel = metrics_of(reported[1])["funnel"]
    assert funnel["steps"][-1]["left"] == funnel["accepted"] == 400
    assert [step["reason"] for step in funnel["steps"]] == [
        "evidence", "stands_alone", "round_trip_answer", "closed_book"
    ]  # fmt: skip


def test_an_untuned_half_is_compared_with_nothing_and_named(tmp_path: Path) -> None:
    run_dir = reported_with(tmp_path, tuned=["retriever"])
    metrics = metrics_of(run_dir)
    assert metrics["tuned"] == {"generator": False, "retriever": True}
    compared = {(row["a"], row["b"]) for row in metrics["comparisons"]}
    assert ("base", "tuned_generator") not in compared
    assert ("base", "tuned") in compared
    assert "The generator is the base one: no pair to train on." in run_dir.report_html.read_text()


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


def test_questions_without_a_known_document_are_counted_apart(tmp_path: Path) -> None:
    run_dir = reported_with(tmp_path, unplaced=10)
    metrics, page, text = (
        metrics_of(run_dir),
        run_dir.report_html.read_text(),
        run_dir.report_md.read_text(),
    )
    headline, num = metrics["headline"], metrics["headline"]["questions"]
    assert (headline["documents"], headline["unplaced"]) == (12, 10)
    said = f"{num} test questions (generated): {num - 10} about 12 documents that were never trained on, 10 about no"
    assert all(said in told for told in (page, text, summary_table(run_dir)))
    note = f"10 of {num} test questions have no known document: such a question may be about a document that was"
    assert all(note in told for told in (page, text, summary_table(run_dir)))
    asked = {
        name: metrics["systems"][name]["f1"]["n"]
        for name in ("base", "oracle_base", "withheld_tuned")
    }
    assert asked == {"base": num, "oracle_base": num - 10, "withheld_tuned": num - 10}
    assert (
        "Answerable questions without a known gold chunk (10) are not asked where it is shown or withheld"
        in page
    )
    assert (
        len(
            re.findall(
                r"<small>(?:<bdi>)?\(no known document\)(?:</bdi>)?</small></th><td>10</td>", page
            )
        )
        == 1
    )


def test_a_report_where_every_document_is_known_says_nothing_of_unknown_ones(
    reported: tuple[Config, RunDir],
) -> None:
    assert metrics_of(reported[1])["headline"]["unplaced"] == 0
    for told in (reported[1].report_md.read_text(), summary_table(reported[1])):
        assert (
            "about 12 documents that were never trained on" in told
            and "no known document" not in told
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


def test_what_an_earlier_evaluation_left_is_not_shown(tmp_path: Path) -> None:
    config, run_dir = make_synthetic_run(tmp_path, num_documents=4, **QUICK)
    rows = [json.loads(line) for line in run_dir.scores.read_text().splitlines()]
    write_jsonl(run_dir.scores, [row for row in rows if not row["system"].startswith("oracle")])
    report.run(Session(config, run_dir))
    assert '"tuned","withheld_base"' in run_dir.report_html.read_text()


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


def test_the_questions_whose_proof_moved_most_are_shown_with_their_ranks() -> None:
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


def test_folds_become_a_mean_a_spread_and_a_sentence(tmp_path: Path) -> None:
    config, run_dir = make_synthetic_run(tmp_path, num_documents=4, **QUICK)
    rows = [
        {
            "fold": n,
            "num_train": 90,
            "num_dev": 30,
            "dev_loss": 1.0,
            "f1_base": 0.4,
            "f1_tuned": 0.4 + d,
            "delta": d,
        }
        for n, d in enumerate((0.02, 0.05, -0.01))
    ]
    write_jsonl(run_dir.folds, rows)
    report.run(Session(config, run_dir))
    found = metrics_of(run_dir)["cross_validation"]
    assert found["folds"] == rows
    assert found["delta"] == {"mean": 0.02, "sd": 0.03, "low": -0.01, "high": 0.05}
    said = "gained F1 in 2 of 3 folds: +2.0 on average, from -1.0 to +5.0 (standard deviation 3.0)"
    assert said in run_dir.report_html.read_text() and said in run_dir.report_md.read_text()


def test_without_folds_there_is_no_cross_validation(reported: tuple[Config, RunDir]) -> None:
    assert metrics_of(reported[1])["cross_validation"] is None
    assert "Cross-validation" not in reported[1].report_html.read_text()


def test_the_judges_verdicts_stand_beside_the_lexical_measure_with_its_failures(
    tmp_path: Path,
) -> None:
    config, run_dir = make_synthetic_run(tmp_path, num_documents=4, **QUICK)
    rows = [json.loads(line) for line in run_dir.scores.read_text().splitlines()]
    judged = [
        {**row, "metric": "faithfulness_judged", "value": 1.0}
        for row in rows
        if row["metric"] == "faithfulness"
    ]
    write_jsonl(run_dir.scores, [*rows, *judged])
    done = json.loads(run_dir.done("evaluate").read_text())
    done["counts"] |= {"judge_prompts": 90, "judge_failed": 7}
    run_dir.done("evaluate").write_text(json.dumps(done))
    report.run(Session(config, run_dir))
    assert metrics_of(run_dir)["systems"]["tuned"]["faithfulness_judged"]["value"] == 1.0
    text = run_dir.report_html.read_text()
    assert (
        "<th>faithfulness</th><th>judged faithful</th>" in text and "no verdict on 7 of 90" in text
    )


def test_retrieval_alone_is_reported_too(tmp_path: Path) -> None:
    config, run_dir = make_synthetic_run(tmp_path, **QUICK)
    rows = [json.loads(line) for line in run_dir.scores.read_text().splitlines()]
    write_jsonl(run_dir.scores, [row for row in rows if "@" in row["metric"]])
    report.run(Session(config, run_dir))
    assert metrics_of(run_dir)["verdict"]["ship"] in ("retriever", "undecided")
    assert "recall@5" in summary_table(run_dir)


def test_scores_of_other_questions_end_in_an_error_with_a_remedy(tmp_path: Path) -> None:
    config, run_dir = make_synthetic_run(tmp_path, num_documents=2, **QUICK)
    write_jsonl(run_dir.scores, [])
    with pytest.raises(DataError, match="run evaluate again with --force"):
        report.run(Session(config, run_dir))


def test_an_evaluation_that_had_nothing_to_find_says_what_would_help(tmp_path: Path) -> None:
    config, run_dir = make_synthetic_run(tmp_path, num_documents=2, **QUICK)
    write_jsonl(run_dir.scores, [])
    done = json.loads(run_dir.done("evaluate").read_text())
    done["counts"] |= {"located_questions": 0}
    run_dir.done("evaluate").write_text(json.dumps(done))
    with pytest.raises(
        DataError, match=r"set evaluate\.answers=true, or give .* their document_id"
    ):
        report.run(Session(config, run_dir))


def test_the_same_scores_make_the_same_bytes(tmp_path: Path) -> None:
    config, run_dir = make_synthetic_run(tmp_path, num_documents=4, **QUICK)
    report.run(Session(config, run_dir))
    before = [
        path.read_bytes() for path in (run_dir.metrics, run_dir.report_html, run_dir.report_md)
    ]
    report.run(Session(config, run_dir))
    assert [
        path.read_bytes() for path in (run_dir.metrics, run_dir.report_html, run_dir.report_md)
    ] == before


def test_the_terminal_table_shows_systems_changes_and_verdict(
    reported: tuple[Config, RunDir],
) -> None:
    lines = summary_table(reported[1]).splitlines()
    assert lines[1].split() == ["EM", "F1", "abstention", "F1", "recall@5"]
    tuned = next(line for line in lines if line.startswith("tuned "))
    assert len(re.findall(r"[+-]\d+\.\d \[[+-]\d+\.\d [+-]\d+\.\d\]", tuned)) == 4
    assert metrics_of(reported[1])["verdict"]["sentence"] in lines


def test_a_summary_before_any_report_says_what_to_run(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="run the report stage first"):
        summary_table(RunDir(tmp_path))


# --- the page -----------------------------------------------------------------------------------------------------


class Page(html.parser.HTMLParser):
    """Open and closed tags, and every address the page would load."""

    VOID = frozenset({"meta", "link", "input", "br", "img", "rect", "line", "circle", "polyline"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.scripts, self.loads, self.ids = 0, [], set[str]()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.scripts += tag == "script"
        self.ids |= {found["id"]} if found.get("id") else set()
        if tag != "a":
            self.loads += [
                value
                for name, value in attrs
                if name in ("src", "href", "srcset", "data", "poster")
            ]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open and self.open.pop() == tag, f"</{tag}> does not close what is open"


def test_the_page_is_well_formed_and_loads_nothing(reported: tuple[Config, RunDir]) -> None:
    text = reported[1].report_html.read_text()
    page = Page(text)
    assert page.open == []
    assert page.loads == ["data:,"]
    assert not re.findall(r"url\(|@import|https?://", text)
    assert {
        "verdict",
        "systems",
        "differences",
        "retrieval",
        "questions",
        "funnel",
        "training",
        "cost",
    } <= page.ids


def test_markup_in_a_document_stays_text(tmp_path: Path) -> None:
    run_dir = reported_with(tmp_path, title=EVIL, num_documents=4)
    text = run_dir.report_html.read_text()
    page = Page(text)
    assert page.scripts == 2
    assert "<img" not in text
    assert "pwned" in text
    assert "<script" not in run_dir.report_md.read_text()


def test_json_in_a_script_cannot_end_it() -> None:
    data = {"text": "</script><!-- & \u2028"}
    text = script_json(data)
    assert not set("<>&\u2028") & set(text)
    assert json.loads(text) == data


def test_every_answer_says_why_it_has_its_score() -> None:
    right = {"em": 1.0, "f1": 1.0, "contains": 1.0, "abstained": 0.0}
    abstained = {"em": 0.0, "f1": 0.0, "contains": 0.0, "abstained": 1.0}
    assert reason(right, answerable=True, seen=True) == EXACT
    assert reason(right, answerable=False, seen=True) == INVENTED
    assert reason(abstained, answerable=False, seen=False) == RIGHT_ABSTENTION
    assert reason(abstained, answerable=True, seen=True) == NEEDLESS_ABSTENTION
    assert reason(abstained, answerable=True, seen=False) == BLIND_ABSTENTION
    assert reason(abstained, answerable=True, seen=None) == UNJUDGED_ABSTENTION
    assert reason(abstained, answerable=False, seen=None) == RIGHT_ABSTENTION


def test_training_logs_become_curves_by_phase() -> None:
    rows = [{"stage": "one", "step": n, "loss": 1 / n} for n in range(1, 900)] + [
        {"step": 5, "loss": 1.0}
    ]
    charts = training_curves([*rows, {"stage": "gate", "reason": "better", "alpha": 1.0}])
    assert [chart["title"] for chart in charts] == ["one: loss"]
    assert charts[0]["svg"].count(",") <= 200


def test_a_curve_spans_its_axes() -> None:
    drawn = curve({"base": [(0.0, 1.0), (10.0, 3.0)]})
    assert (drawn["low"], drawn["high"], drawn["first"], drawn["last"]) == (1.0, 3.0, 0.0, 10.0)
    assert "0.00,100.00 100.00,0.00" in drawn["svg"]


# --- in a real browser --------------------------------------------------------------------------------------------

PROBE = """<script>
const failures = [];
addEventListener("error", (event) => failures.push(event.message || "load " + event.target.outerHTML), true);
for (const level of ["error", "warn"]) console[level] = (...parts) => failures.push(parts.join(" "));
addEventListener("securitypolicyviolation", (event) => failures.push("blocked " + event.blockedURI));
function choose(id, value) {
  const field = document.getElementById(id);
  field.value = value;
  field.dispatchEvent(new Event("change"));
}
addEventListener("load", () => {
  const requests = performance.getEntriesByType("resource").map((entry) => entry.name);
  const cards = document.querySelectorAll(".card").length;
  choose("show", "worse");
  const worse = document.getElementById("found").textContent;
  choose("show", "all");
  document.querySelectorAll(".card details").forEach((box) => { box.open = true; });
  setTimeout(() => {
    const [marks, images] = ["mark", "img"].map((name) => document.querySelectorAll(name).length);
    const paper = getComputedStyle(document.body).backgroundColor;
    const seen = {failures, requests, title: document.title, cards, worse, marks, images, paper};
    document.body.dataset.probe = JSON.stringify(seen);
  }, 300);
});
</script>"""
FRAME = """<iframe width="390" height="844" srcdoc="{}"></iframe><script>
addEventListener("load", () => {{
  const root = document.querySelector("iframe").contentDocument.documentElement;
  document.body.dataset.probe = JSON.stringify({{wide: root.scrollWidth, width: root.clientWidth,
    cards: root.querySelectorAll(".card").length}});
}});
</script>"""


FOREIGN_FRAME = """<iframe width="390" height="844" srcdoc="{}"></iframe><script>
addEventListener("load", () => {{
  const page = document.querySelector("iframe").contentDocument, root = page.documentElement;
  const left = (node, at) => {{
    const range = page.createRange();
    range.setStart(node, at);
    range.setEnd(node, at + 1);
    return range.getBoundingClientRect().left;
  }};
  const whys = () => [...page.querySelectorAll(".why")].map((box) => box.textContent.split(" · ")[0]);
  page.querySelectorAll(".card details").forEach((box) => {{ box.open = true; }});
  setTimeout(() => {{
    const question = page.querySelector(".q").firstChild, marks = page.querySelectorAll("mark");
    const seen = {{wide: root.scrollWidth, width: root.clientWidth, marks: [...marks].map((mark) => mark.textContent),
      first: left(question, 0), last: left(question, question.length - 1), why: whys()}};
    const right = page.getElementById("right");
    right.value = [...right.options].find((option) => option.text === "oracle_tuned").value;
    right.dispatchEvent(new Event("change"));
    seen.why.push(...whys());
    document.body.dataset.probe = JSON.stringify(seen);
  }}, 300);
}});
</script>"""


def open_in_browser(page: Path, folder: Path, *flags: str) -> str:
    """The page's DOM after a few seconds in headless chromium."""
    command = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=4000", *flags, "--dump-dom", page.as_uri(),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, text=True, timeout=240).stdout


def probe(text: str, folder: Path, *flags: str) -> dict[str, Any]:
    """What a probe inside the page saw."""
    page = folder / "probed.html"
    page.write_text(text)
    found = re.search(r'data-probe="([^"]*)"', open_in_browser(page, folder, *flags))
    assert found, "the page did not finish loading"
    return json.loads(html.unescape(found[1]))


def with_probe(text: str) -> str:
    """The page with the probe in it; the policy lets that script in, all else of the policy stays."""
    assert text.count("script-src 'sha256-") == 1
    return re.sub(r"script-src [^;]*", "script-src 'unsafe-inline'", text, count=1).replace(
        "<style>", PROBE + "<style>", 1
    )


@pytest.mark.skipif(not CHROMIUM.exists(), reason="no /usr/bin/chromium")
def test_a_browser_shows_the_page_in_dark_mode_without_an_error_or_a_request(
    tmp_path: Path,
) -> None:
    run_dir = reported_with(tmp_path / "run", title=EVIL)
    page, dark = (
        with_probe(run_dir.report_html.read_text()),
        "--blink-settings=preferredColorScheme=0",
    )
    seen = probe(page, tmp_path, "--window-size=1280,900", dark)
    assert (seen["failures"], seen["requests"], seen["images"]) == ([], [], 0)
    assert "pwned" not in seen["title"]
    assert seen["cards"] == 25
    assert seen["marks"] > 0
    assert re.fullmatch(r"\d+ of \d+ questions", seen["worse"])
    assert seen["paper"] == "rgb(18, 22, 28)"


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM.exists(), reason="no /usr/bin/chromium")
def test_the_browser_test_would_see_an_error_and_a_request(
    reported: tuple[Config, RunDir], tmp_path: Path
) -> None:
    text = with_probe(reported[1].report_html.read_text())
    seen = probe(text.replace("</main>", '<img src="http://127.0.0.1:9/x.png"></main>'), tmp_path)
    assert seen["requests"] and seen["failures"]


@pytest.mark.skipif(not CHROMIUM.exists(), reason="no /usr/bin/chromium")
def test_the_page_as_written_runs_under_its_own_policy_and_fits_a_phone(
    reported: tuple[Config, RunDir], tmp_path: Path
) -> None:
    seen = probe(FRAME.format(html.escape(reported[1].report_html.read_text())), tmp_path)
    assert seen["wide"] <= seen["width"] <= 390
    assert seen["cards"] == 25


@pytest.mark.skipif(not CHROMIUM.exists(), reason="no /usr/bin/chromium")
def test_a_phone_shows_emoji_long_words_and_right_to_left_text_as_they_should_be(
    tmp_path: Path,
) -> None:
    opening = "\U0001f600\U0001f600\U0001f600 This page tells about the {thing}."
    config, run_dir = make_synthetic_run(
        tmp_path / "run", num_documents=3, opening=opening, unplaced=5, **QUICK
    )
    rows = [json.loads(line) for line in run_dir.qa.read_text().splitlines()]
    for number, row in enumerate(rows):
        row["question"] = f"\u0645\u0646 \u0647\u0648 (The Crown {number})\u061f"
        row["answers"] = [*row["answers"], "a" * 400]
    write_jsonl(run_dir.qa, rows)
    report.run(Session(config, run_dir))
    seen = probe(FOREIGN_FRAME.format(html.escape(run_dir.report_html.read_text())), tmp_path)
    assert seen["wide"] <= seen["width"] <= 390
    answers = {row["answers"][0] for row in rows}
    assert seen["marks"] and {mark for mark in seen["marks"] if len(mark) > 2} <= answers
    assert (
        seen["last"] < seen["first"]
    )  # a question mark that ends what is read from the right stands on the left
    assert "abstained; the gold chunk is not known" in seen["why"]
    assert "not asked: the gold chunk is not known" in seen["why"]


def test_the_templates_are_in_the_package() -> None:
    folder = Path(report.__file__).parents[1] / "report"
    project = (Path(report.__file__).parents[2] / "pyproject.toml").read_text()
    suffixes = {path.suffix for path in folder.iterdir() if path.is_file()} - {".py"}
    assert suffixes == {".html", ".css", ".js", ".md"}
    assert all(f"report/*{suffix}" in project for suffix in suffixes)
