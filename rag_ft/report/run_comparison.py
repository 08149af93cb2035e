"""What the evaluations of several runs say together: the same questions paired across runs, seeds
of one training averaged, or folds pooled.

Runs that asked the same questions: {"kind": "paired", "runs", "questions", "documents",
"sentences", "levels": {run: {system: {metric: level}}}, "differences": [{a, b, system, metric,
delta, ci95, p, p_holm, n, more_questions}]}, over the shared questions alone, Holm over all
differences. Systems that need a component that no run tuned are left out.

Such runs that differ in nothing but run.seed: {"kind": "seeds", "runs", "questions", "documents",
"systems", "comparisons", "verdict", "parts": [{run, questions, metric: {base, tuned}}], "spread":
{metric: {mean, sd, low, high} of the parts' gains}}; the score of a question is its mean over the
seeds. Runs that asked different questions: the same with {"kind": "folds"}, all questions pooled.

"sentences", or the notes of the verdict, name runs without a component that others tuned.
"""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
import yaml

from rag_ft.errors import DataError
from rag_ft.evaluation.comparisons import (
    ScoreTable,
    completed,
    estimate_columns,
    make_table,
    mean_column,
    subset,
    summarise,
)
from rag_ft.evaluation.components import COMPONENTS, set_words
from rag_ft.evaluation.metric_table import (
    DECIDING_ANSWER,
    DECIDING_RETRIEVAL,
    LABELS,
    METRICS,
    foremost,
    in_family,
)
from rag_ft.evaluation.statistics import holm, more_questions, spread
from rag_ft.evaluation.systems import (
    SYSTEMS,
    System,
    distinct,
    ranking_name,
)
from rag_ft.evaluation.verdict import described, points, verdict
from rag_ft.report.run_data import tuned_components
from rag_ft.run_dir import RunDir
from rag_ft.schema import QAPair, Score
from rag_ft.storage import read_jsonl
from rag_ft.text import normalise_question

COMPARED_SYSTEMS = tuple(system for system in SYSTEMS if system.context in ("retrieved", "oracle"))
COMPARED_METRICS = foremost(in_family("answer", "retrieval"), 4)
MAX_MIXED_SHARE = 0.05  # of questions that folds may share: documents may ask the same

Key = tuple[System, str]


def comparison(
    run_dirs: Sequence[RunDir], num_resamples: int = 10_000, seed: int = 0
) -> dict[str, Any]:
    """The comparison of the runs, as above.

    Raises:
        DataError: fewer than two runs, one is no run folder or not evaluated, or they overlap too
            little to pair and too much to pool.
    """
    if len(run_dirs) < 2:
        raise DataError("comparing takes two or more run folders")
    # Runs go by the names of their folders, or by whole paths where two have the same name.
    names = [run_dir.path.name for run_dir in run_dirs]
    if len(set(names)) < len(names):
        names = [str(run_dir.path) for run_dir in run_dirs]
    if len(set(names)) < len(names):
        raise DataError(f"a run folder is named twice: {', '.join(names)}; name each one once")
    tables = [load_table(run_dir) for run_dir in run_dirs]

    # A component counts as tuned where some run tuned it; a run without it is named.
    shipped = [tuned_components(run_dir) for run_dir in run_dirs]
    tuned = frozenset[str]().union(*shipped)
    tables = [completed(*one, tuned) for one in zip(tables, shipped, strict=True)]
    notes = []
    for component in COMPONENTS:
        without = [run for run, has in zip(names, shipped, strict=True) if component not in has]
        if 0 < len(without) < len(names):
            notes.append(
                f"No tuned {component} was shipped in {', '.join(without)}: "
                "the base one stands in its place and counts as tuned."
            )

    # Ids depend on chunks and on the generator; a question and its document do not.
    asked = []
    for table in tables:
        keys = [(normalise_question(pair.question), pair.document_id) for pair in table.pairs]
        asked.append({key: row for row, key in enumerate(keys)})
    shared = set(asked[0]).intersection(*asked[1:])
    smallest = min(len(keys) for keys in asked)

    # The same questions are paired; different ones are folds; in between there is no answer.
    if len(shared) > smallest / 2:
        rows = [np.array([keys[key] for key in sorted(shared, key=str)]) for keys in asked]
        same = [subset(table, chosen) for table, chosen in zip(tables, rows, strict=True)]
        if only_seeds_differ(run_dirs):
            return together("seeds", names, same, tuned, notes, num_resamples, seed)
        return paired(names, same, tuned, notes, num_resamples, seed)
    mixed = [len(set(a) & set(b)) for a, b in itertools.combinations(asked, 2)]
    if max(mixed) <= MAX_MIXED_SHARE * smallest:
        return together("folds", names, tables, tuned, notes, num_resamples, seed)
    raise DataError(
        f"the runs share only {len(shared)} of {smallest} questions: too few to pair, too many to "
        "be folds; evaluate them with the same questions, or with different ingest.advanced.fold"
    )


def load_table(run_dir: RunDir) -> ScoreTable:
    """The scores of a run's test questions.

    Raises:
        DataError: no run folder, or it is not evaluated.
    """
    if not run_dir.path.is_dir():
        raise DataError(f"{run_dir.path} is no run folder: name a folder that `rag-ft run` wrote")
    pairs = [pair for pair in read_jsonl(run_dir.qa, QAPair) if pair.split == "test"]
    table = make_table(pairs, read_jsonl(run_dir.scores, Score))
    if not table.pairs:
        raise DataError(
            f"{run_dir.scores} scores no test question: run evaluate in {run_dir.path} first"
        )
    return table


def only_seeds_differ(run_dirs: Sequence[RunDir]) -> bool:
    """Whether the runs are one configuration under several seeds: all settings are equal but the
    run's own name, place and seed."""
    seeds, settings = [], []
    for run_dir in run_dirs:
        values = {}
        if run_dir.config.exists():
            values = yaml.safe_load(run_dir.config.read_text(encoding="utf-8"))
        seeds.append(values.get("run", {}).get("seed"))
        settings.append({k: value for k, value in values.items() if k not in ("name", "run")})
    differ = None not in seeds and len(set(seeds)) == len(seeds)
    return differ and all(other == settings[0] for other in settings)


def paired(
    names: list[str],
    tables: list[ScoreTable],
    tuned: Collection[str],
    notes: list[str],
    num_resamples: int,
    seed: int,
) -> dict[str, Any]:
    """The comparison of tables whose rows are the same questions."""
    systems = distinct(COMPARED_SYSTEMS, tuned)
    possible = itertools.product(systems, COMPARED_METRICS)
    keys: list[Key] = [
        key for key in possible if all(scores_of(t, *key, tuned) is not None for t in tables)
    ]
    # Systems that read one ranking share its recall: that of its name is tested.
    reads = {system: ranking_name(system.tuned, tuned) for system in systems}
    testers = {reads[s]: s for s in sorted(systems, key=lambda s: s.name == reads[s])}
    tested = [(s, m) for s, m in keys if not is_retrieval(m) or testers[reads[s]] == s]

    # One bootstrap estimates all levels, and then all changes from the first run.
    levels = [(run, *key) for run in range(len(names)) for key in keys]
    changes = [(run, *key) for run in range(1, len(names)) for key in tested]
    columns = [mean_column(scores_of(tables[run], system, m, tuned)) for run, system, m in levels]
    for run, system, metric in changes:
        now, first = (scores_of(tables[n], system, metric, tuned) for n in (run, 0))
        columns.append(mean_column(now - first))
    estimates = estimate_columns(tables[0], columns, num_resamples, seed)

    # The levels of each run and system, for the table.
    by_run: dict[str, Any] = {name: {} for name in names}
    for (run, system, metric), e in zip(levels, estimates, strict=False):
        level = {"value": round(e.value, 6), "ci95": e.ci95, "n": e.n}
        by_run[names[run]].setdefault(system.name, {})[metric] = level

    # The changes from the first run, as one family of tests.
    of_changes = estimates[len(levels) :]
    corrected = holm([1.0 if estimate.p is None else estimate.p for estimate in of_changes])
    differences = []
    for (run, system, metric), e, p_holm in zip(changes, of_changes, corrected, strict=True):
        row = {
            "a": names[0],
            "b": names[run],
            "system": system.name,
            "metric": metric,
            "delta": round(e.value, 6),
            "ci95": e.interval(6),
            "p": e.p,
            "p_holm": p_holm,
            "n": e.n,
            "more_questions": 0 if p_holm < 0.05 else more_questions(e),
        }
        differences.append(row)
    return {
        "kind": "paired",
        "runs": names,
        **size(tables[0]),
        "sentences": sentences(systems, differences) + notes,
        "levels": by_run,
        "differences": differences,
    }


def sentences(systems: Sequence[System], differences: list[dict[str, Any]]) -> list[str]:
    """How the system with the most tuned components in each other run differs from the first run:
    in F1, or in recall where no answers were scored."""
    compared = {row["system"] for row in differences}
    # Systems go from base to most tuned.
    subject = next((s for s in reversed(systems) if s.is_retrieved and s.name in compared), None)
    if subject is None:
        return []
    words = set_words(subject.tuned) if len(subject.tuned) == 1 else f"the {subject.name} system"
    rows = [row for row in differences if row["system"] == subject.name]
    is_answered = any(row["metric"] == DECIDING_ANSWER for row in rows)
    metric = DECIDING_ANSWER if is_answered else DECIDING_RETRIEVAL
    return [
        f"{words[0].upper()}{words[1:]}, {row['b']} against {row['a']}: {described(row)}."
        for row in rows
        if row["metric"] == metric
    ]


def together(
    kind: str,
    names: list[str],
    tables: list[ScoreTable],
    tuned: Collection[str],
    notes: list[str],
    num_resamples: int,
    seed: int,
) -> dict[str, Any]:
    """The comparison of seeds or folds: one verdict over all runs, each run's own means, and their
    spread."""
    whole = averaged(tables) if kind == "seeds" else pooled(tables)
    systems, comparisons = summarise(whole, tuned, num_resamples, seed)

    # Plain means of base and tuned in each run, and the gain from base to tuned.
    parts = []
    for name, table in zip(names, tables, strict=True):
        part: dict[str, Any] = {"run": name, "questions": len(table.pairs)}
        for metric in COMPARED_METRICS:
            scores = {state: table.values.get((state, metric)) for state in ("base", "tuned")}
            means = {}
            for state, values in scores.items():
                if values is not None and not np.isnan(values).all():
                    means[state] = float(np.nanmean(values))
            if len(means) == 2:
                part[metric] = means
        parts.append(part)
    gains = {}
    for metric in COMPARED_METRICS:
        if all(metric in part for part in parts):
            gains[metric] = spread([part[metric]["tuned"] - part[metric]["base"] for part in parts])

    # Intervals resample questions, not trainings: a note tells how much one training varies.
    said = verdict(comparisons, tuned, ("base", DECIDING_ANSWER) in whole.values)
    said["notes"] += notes
    metric = DECIDING_ANSWER if DECIDING_ANSWER in gains else DECIDING_RETRIEVAL
    if gain := gains.get(metric):
        said["notes"].append(
            f"Single {kind} gain from {points(gain['low'])} to {points(gain['high'])} "
            f"{LABELS[metric]} (standard deviation {100 * gain['sd']:.1f} over {len(names)}): "
            "one training may bring any of these."
        )
    return {
        "kind": kind,
        "runs": names,
        **size(whole),
        "systems": systems,
        "comparisons": comparisons,
        "parts": parts,
        "spread": gains,
        "verdict": said,
    }


def averaged(tables: list[ScoreTable]) -> ScoreTable:
    """Each question's scores averaged over the runs, so that chance in training becomes part of the
    score."""
    values = {}
    for key in shared_keys(tables):
        values[key] = np.mean([table.values[key] for table in tables], axis=0)
    return ScoreTable(tables[0].pairs, tables[0].documents, values)


def pooled(tables: list[ScoreTable]) -> ScoreTable:
    """All runs' questions; a document of two runs counts as two."""
    starts = itertools.accumulate((int(t.documents.max()) + 1 for t in tables), initial=0)
    documents = [table.documents + start for table, start in zip(tables, starts, strict=False)]
    values = {}
    for key in shared_keys(tables):
        values[key] = np.concatenate([table.values[key] for table in tables])
    pairs = [pair for table in tables for pair in table.pairs]
    return ScoreTable(pairs, np.concatenate(documents), values)


def shared_keys(tables: Sequence[ScoreTable]) -> list[tuple[str, str]]:
    """The (system, metric) that every run scored."""
    return [key for key in tables[0].values if all(key in table.values for table in tables)]


def scores_of(table: ScoreTable, system: System, metric: str, tuned: Collection[str]) -> Any:
    """The scores of a system; a system that retrieves has the recall of the ranking it reads."""
    of_ranking = is_retrieval(metric) and system.is_retrieved
    return table.values.get(
        (ranking_name(system.tuned, tuned) if of_ranking else system.name, metric)
    )


def is_retrieval(metric: str) -> bool:
    """Whether a metric is one of rankings."""
    return METRICS[metric].family == "retrieval"


def size(table: ScoreTable) -> dict[str, int]:
    """{questions, documents}; questions without a known document count for no document."""
    documents = {pair.document_id for pair in table.pairs} - {None}
    return {"questions": len(table.pairs), "documents": len(documents)}
