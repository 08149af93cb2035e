"""Whether a version is served in place of its parent: paired intervals over frozen questions."""

from __future__ import annotations

import json
from collections.abc import Container
from dataclasses import replace
from typing import Any

import numpy as np

from rag_ft.evaluation.comparisons import ScoreTable, estimate_columns, mean_column, subset
from rag_ft.evaluation.metric_table import DECIDING_ANSWER, DECIDING_RETRIEVAL, LABELS
from rag_ft.evaluation.statistics import Estimate, more_questions
from rag_ft.evaluation.systems import shipped_system
from rag_ft.evaluation.verdict import about_more, in_brackets, points
from rag_ft.report.run_comparison import load_table, scores_of
from rag_ft.report.run_data import tuned_components
from rag_ft.run_dir import RunDir
from rag_ft.schema import QAPair
from rag_ft.storage import read_jsonl

NUM_RESAMPLES = 10_000


def decide(parent: RunDir, version: RunDir, max_loss: float) -> dict[str, Any]:
    """The `decision` of version.json: {promoted, sentence, metric, delta, ci95, questions,
    documents, max_loss}. What each version's verdict ships is compared, on the parent's test
    questions that both were asked with the same accepted answers.

    Args:
        parent: what is served so far, evaluated.
        version: evaluated.
        max_loss: the version is promoted where the interval excludes a larger loss (0-1).
    """
    frozen = {pair.id for pair in read_jsonl(version.frozen, QAPair)}
    compared = compare(parent, version, frozen)
    if compared is None:
        why = "no test question of the served version is left to compare"
        return {"promoted": False, "sentence": f"kept {parent.path.name}: {why}"}
    metric, change = compared

    # Of one document there is no interval, and nothing is excluded.
    promoted = change.ci95 is not None and change.ci95[0] >= -max_loss
    choice = f"promoted {version.path.name}" if promoted else f"kept {parent.path.name}"
    excluded = "excluded" if promoted else f"not excluded{more_needed(change, max_loss)}"
    return {
        "promoted": promoted,
        "sentence": f"{choice}: {amount(change, metric)}; a loss of more than "
        f"{100 * max_loss:g} points is {excluded}",
        "metric": metric,
        "delta": round(change.value, 6),
        "ci95": change.interval(6),
        "questions": change.n,
        "documents": change.num_documents,
        "max_loss": max_loss,
    }


def compare(before: RunDir, after: RunDir, ids: Container[str]) -> tuple[str, Estimate] | None:
    """(metric, the change of what each run serves), on the test questions with these ids that both
    were asked with the same accepted answers; None where there are none."""
    tables = load_table(before), load_table(after)
    rows = shared_rows(*tables, ids)
    metric, scores = served_scores((before, after), tables, rows)
    if metric is None:
        return None
    deltas = mean_column(scores[1] - scores[0])
    [change] = estimate_columns(subset(tables[0], rows[0]), [deltas], NUM_RESAMPLES, seed=0)
    return metric, change


def shared_rows(
    before: ScoreTable, after: ScoreTable, ids: Container[str]
) -> tuple[np.ndarray, np.ndarray]:
    """The rows of both tables with the same question among `ids` and the same accepted answers."""
    first, second = (
        {
            (pair.id, pair.question, pair.answers): row
            for row, pair in enumerate(table.pairs)
            if pair.id in ids
        }
        for table in (before, after)
    )
    both = [key for key in first if key in second]
    return (
        np.array([first[key] for key in both], int),
        np.array([second[key] for key in both], int),
    )


def served_scores(
    run_dirs: tuple[RunDir, RunDir],
    tables: tuple[ScoreTable, ScoreTable],
    rows: tuple[np.ndarray, np.ndarray],
) -> tuple[str | None, list[np.ndarray]]:
    """(metric, its scores of what each run serves): F1 of the answers, or recall where answers were
    not scored; (None, []) where the runs share no scored question."""
    served = []
    for run_dir in run_dirs:
        verdict = json.loads(run_dir.metrics.read_text(encoding="utf-8"))["verdict"]
        served.append((shipped_system(str(verdict["ship"])), tuned_components(run_dir)))
    for metric in (DECIDING_ANSWER, DECIDING_RETRIEVAL):
        found = [
            scores_of(table, system, metric, tuned)
            for table, (system, tuned) in zip(tables, served, strict=True)
        ]
        if all(values is not None for values in found):
            scores = [values[own] for values, own in zip(found, rows, strict=True)]
            if not np.isnan(scores[0] + scores[1]).all():
                return metric, scores
    return None, []


def more_needed(change: Estimate, max_loss: float) -> str:
    """ ", about 300 more questions needed": to exclude a larger loss, if the true change is the
    measured one. Empty where that one is a larger loss itself, or no number would do."""
    margin = change.value + max_loss
    num = more_questions(replace(change, value=margin)) if margin > 0 else None
    return f", {about_more(num)} questions needed" if num else ""


def amount(change: Estimate, metric: str) -> str:
    """ "+0.4 F1 (95 % CI -0.9 to 1.7) on 214 questions about 23 documents"."""
    text = f"{points(change.value)} {LABELS[metric]}"
    if change.ci95:
        text += f" {in_brackets(change.ci95)}"
    return f"{text} on {change.n} questions about {change.num_documents} documents"
