"""The same metrics for parts of the questions: by kind, by length, by document; and gaps larger
than chance."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from rag_ft.evaluation.comparisons import ScoreTable, estimate_columns, mean_column
from rag_ft.evaluation.statistics import Estimate, holm
from rag_ft.schema import Document, QAPair

MIN_QUESTIONS = 5  # fewer are shown without an interval, and never named a gap
SYSTEMS = ("base", "tuned")
LONG_QUESTION_WORDS = 12
NO_DOCUMENT = "(no known document)"
MAX_VALUES = 12  # a metadata field with more values than this is an identifier, not a slice


def by_group(
    table: ScoreTable, metrics: list[str], documents: Mapping[str, Document], seed: int
) -> list[dict[str, Any]]:
    """One row per part: {field, part, n, metrics: {metric: {base, tuned, delta, ci95}}, gap,
    compared}.

    `gap` is None or {metric, value, p_holm}: tuned does worse here than on the other questions by
    more than chance allows (Holm over all compared parts), a difference of two means with the
    parts' own standard errors. `compared` is False where that could not be asked: too few questions
    or documents here or elsewhere. What was not scored under a system is None.
    """
    rows = []
    for field, part_of in _fields(table, documents).items():
        parts = np.array([part_of(pair) for pair in table.pairs], dtype=object)
        for part in sorted(set(parts) - {None}, key=str):
            rows.append(_row(table, metrics, field, str(part), parts == part, seed))
    if len(rows) > 1:
        _mark_gaps(rows)
    return [{key: value for key, value in row.items() if not key.startswith("_")} for row in rows]


def by_document(
    table: ScoreTable, metrics: list[str], documents: Mapping[str, Document]
) -> list[dict[str, Any]]:
    """{document, title, n, metrics: {metric: {base, tuned, delta}}}, the largest loss first;
    questions without a known document share a row."""
    rows, names = (
        [],
        np.array([pair.document_id or NO_DOCUMENT for pair in table.pairs], dtype=object),
    )
    for name in dict.fromkeys(names):
        chosen = names == name
        values = {metric: _plain_means(table, metric, chosen) for metric in metrics}
        title = documents[name].title if name in documents else ""
        rows.append({"document": name, "title": title, "n": int(chosen.sum()), "metrics": values})
    return sorted(
        rows, key=lambda row: (row["metrics"][metrics[0]]["delta"] or 0.0, row["document"])
    )


def _fields(
    table: ScoreTable, documents: Mapping[str, Document]
) -> dict[str, Callable[[QAPair], str | None]]:
    """Field name -> the part a question belongs to. Fields with one value only are left out."""
    fields: dict[str, Callable[[QAPair], str | None]] = {
        "kind": lambda pair: pair.kind,
        "origin": lambda pair: pair.origin,
        "question length": lambda pair: _length(pair.question),
    }
    held = [
        documents[i]
        for i in dict.fromkeys(p.document_id or "" for p in table.pairs)
        if i in documents
    ]
    for name in sorted({name for document in held for name in document.metadata}):
        fields[f"document {name}"] = lambda pair, name=name: _metadata(documents, pair, name)  # type: ignore[misc]
    chosen = {}
    for field, part_of in fields.items():
        num = len({part_of(pair) for pair in table.pairs} - {None})
        if 1 < num <= MAX_VALUES:
            chosen[field] = part_of
    return chosen


def _row(
    table: ScoreTable, metrics: list[str], field: str, part: str, chosen: np.ndarray, seed: int
) -> dict[str, Any]:
    values, columns = {}, []
    for metric in metrics:
        base, tuned = (_scores(table, system, metric) for system in SYSTEMS)
        inside = np.where(chosen, tuned - base, np.nan)
        columns += [mean_column(inside), mean_column(np.where(chosen, tuned, np.nan))]
        columns += [mean_column(np.where(chosen, np.nan, tuned))]
    estimates = estimate_columns(table, columns, 2000, seed)
    for i, metric in enumerate(metrics):
        change = estimates[3 * i]
        shown = change.ci95 if change.n >= MIN_QUESTIONS else None
        values[metric] = {
            **_plain_means(table, metric, chosen),
            "ci95": list(shown) if shown else None,
        }
    return {
        "field": field, "part": part, "n": int(chosen.sum()), "metrics": values, "gap": None, "compared": False,
        "_here": estimates[1], "_rest": estimates[2], "_metric": metrics[0],
    }  # fmt: skip


def _mark_gaps(rows: list[dict[str, Any]]) -> None:
    found = [(row, *test) for row in rows if (test := _gap(row["_here"], row["_rest"]))]
    for (row, gap, _), p_holm in zip(found, holm([p for _, _, p in found]), strict=True):
        row["compared"] = True
        if gap < 0 and p_holm < 0.05:
            row["gap"] = {"metric": row["_metric"], "value": round(gap, 6), "p_holm": p_holm}


def _gap(here: Estimate, rest: Estimate) -> tuple[float, float] | None:
    """(gap, p); None where there is too little to tell."""
    from scipy import stats

    error = math.hypot(here.standard_error, rest.standard_error)
    if min(here.n, rest.n) < MIN_QUESTIONS or here.ci95 is None or rest.ci95 is None or not error:
        return None
    gap = here.value - rest.value
    return gap, float(2 * stats.norm.sf(abs(gap) / error))


def _plain_means(table: ScoreTable, metric: str, chosen: np.ndarray) -> dict[str, Any]:
    means = {}
    for system in SYSTEMS:
        values = _scores(table, system, metric)[chosen]
        values = values[~np.isnan(values)]
        means[system] = round(float(values.mean()), 6) if len(values) else None
    base, tuned = means["base"], means["tuned"]
    return {**means, "delta": None if base is None or tuned is None else round(tuned - base, 6)}


def _scores(table: ScoreTable, system: str, metric: str) -> np.ndarray:
    return table.values.get((system, metric), np.full(len(table.pairs), np.nan))


def _length(question: str) -> str:
    num = len(question.split())
    return (
        f"over {LONG_QUESTION_WORDS} words"
        if num > LONG_QUESTION_WORDS
        else f"up to {LONG_QUESTION_WORDS} words"
    )


def _metadata(documents: Mapping[str, Document], pair: QAPair, name: str) -> str | None:
    document = documents.get(pair.document_id or "")
    value = document.metadata.get(name) if document else None
    return str(value) if isinstance(value, str | int | float | bool) else None
