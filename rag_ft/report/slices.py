"""The same metrics for parts of the questions: by kind, by length, by document; and gaps larger
than chance."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from rag_ft.evaluation.comparisons import ScoreTable, estimate_columns, mean_column
from rag_ft.evaluation.statistics import Estimate, holm
from rag_ft.schema import Document, QAPair

MIN_QUESTIONS = 5  # with fewer, a part has no interval and is never called a gap
SYSTEMS = ("base", "tuned")
NUM_RESAMPLES = 2000
LONG_QUESTION_WORDS = 12
NO_DOCUMENT = "(no known document)"
MAX_VALUES = 12  # a metadata field with more values than this is an identifier, not a slice


@dataclass(frozen=True)
class Slice:
    """A row of the table, with what its gap is tested on: the tuned means of the first metric here
    and over the other questions."""

    row: dict[str, Any]
    here: Estimate
    rest: Estimate


def by_group(
    table: ScoreTable, metrics: list[str], documents: Mapping[str, Document], seed: int
) -> list[dict[str, Any]]:
    """One row per part: {field, part, n, metrics: {metric: {base, tuned, delta, ci95}}, gap,
    compared}. What was not scored under a system is None.

    `gap` is {metric, value, p_holm} where tuned does worse here than on the other questions by more
    than chance allows (Holm over all compared parts), else None: a difference of two means with
    the parts' own standard errors. `compared` is False where there are too few questions or
    documents here or elsewhere.
    """
    slices = []
    for field, part_of in group_fields(table, documents).items():
        parts = np.array([part_of(pair) for pair in table.pairs], dtype=object)
        for part in sorted(set(parts) - {None}, key=str):
            slices.append(make_slice(table, metrics, field, str(part), parts == part, seed))
    if len(slices) > 1:
        mark_gaps(slices, metrics[0])
    return [one.row for one in slices]


def by_document(
    table: ScoreTable, metrics: list[str], documents: Mapping[str, Document]
) -> list[dict[str, Any]]:
    """{document, title, n, metrics: {metric: {base, tuned, delta}}}, the largest loss first;
    questions without a known document share a row."""
    rows = []
    names = np.array([pair.document_id or NO_DOCUMENT for pair in table.pairs], dtype=object)
    for name in dict.fromkeys(names):
        chosen = names == name
        values = {metric: plain_means(table, metric, chosen) for metric in metrics}
        title = documents[name].title if name in documents else ""
        rows.append({"document": name, "title": title, "n": int(chosen.sum()), "metrics": values})
    return sorted(
        rows, key=lambda row: (row["metrics"][metrics[0]]["delta"] or 0.0, row["document"])
    )


def group_fields(
    table: ScoreTable, documents: Mapping[str, Document]
) -> dict[str, Callable[[QAPair], str | None]]:
    """Field name -> the part a question belongs to. Fields with one value only, or with very many,
    are left out."""

    def length(pair: QAPair) -> str:
        is_long = len(pair.question.split()) > LONG_QUESTION_WORDS
        return f"{'over' if is_long else 'up to'} {LONG_QUESTION_WORDS} words"

    def metadata(pair: QAPair, name: str) -> str | None:
        document = documents.get(pair.document_id or "")
        value = document.metadata.get(name) if document else None
        return str(value) if isinstance(value, str | int | float | bool) else None

    fields: dict[str, Callable[[QAPair], str | None]] = {
        "kind": lambda pair: pair.kind,
        "origin": lambda pair: pair.origin,
        "question length": length,
    }
    # Each field of the documents' metadata is a way to slice too.
    asked = {pair.document_id for pair in table.pairs}
    names = {name for i, d in documents.items() if i in asked for name in d.metadata}
    fields |= {f"document {name}": partial(metadata, name=name) for name in sorted(names)}
    chosen = {}
    for field, part_of in fields.items():
        num = len({part_of(pair) for pair in table.pairs} - {None})
        if 1 < num <= MAX_VALUES:
            chosen[field] = part_of
    return chosen


def make_slice(
    table: ScoreTable, metrics: list[str], field: str, part: str, chosen: np.ndarray, seed: int
) -> Slice:
    """The row of the `chosen` questions (a mask over the table), and its estimates."""
    columns = []
    for metric in metrics:
        base, tuned = (scores_of(table, system, metric) for system in SYSTEMS)
        # Three columns a metric: the change here, tuned here, tuned on the other questions.
        columns.append(mean_column(np.where(chosen, tuned - base, np.nan)))
        columns.append(mean_column(np.where(chosen, tuned, np.nan)))
        columns.append(mean_column(np.where(chosen, np.nan, tuned)))
    estimates = estimate_columns(table, columns, NUM_RESAMPLES, seed)
    values = {}
    for metric, change in zip(metrics, estimates[::3], strict=True):
        shown = list(change.ci95) if change.ci95 and change.n >= MIN_QUESTIONS else None
        values[metric] = {**plain_means(table, metric, chosen), "ci95": shown}
    row = {"field": field, "part": part, "n": int(chosen.sum()), "metrics": values}
    return Slice(row | {"gap": None, "compared": False}, estimates[1], estimates[2])


def mark_gaps(slices: Sequence[Slice], metric: str) -> None:
    """Sets `compared` of every slice that can be compared with the rest, and `gap` where it is
    worse by more than chance."""
    from scipy import stats

    # A z-test on the difference of the two means, where both have enough questions.
    found = []
    for one in slices:
        here, rest = one.here, one.rest
        error = math.hypot(here.standard_error, rest.standard_error)
        has_enough = min(here.n, rest.n) >= MIN_QUESTIONS and here.ci95 and rest.ci95
        if has_enough and error:
            gap = here.value - rest.value
            found.append((one.row, gap, float(2 * stats.norm.sf(abs(gap) / error))))
    for (row, gap, _), p_holm in zip(found, holm([p for _, _, p in found]), strict=True):
        row["compared"] = True
        if gap < 0 and p_holm < 0.05:
            row["gap"] = {"metric": metric, "value": round(gap, 6), "p_holm": p_holm}


def plain_means(table: ScoreTable, metric: str, chosen: np.ndarray) -> dict[str, Any]:
    """{base, tuned, delta} over the `chosen` questions that were scored; None where none was."""
    means = {}
    for system in SYSTEMS:
        values = scores_of(table, system, metric)[chosen]
        values = values[~np.isnan(values)]
        means[system] = round(float(values.mean()), 6) if len(values) else None
    base, tuned = means["base"], means["tuned"]
    return {**means, "delta": None if base is None or tuned is None else round(tuned - base, 6)}


def scores_of(table: ScoreTable, system: str, metric: str) -> np.ndarray:
    """The scores of every question, nan where it was not scored."""
    return table.values.get((system, metric), np.full(len(table.pairs), np.nan))
