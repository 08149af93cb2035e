"""The result of a run in a few lines. Imports nothing heavy: `rag-ft run` prints it every time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rag_ft.errors import DataError
from rag_ft.evaluation.metric_table import DECIDING_ANSWER, LABELS, foremost, in_family
from rag_ft.evaluation.systems import ENSEMBLES, SERVED, ranking_name, shown_systems
from rag_ft.evaluation.verdict import points
from rag_ft.report.rendering import aligned
from rag_ft.run_dir import RunDir

RETRIEVAL = in_family("retrieval")
TERMINAL_METRICS = 4  # the columns there is room for


def summary_table(run_dir: RunDir) -> str:
    """The result for a terminal: the foremost metrics of each system in percent, their change from
    base with its interval, and the verdict.

    Raises:
        DataError: there is no metrics.json yet.
    """
    try:
        metrics = json.loads(run_dir.metrics.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{run_dir.metrics} does not exist: run the report stage first") from error
    shown = main_metrics(metrics, TERMINAL_METRICS)
    rows = [["", *(LABELS[metric] for metric in shown)]]
    for row in grid(metrics):
        cells = [cell(row["cells"].get(m), row["changes"].get(m)) for m in shown]
        rows.append([row["name"], *cells])
    head = f"{asked_about(metrics)}; change from base [95 %]"
    verdict = metrics["verdict"]
    return "\n".join([head, *aligned(rows), "", verdict["sentence"], *verdict["notes"]])


def asked_about(metrics: Mapping[str, Any]) -> str:
    """How many questions the headline rests on, and about how many documents. Only of questions
    with a known document it can say that the document was never trained on."""
    asked = {"unplaced": 0, **metrics["headline"]}  # earlier versions did not count them
    num_questions, num_documents = asked["questions"], asked["documents"]
    plural = "" if num_questions == 1 else "s"
    questions = f"{num_questions} test question{plural} ({' and '.join(asked['origins'])})"
    documents = f"about {num_documents} document{'' if num_documents == 1 else 's'}"
    # Training data of a component that the configuration names by path is unknown.
    if not metrics["leakage"]["given"]:
        documents += f" that {'was' if num_documents == 1 else 'were'} never trained on"
    if not asked["unplaced"]:
        return f"{questions} {documents}"
    if not num_documents:
        return f"{questions} about no known document"
    placed = num_questions - asked["unplaced"]
    return f"{questions}: {placed} {documents}, {asked['unplaced']} about no known document"


def main_metrics(metrics: Mapping[str, Any], room: int) -> list[str]:
    """The `room` foremost metrics that were measured; metrics of abstention only where questions
    without an answer were asked."""
    # Without unanswerable questions nobody should abstain: those metrics say nothing.
    base = metrics["systems"].get("base", {})
    measured = {metric for metric, level in base.items() if level["value"] is not None}
    if "abstention_recall" not in measured:
        measured -= set(in_family("abstention"))
    return foremost(
        measured & set(in_family("answer", "abstention", "citation", "retrieval")), room
    )


def grid(metrics: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row per system, or per ranking where no answers were asked: {name, meaning, cells:
    {metric: level}, changes: {metric: comparison with base}}; systems that retrieve carry the
    recall of the ranking they read from."""
    compared = {(c["b"], c["metric"]): c for c in metrics["comparisons"] if c["a"] == "base"}
    tuned = {name for name, is_tuned in metrics["tuned"].items() if is_tuned}
    rows = []
    # Systems without answers are shown only where they stand for a ranking that is served.
    for system in (*shown_systems(tuned), *ENSEMBLES):
        levels = metrics["systems"].get(system.name, {})
        ranking = ranking_name(system.tuned, tuned)
        if DECIDING_ANSWER not in levels and not (levels and system.name in SERVED):
            continue
        # Metrics of retrieval come from the ranking, all others from the system itself.
        found = metrics["systems"].get(ranking, {}) if system.is_retrieved else {}
        cells = {m: found[m] for m in RETRIEVAL if m in found}
        changes = {m: compared.get((ranking, m)) for m in cells}
        own = [metric for metric in levels if metric not in RETRIEVAL]
        cells |= {metric: levels[metric] for metric in own}
        changes |= {metric: compared.get((system.name, metric)) for metric in own}
        rows.append(
            {"name": system.name, "meaning": system.meaning, "cells": cells, "changes": changes}
        )
    return rows


def cell(
    level: Mapping[str, Any] | None, change: Mapping[str, Any] | None, mark: bool = False
) -> str:
    """ "45.0 +5.1 [1.0 9.2]": a level in percent and its change with the 95 % interval; "-" where
    there is no level. `mark` puts a star behind a change that is significant after Holm."""
    if not level or level["value"] is None:
        return f"{'-':>5}"
    text = f"{100 * level['value']:5.1f}"
    if not change:
        return text
    text += f" {points(change['delta'])}"
    if mark and change["p_holm"] < 0.05:
        text += "*"
    if change["ci95"]:
        low, high = change["ci95"]
        text += f" [{points(low)} {points(high)}]"
    return text
