"""The report shows how much was looked at, and how far people and checks agree."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from review_run import make_review_run
from sklearn.metrics import cohen_kappa_score
from synthetic_run import QUICK, make_synthetic_run

from rag_ft.report.reviews import reviews
from rag_ft.review.store import ReviewStore, decided
from rag_ft.run_dir import RunDir
from rag_ft.schema import QAPair
from rag_ft.session import Session
from rag_ft.stages import report
from rag_ft.storage import read_jsonl, write_jsonl


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return make_review_run(tmp_path, 9)


def pairs_of(run_dir: RunDir) -> list[QAPair]:
    files = (run_dir.generated_pairs, run_dir.generated_rejects)
    return [pair for file in files for pair in read_jsonl(file, QAPair)]


def test_without_a_review_there_is_no_section(session: Session) -> None:
    assert reviews(session.run_dir, 0) is None


def test_shares_decisions_rates_and_agreement(session: Session) -> None:
    run_dir = session.run_dir
    pairs = pairs_of(run_dir)
    kept, rejected = pairs[:45], pairs[45:]
    ann = {pair.id: number % 4 != 0 for number, pair in enumerate(kept[:20])}
    bob = {pair.id: number % 3 != 0 for number, pair in enumerate(kept[:12])}
    lines = []
    for name, votes in (("ann", ann), ("bob", bob)):
        for pair in kept:
            if pair.id in votes:
                lines.append(decided(pair, "accept" if votes[pair.id] else "reject", name))
    lines += [decided(pair, "reject", "ann") for pair in rejected[:3]]
    lines += [decided(rejected[3], "accept", "ann"), decided(kept[30], "unsure", "bob")]
    lines += [decided(kept[40], "add", "serve", source="serve")]
    ReviewStore(run_dir.reviews).append(*lines)

    found = reviews(run_dir, 0)
    assert found is not None
    assert sum(row["looked_at"] for row in found["splits"]) == 21
    assert sum(row["pairs"] for row in found["splits"]) == 45
    assert found["rejected"] == {"pairs": 9, "looked_at": 4}
    assert found["reviewers"] == {"ann": 24, "bob": 13}
    assert found["decisions"]["unsure"] == 1
    [row] = found["agreement"]
    both = [(ann[i], bob[i]) for i in bob]
    assert row["num"] == 12 and row["reviewers"] == ["ann", "bob"]
    assert row["kappa"] == pytest.approx(cohen_kappa_score(*zip(*both, strict=True)), abs=1e-4)
    # The majority; a tie rejects.
    keeps = [ann[i] and bob.get(i, True) for i in ann]
    assert (found["rates"][0]["num_good"], found["rates"][0]["num"]) == (sum(keeps), 20)
    checks = [(True, keep) for keep in keeps] + [(False, False)] * 3 + [(False, True)]
    assert found["checks"]["num"] == 24
    expected = cohen_kappa_score(*zip(*checks, strict=True))
    assert found["checks"]["kappa"] == pytest.approx(expected, abs=1e-4)
    assert found["applied"] is False


def test_the_report_shows_the_section_and_metrics_json_has_it(tmp_path: Path) -> None:
    config, run_dir = make_synthetic_run(tmp_path, **QUICK)
    pairs = list(read_jsonl(run_dir.qa, QAPair))
    write_jsonl(run_dir.generated_pairs, (replace(p, origin="generated") for p in pairs))
    name = "ann <script>alert(1)</script>"
    ReviewStore(run_dir.reviews).append(
        *(decided(pair, "accept", name) for pair in pairs[:30]),
        *(
            decided(pair, "reject" if n % 2 else "accept", "bob")
            for n, pair in enumerate(pairs[:9])
        ),
    )
    report.run(Session(config, run_dir))
    metrics: dict[str, Any] = json.loads(run_dir.metrics.read_text())
    assert metrics["reviews"]["reviewers"] == {name: 30, "bob": 9}
    html, text = run_dir.report_html.read_text(), run_dir.report_md.read_text()
    assert 'id="reviews"' in html and "Accepted as written" in html
    assert "<script>alert" not in html
    assert f"30 of {len(pairs)} test pairs" in text


def test_a_report_without_reviews_has_no_such_section(reported: Any) -> None:
    _, run_dir = reported
    assert 'id="reviews"' not in run_dir.report_html.read_text()
    assert json.loads(run_dir.metrics.read_text())["reviews"] is None
