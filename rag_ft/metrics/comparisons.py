"""From scores to tables: each system's metrics with intervals, and the differences that decide."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rag_ft.metrics.answers import ANSWER_METRICS
from rag_ft.metrics.retrieval import RETRIEVAL_METRICS
from rag_ft.metrics.significance import (
    Estimate,
    bootstrap,
    bootstrap_change,
    holm,
    mcnemar,
    more_questions,
    sign_flip,
)
from rag_ft.records import QAPair, Score

# (a, b, halves that must all have been tuned; "g|r": one of them): the difference is b - a. Where they were not, b is a
# itself, or the difference is another pair's once more (with one half tuned, "tuned" is that half): a copy would count
# twice in Holm's correction.
ANSWER_PAIRS = (
    ("base", "tuned_generator", "g"),
    ("base", "tuned_retriever", "r"),
    ("base", "tuned", "gr"),
    ("tuned_retriever", "tuned", "gr"),
    ("tuned_generator", "tuned", "gr"),
    ("closed_book", "base", ""),
    ("closed_book", "closed_book_tuned", "g"),
    ("oracle_base", "oracle_tuned", "g"),
    ("withheld_base", "withheld_tuned", "g"),
    ("base", "ensemble_base", ""),
    ("tuned", "ensemble_tuned", "g|r"),
)
RETRIEVAL_PAIRS = (
    ("base", "tuned", "r"),
    ("lexical", "base", ""),
    ("lexical", "tuned", "r"),
    ("dense_base", "base", ""),
    ("dense_base", "dense_tuned", "r"),
    ("dense_tuned", "tuned", "r"),
)
DECIDING = (
    ("base", "tuned_generator", "f1"),
    ("base", "tuned_retriever", "f1"),
    ("base", "tuned", "f1"),
    ("base", "tuned", "recall@5"),
)
SIDE_METRICS = (
    "faithfulness",
    "faithfulness_judged",
    "similarity",
)  # compared with base alone, where scored
ABSTENTION = ("abstention_precision", "abstention_recall", "abstention_f1")
Column = tuple[np.ndarray, np.ndarray]  # numerators and denominators, one per question


@dataclass(frozen=True)
class ScoreTable:
    """Scores by (system, metric), arrays over `pairs` with NaN where a question has none; `documents` numbers the
    pairs' documents (a question that belongs to none is a document of its own)."""

    pairs: list[QAPair]
    documents: np.ndarray
    values: dict[tuple[str, str], np.ndarray]

    @property
    def systems(self) -> list[str]:
        return list(dict.fromkeys(system for system, _ in self.values))

    def metrics_of(self, system: str) -> list[str]:
        return [metric for name, metric in self.values if name == system]


def make_table(pairs: Sequence[QAPair], scores: Iterable[Score]) -> ScoreTable:
    """The scores of these questions as arrays; scores of others, and questions without scores, are left out."""
    rows, columns = (
        {pair.id: i for i, pair in enumerate(pairs)},
        dict[tuple[str, str], np.ndarray](),
    )
    seen = np.zeros(len(pairs), bool)
    for score in scores:
        row = rows.get(score.question_id)
        if row is not None:
            column = columns.setdefault((score.system, score.metric), np.full(len(pairs), np.nan))
            column[row], seen[row] = score.value, True
    kept = [pair for pair, is_seen in zip(pairs, seen, strict=True) if is_seen]
    numbers: dict[str, int] = {}
    documents = [
        numbers.setdefault(pair.document_id or f"question {pair.id}", len(numbers)) for pair in kept
    ]
    return ScoreTable(
        kept, np.array(documents, int), {key: values[seen] for key, values in columns.items()}
    )


def subset(table: ScoreTable, chosen: np.ndarray) -> ScoreTable:
    """The table of the chosen questions alone: a mask, or row numbers in the order wanted."""
    rows = np.arange(len(table.pairs))[chosen]
    _, documents = np.unique(table.documents[rows], return_inverse=True)
    values = {key: column[rows] for key, column in table.values.items()}
    return ScoreTable([table.pairs[row] for row in rows], documents, values)


def summarise(
    table: ScoreTable, tuned: str, num_resamples: int, seed: int
) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]:
    """(systems, comparisons) as metrics.json has them.

    Args:
        table: scores of the questions to sum up.
        tuned: which halves were really tuned, of the letters g (generator) and r (retriever): where one was not,
            comparing it with base would compare a thing with itself. Every system keeps its levels.
        num_resamples: of the bootstrap.
        seed: of the bootstrap.
    """
    levels = {(s, m): column for s in table.systems for m, column in _columns_of(table, s).items()}
    differences = {(a, b, m): _difference(table, a, b, m) for a, b, m in _pairs(table, tuned)}
    columns = [*levels.values(), *differences.values()]
    estimates = _bootstrap(columns, table.documents, num_resamples, seed)
    systems: dict[str, dict[str, Any]] = {}
    for (system, metric), estimate in zip(levels, estimates, strict=False):
        systems.setdefault(system, {})[metric] = _level(estimate)
    compared = dict(zip(differences, estimates[len(levels) :], strict=True))
    compared |= _abstention_changes(table, tuned, num_resamples, seed)
    return systems, _comparisons(table, compared, num_resamples, seed)


def estimate_columns(
    table: ScoreTable, columns: Sequence[Column], num_resamples: int, seed: int
) -> list[Estimate]:
    """Estimates of columns over the table's questions."""
    return _bootstrap(list(columns), table.documents, num_resamples, seed)


def mean_column(values: np.ndarray) -> Column:
    """A mean over the questions that have a value."""
    return np.nan_to_num(values), (~np.isnan(values)).astype(float)


def _columns_of(table: ScoreTable, system: str) -> dict[str, Column]:
    columns = {m: mean_column(table.values[system, m]) for m in table.metrics_of(system)}
    if "abstained" in columns and not system.startswith(
        "withheld"
    ):  # there refusing is right whatever is asked
        columns |= dict(
            zip(ABSTENTION, _abstention(table, table.values[system, "abstained"]), strict=True)
        )
    return columns


def _abstention(table: ScoreTable, abstained: np.ndarray) -> tuple[Column, Column, Column]:
    """Precision, recall and F1 of abstaining where there is no answer; `abstained` is NaN where not asked."""
    said, asked = mean_column(abstained)
    none = np.array([float(not pair.answerable) for pair in table.pairs]) * asked
    right = said * none
    return (right, said), (right, none), (2 * right, said + none)


def _abstention_changes(
    table: ScoreTable, tuned: str, num_resamples: int, seed: int
) -> dict[tuple[str, str, str], Estimate]:
    """The differences from base in abstention F1, which is no mean over questions, of those that both were asked."""
    changes = {}
    for a, b, halves in ANSWER_PAIRS[:3]:
        first, second = (table.values.get((system, "abstained")) for system in (a, b))
        if first is None or second is None or not _is_own(halves, tuned):
            continue
        both = np.where(np.isnan(first + second), np.nan, 1.0)
        if all(
            pair.answerable for pair, asked in zip(table.pairs, both, strict=True) if asked == 1
        ):
            continue
        before, after = (_stacked([_abstention(table, said * both)[2]]) for said in (first, second))
        changes[a, b, ABSTENTION[2]] = bootstrap_change(
            before, after, table.documents, num_resamples, seed
        )[0]
    return changes


def _stacked(columns: Sequence[Column]) -> tuple[np.ndarray, np.ndarray]:
    tops, bottoms = (np.stack(parts, axis=1) for parts in zip(*columns, strict=True))
    return tops, bottoms


def _pairs(table: ScoreTable, tuned: str) -> list[tuple[str, str, str]]:
    wanted = [
        (a, b, m) for a, b, halves in ANSWER_PAIRS if _is_own(halves, tuned) for m in ANSWER_METRICS
    ]
    wanted += [
        (a, b, m)
        for a, b, halves in ANSWER_PAIRS[:3]
        if _is_own(halves, tuned)
        for m in SIDE_METRICS
    ]
    wanted += [
        (a, b, m)
        for a, b, halves in RETRIEVAL_PAIRS
        if _is_own(halves, tuned)
        for m in RETRIEVAL_METRICS
    ]
    return [(a, b, m) for a, b, m in wanted if (a, m) in table.values and (b, m) in table.values]


def _is_own(halves: str, tuned: str) -> bool:
    """Whether a pair's difference is not nothing, nor another pair's."""
    return any(set(needed) <= set(tuned) for needed in halves.split("|"))


def _difference(table: ScoreTable, a: str, b: str, metric: str) -> Column:
    return mean_column(table.values[b, metric] - table.values[a, metric])


def _bootstrap(
    columns: list[Column], documents: np.ndarray, num_resamples: int, seed: int
) -> list[Estimate]:
    if not columns:
        return []
    return bootstrap(*_stacked(columns), documents, num_resamples, seed)


def _level(estimate: Estimate) -> dict[str, Any]:
    value = None if np.isnan(estimate.value) else _rounded(estimate.value)
    return {"value": value, "ci95": _interval(estimate), "n": estimate.n}


def _comparisons(
    table: ScoreTable, compared: dict[tuple[str, str, str], Estimate], num_resamples: int, seed: int
) -> list[dict[str, Any]]:
    """Holm over the differences that decide as one family; over the others by metric, those from base apart."""
    families: dict[str, list[tuple[str, str, str]]] = {}
    for key in compared:
        families.setdefault(_family(*key), []).append(key)
    corrected: dict[tuple[str, str, str], float] = {}
    for keys in families.values():
        corrected |= dict(zip(keys, holm([_p(compared[key]) for key in keys]), strict=True))
    means = [key for key in compared if key[2] != ABSTENTION[2]]
    if not compared:
        return []
    deltas = np.stack([table.values[b, m] - table.values[a, m] for a, b, m in means], axis=1)
    flips = dict(
        zip(means, map(float, sign_flip(deltas, table.documents, num_resamples, seed)), strict=True)
    )
    family_of = {key: name for name, keys in families.items() for key in keys}
    return [
        _comparison(
            table,
            key,
            estimate,
            corrected[key],
            flips.get(key),
            family_of[key],
            len(families[family_of[key]]),
        )
        for key, estimate in compared.items()
    ]


def _comparison(
    table: ScoreTable, key: tuple[str, str, str], estimate: Estimate, p_holm: float, flip: float | None, family: str,
    size: int,
) -> dict[str, Any]:  # fmt: skip
    a, b, metric = key
    row = {
        "a": a, "b": b, "metric": metric, "delta": _rounded(estimate.value), "ci95": _interval(estimate),
        "p": estimate.p, "p_holm": p_holm, "p_permutation": flip, "n": estimate.n,
        "num_documents": estimate.num_documents, "family": family,
        "more_questions": more_questions(estimate, 0.05 / size) if p_holm >= 0.05 else 0,
    }  # fmt: skip
    if metric == "em":
        both = ~np.isnan(table.values[a, metric] + table.values[b, metric])
        row["p_mcnemar"] = mcnemar(table.values[a, metric][both], table.values[b, metric][both])
    return row


def _family(a: str, b: str, metric: str) -> str:
    if (a, b, metric) in DECIDING:
        return "decides"
    return f"{metric}, from base" if a == "base" and b.startswith("tuned") else f"{metric}, others"


def _p(estimate: Estimate) -> float:
    return 1.0 if estimate.p is None else estimate.p


def _interval(estimate: Estimate) -> list[float] | None:
    return None if estimate.ci95 is None else [_rounded(bound) for bound in estimate.ci95]


def _rounded(value: float) -> float:
    return round(value, 6)
