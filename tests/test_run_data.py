"""run_data: what done-files and logs say about a run."""

from __future__ import annotations

from pathlib import Path

from synthetic_run import QUICK, make_synthetic_run, metrics_of

from rag_ft.config import Config
from rag_ft.run_dir import RunDir
from rag_ft.session import Session
from rag_ft.stages import report
from rag_ft.storage import write_jsonl


def test_the_funnel_adds_up_from_asked_to_accepted(reported: tuple[Config, RunDir]) -> None:
    funnel = metrics_of(reported[1])["funnel"]
    assert funnel["steps"][-1]["left"] == funnel["accepted"] == 400
    assert [step["reason"] for step in funnel["steps"]] == [
        "evidence", "stands_alone", "round_trip_answer", "closed_book"
    ]  # fmt: skip


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
