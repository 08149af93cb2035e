"""From scores to tables: each system's metrics with intervals, and the differences between
systems."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rag_ft.evaluation.metric_table import (
    ABSTENTION_F1,
    DECIDING_ANSWER,
    DECIDING_RETRIEVAL,
    EXACT_MATCH,
    in_family,
)
from rag_ft.evaluation.statistics import (
    Estimate,
    bootstrap,
    bootstrap_change,
    holm,
    mcnemar,
    more_questions,
    sign_flip,
)
from rag_ft.evaluation.systems import (
    ENSEMBLES,
    RANKINGS,
    SERVED,
    SYSTEMS,
    TUNED_SYSTEMS,
    Ranking,
    System,
    distinct_rankings,
    ranking_name,
    shown_systems,
)
from rag_ft.schema import QAPair, Score

# (a, b): the difference is b - a. Those from base come first; the verdict rests on them.
FROM_BASE = tuple(("base", system.name) for system in TUNED_SYSTEMS)
ANSWER_PAIRS = (
    *FROM_BASE,
    *((system.name, "tuned") for system in TUNED_SYSTEMS[:-1]),
    ("closed_book", "base"),
    ("closed_book", "closed_book_tuned"),
    ("oracle_base", "oracle_tuned"),
    ("withheld_base", "withheld_tuned"),
    ("base", "ensemble_base"),
    ("tuned", "ensemble_tuned"),
)
RETRIEVAL_PAIRS = (
    *(("base", name) for name in SERVED if name != "base"),
    ("lexical", "base"),
    ("lexical", "tuned"),
    ("dense_base", "base"),
    ("dense_base", "dense_tuned"),
    ("dense_tuned", "tuned"),
    *((name, "tuned") for name in SERVED if name not in ("base", "tuned")),
)
DECIDING = (
    *((a, b, DECIDING_ANSWER) for a, b in FROM_BASE),
    *(("base", name, DECIDING_RETRIEVAL) for name in SERVED if name != "base"),
)
# Compared with base alone, where they are scored.
SIDE_METRICS = in_family("support", "similarity")
ABSTENTION = in_family("abstention")
CELLS = {system.name: system for system in (*SYSTEMS, *ENSEMBLES)}
Key = tuple[str, str, str]  # a, b and the metric of a comparison
Column = tuple[np.ndarray, np.ndarray]  # numerators and denominators, one per question


@dataclass(frozen=True)
class ScoreTable:
    """Scores by (system, metric), as arrays over `pairs` with NaN where a question has none.
    `documents` (num_pairs,) numbers the pairs' documents; a question without a document counts as
    one of its own."""

    pairs: list[QAPair]
    documents: np.ndarray
    values: dict[tuple[str, str], np.ndarray]

    @property
    def systems(self) -> list[str]:
        """The systems that have a score, in the order of the scores."""
        return list(dict.fromkeys(system for system, _ in self.values))

    def metrics_of(self, system: str) -> list[str]:
        """The metrics that a system has a score of."""
        return [metric for name, metric in self.values if name == system]


def make_table(pairs: Sequence[QAPair], scores: Iterable[Score]) -> ScoreTable:
    """The scores of these questions as arrays. Scores of other questions, and questions without a
    score, are left out."""
    rows = {pair.id: i for i, pair in enumerate(pairs)}
    columns: dict[tuple[str, str], np.ndarray] = {}
    seen = np.zeros(len(pairs), bool)
    for score in scores:
        row = rows.get(score.question_id)
        if row is not None:
            column = columns.get((score.system, score.metric))
            if column is None:
                column = columns[score.system, score.metric] = np.full(len(pairs), np.nan)
            column[row], seen[row] = score.value, True
    kept = [pair for pair, is_seen in zip(pairs, seen, strict=True) if is_seen]
    numbers: dict[str, int] = {}
    documents = [
        numbers.setdefault(pair.document_id or f"question {pair.id}", len(numbers)) for pair in kept
    ]
    values = {key: column[seen] for key, column in columns.items()}
    return ScoreTable(kept, np.array(documents, int), values)


def subset(table: ScoreTable, chosen: np.ndarray) -> ScoreTable:
    """The table of the chosen questions alone.

    `chosen` is a mask over the table's questions, or their row numbers in the order wanted. The
    documents are numbered anew.
    """
    rows = np.arange(len(table.pairs))[chosen]
    _, documents = np.unique(table.documents[rows], return_inverse=True)
    values = {key: column[rows] for key, column in table.values.items()}
    return ScoreTable([table.pairs[row] for row in rows], documents, values)


def completed(table: ScoreTable, own: Collection[str], tuned: Collection[str]) -> ScoreTable:
    """The table of a run that tuned the components `own`, with what a run leaves out where it
    repeats another row, so that it has all rows of runs that tuned the components `tuned`."""
    same = {name: ranking_name(SERVED[name].tuned, own) for name in SERVED}
    missing = {name: same[name] for name in distinct_rankings(tuned) if name in SERVED}
    # A system with a tuned component that this run does not have is the base.
    left_out = {s.name for s in shown_systems(tuned)} - {s.name for s in shown_systems(own)}
    values = dict(table.values)
    for (system, metric), column in table.values.items():
        others = left_out if system == "base" else set[str]()
        if metric in in_family("retrieval"):
            others = {name for name, repeated in missing.items() if repeated == system}
        for name in others:
            values.setdefault((name, metric), column)
    return ScoreTable(table.pairs, table.documents, values)


def summarise(
    table: ScoreTable, tuned: Collection[str], num_resamples: int, seed: int
) -> tuple[dict[str, dict[str, Any]], list[dict[str, Any]]]:
    """(systems, comparisons) as in metrics.json.

    Args:
        table: scores of the questions to sum up.
        tuned: the components that were tuned. A system that needs another one repeats an earlier
            system: its values are shown, and it is not compared.
        num_resamples: of the bootstrap.
        seed: of the bootstrap.
    """
    # A system's own values: means over the questions, and the ratios of abstention.
    levels: dict[tuple[str, str], Column] = {}
    for system in table.systems:
        for metric in table.metrics_of(system):
            levels[system, metric] = mean_column(table.values[system, metric])
        abstained = table.values.get((system, "abstained"))
        # Where the gold chunk is withheld, abstaining is always right.
        if abstained is not None and not system.startswith("withheld"):
            ratios = zip(ABSTENTION, _abstention(table, abstained), strict=True)
            levels |= {(system, metric): column for metric, column in ratios}

    # The differences: means over the questions that both systems were asked.
    answers = _distinct_pairs(ANSWER_PAIRS, CELLS, tuned)
    rankings = _distinct_pairs(RETRIEVAL_PAIRS, RANKINGS, tuned)
    wanted = [(a, b, m) for a, b in answers for m in in_family("answer")]
    wanted += [(a, b, m) for a, b in answers if (a, b) in FROM_BASE for m in SIDE_METRICS]
    wanted += [(a, b, m) for a, b in rankings for m in in_family("retrieval")]
    differences: dict[Key, np.ndarray] = {}
    for a, b, metric in wanted:
        if (a, metric) in table.values and (b, metric) in table.values:
            differences[a, b, metric] = table.values[b, metric] - table.values[a, metric]

    # All are resampled together, with the same draws.
    columns = [*levels.values(), *map(mean_column, differences.values())]
    estimates = estimate_columns(table, columns, num_resamples, seed)
    systems: dict[str, dict[str, Any]] = {}
    for (system, metric), estimate in zip(levels, estimates, strict=False):
        value = None if np.isnan(estimate.value) else round(estimate.value, 6)
        row = {"value": value, "ci95": estimate.interval(6), "n": estimate.n}
        systems.setdefault(system, {})[metric] = row
    compared = dict(zip(differences, estimates[len(levels) :], strict=True))
    compared |= _abstention_changes(table, tuned, num_resamples, seed)
    if not compared:
        return systems, []
    return systems, _comparisons(table, compared, num_resamples, seed)


def estimate_columns(
    table: ScoreTable, columns: Sequence[Column], num_resamples: int, seed: int
) -> list[Estimate]:
    """One Estimate per column, in their order; documents are resampled with the same draws for all.

    A column is (numerators, denominators), arrays over the table's questions; see `bootstrap`.
    """
    if not columns:
        return []
    return bootstrap(*_stacked(columns), table.documents, num_resamples, seed)


def mean_column(values: np.ndarray) -> Column:
    """A mean over the questions that have a value."""
    return np.nan_to_num(values), (~np.isnan(values)).astype(float)


def _abstention(table: ScoreTable, abstained: np.ndarray) -> tuple[Column, Column, Column]:
    """Precision, recall and F1 of abstaining where the documents contain no answer; `abstained` is
    NaN where the question was not asked."""
    said, asked = mean_column(abstained)
    none = np.array([float(not pair.answerable) for pair in table.pairs]) * asked
    right = said * none
    return (right, said), (right, none), (2 * right, said + none)


def _abstention_changes(
    table: ScoreTable, tuned: Collection[str], num_resamples: int, seed: int
) -> dict[Key, Estimate]:
    """The differences from base in abstention F1, over the questions that both systems were asked.
    Being no mean over questions, they have a bootstrap of their own."""
    answerable = np.array([pair.answerable for pair in table.pairs], bool)
    changes = {}
    for a, b in _distinct_pairs(FROM_BASE, CELLS, tuned):
        first, second = (table.values.get((system, "abstained")) for system in (a, b))
        if first is None or second is None:
            continue
        both = np.where(np.isnan(first + second), np.nan, 1.0)
        # Without an unanswerable question there is nothing to recognise.
        if answerable[both == 1].all():
            continue
        before = _stacked([_abstention(table, first * both)[-1]])
        after = _stacked([_abstention(table, second * both)[-1]])
        [change] = bootstrap_change(before, after, table.documents, num_resamples, seed)
        changes[a, b, ABSTENTION_F1] = change
    return changes


def _stacked(columns: Sequence[Column]) -> tuple[np.ndarray, np.ndarray]:
    tops, bottoms = (np.stack(parts, axis=1) for parts in zip(*columns, strict=True))
    return tops, bottoms


def _distinct_pairs(
    pairs: Iterable[tuple[str, str]], rows: Mapping[str, System | Ranking], tuned: Collection[str]
) -> list[tuple[str, str]]:
    """The pairs of two different systems, without those that repeat an earlier pair: with a
    component untuned, systems that use it equal others, and a copy would count twice in Holm's
    correction."""
    # What a system really is: what it shows, and which of its components were tuned.
    real = {name: (row.context, row.tuned & frozenset(tuned)) for name, row in rows.items()}
    found: dict[tuple[object, object], tuple[str, str]] = {}
    for a, b in pairs:
        first, second = real[a], real[b]
        if first != second:
            found.setdefault((first, second), (a, b))
    return list(found.values())


def _comparisons(
    table: ScoreTable, compared: dict[Key, Estimate], num_resamples: int, seed: int
) -> list[dict[str, Any]]:
    """The rows of `comparisons` in metrics.json."""
    # Holm: the deciding differences are one family; of the others each metric has two, that of the
    # differences from base and that of the rest.
    families: dict[str, list[Key]] = {}
    for key in compared:
        families.setdefault(_family(*key), []).append(key)
    corrected: dict[Key, float] = {}
    for keys in families.values():
        p_values = [1.0 if (p := compared[key].p) is None else p for key in keys]
        corrected |= dict(zip(keys, holm(p_values), strict=True))

    # Sign flips take means over questions, which abstention F1 is not.
    means = [key for key in compared if key[2] != ABSTENTION_F1]
    deltas = np.stack([table.values[b, m] - table.values[a, m] for a, b, m in means], axis=1)
    flips = sign_flip(deltas, table.documents, num_resamples, seed)
    permuted = dict(zip(means, map(float, flips), strict=True))

    rows = []
    for key, estimate in compared.items():
        (a, b, metric), family, p_holm = key, _family(*key), corrected[key]
        alpha = 0.05 / len(families[family])
        row = {
            "a": a,
            "b": b,
            "metric": metric,
            "delta": round(estimate.value, 6),
            "ci95": estimate.interval(6),
            "p": estimate.p,
            "p_holm": p_holm,
            "p_permutation": permuted.get(key),
            "n": estimate.n,
            "num_documents": estimate.num_documents,
            "family": family,
            "more_questions": 0 if p_holm < 0.05 else more_questions(estimate, alpha),
        }
        if metric == EXACT_MATCH:
            first, second = table.values[a, metric], table.values[b, metric]
            both = ~np.isnan(first + second)
            row["p_mcnemar"] = mcnemar(first[both], second[both])
        rows.append(row)
    return rows


def _family(a: str, b: str, metric: str) -> str:
    if (a, b, metric) in DECIDING:
        return "decides"
    return f"{metric}, from base" if a == "base" and b.startswith("tuned") else f"{metric}, others"
