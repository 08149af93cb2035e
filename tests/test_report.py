"""report: the stage writes metrics.json, report.md and report.html, without a model."""

from __future__ import annotations

import html
import html.parser
import json
import re
from pathlib import Path

import pytest
from synthetic_run import QUICK, make_synthetic_run, metrics_of, reported_with

from rag_ft.config import Config
from rag_ft.errors import DataError
from rag_ft.report.summary import summary_table
from rag_ft.run_dir import RunDir
from rag_ft.session import Session
from rag_ft.stages import report
from rag_ft.storage import write_jsonl

EVIL = (
    "</script><script>document.title='pwned'</script>"
    "<img src=x onerror=document.title='pwned'> {thing} & \"q\" 'q'"
)


def test_what_an_earlier_evaluation_left_is_not_shown(tmp_path: Path) -> None:
    config, run_dir = make_synthetic_run(tmp_path, num_documents=4, **QUICK)
    rows = [json.loads(line) for line in run_dir.scores.read_text().splitlines()]
    write_jsonl(run_dir.scores, [row for row in rows if not row["system"].startswith("oracle")])
    report.run(Session(config, run_dir))
    assert '"tuned","withheld_base"' in run_dir.report_html.read_text()


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


def test_the_templates_are_in_the_package() -> None:
    folder = Path(report.__file__).parents[1] / "report"
    project = (Path(report.__file__).parents[2] / "pyproject.toml").read_text()
    suffixes = {path.suffix for path in folder.iterdir() if path.is_file()} - {".py"}
    assert suffixes == {".html", ".css", ".js", ".md"}
    assert all(f"report/*{suffix}" in project for suffix in suffixes)
