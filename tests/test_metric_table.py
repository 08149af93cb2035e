"""metric_table: the one place that names metrics."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import rag_ft
from rag_ft.evaluation.metric_table import METRICS, foremost, in_family
from rag_ft.evaluation.metrics.answers import score_answer
from rag_ft.evaluation.metrics.retrieval import score_ranking
from rag_ft.schema import Score
from rag_ft.storage import read_jsonl

PACKAGE = Path(rag_ft.__file__).parent
# `rouge.py` computes several metrics in one pass and has to name them.
NAMING = {"metric_table.py", "rouge.py"}


def test_every_score_of_an_evaluation_has_a_row(tmp_path: Path) -> None:
    from synthetic_run import make_synthetic_run

    _, run_dir = make_synthetic_run(tmp_path, num_documents=3, per_document=3)
    scored = {score.metric for score in read_jsonl(run_dir.scores, Score)}
    assert scored <= METRICS.keys()
    assert {*in_family("answer"), *in_family("retrieval"), "seconds"} <= scored


def test_answers_and_rankings_are_scored_by_the_table() -> None:
    assert [*score_answer("a", ["a"], False)] == [*in_family("answer"), "abstained"]
    assert [*score_ranking(["x"], {"x"})] == [*in_family("retrieval")]


def test_no_other_file_lists_metrics() -> None:
    literal = re.compile(r"""["'](recall@\d+|mrr@10|ndcg@10|rouge[12L]\w*)["']""")
    for path in PACKAGE.rglob("*"):
        if path.suffix in (".py", ".html", ".js", ".md") and path.name not in NAMING:
            found = literal.findall(path.read_text(encoding="utf-8"))
            assert not found, f"{path}: {found}"


def test_a_table_with_little_room_shows_what_matters_most_in_the_tables_order() -> None:
    assert foremost(in_family("answer", "retrieval"), 3) == ["em", "f1", "recall@5"]
    assert foremost(["seconds"], 3) == ["seconds"]


def test_the_table_loads_nothing_heavy() -> None:
    heavy = "('numpy', 'scipy', 'torch', 'rouge_score')"
    code = (
        "import sys, rag_ft.evaluation.metric_table; "
        f"print([m for m in {heavy} if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
