"""Several runs side by side: the same questions paired across runs, seeds of one training averaged,
or folds pooled."""

from __future__ import annotations

import argparse
import itertools
import json
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from rag_ft.errors import ConfigError, DataError
from rag_ft.evaluation.comparisons import (
    ScoreTable,
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
    foremost,
    in_family,
)
from rag_ft.evaluation.metric_table import METRICS as METRIC_TABLE
from rag_ft.evaluation.statistics import Estimate, holm, more_questions, spread
from rag_ft.evaluation.systems import RETRIEVERS, SYSTEMS, System, distinct
from rag_ft.evaluation.verdict import described, points, verdict
from rag_ft.freshness import check_files
from rag_ft.report.rendering import aligned, environment, style
from rag_ft.report.run_data import tuned_components
from rag_ft.run_dir import RunDir
from rag_ft.schema import QAPair, Score
from rag_ft.stage_table import NAMES
from rag_ft.storage import read_jsonl, write_text
from rag_ft.text import normalise_question

ROWS = tuple(system for system in SYSTEMS if system.context in ("retrieved", "oracle"))
METRICS = foremost(in_family("answer", "retrieval"), 4)
MAX_MIXED_SHARE = 0.05  # of questions that folds may share, by documents that ask the same

Key = tuple[System, str]


def compare(runs: Sequence[Path], page: Path) -> str:
    """Compares run folders, writes the page (and its data beside it as .json), and returns the
    table for a terminal.

    Raises:
        ConfigError: the page would have the name of its data.
        DataError: as `comparison`.
    """
    if page.suffix.lower() == ".json":
        raise ConfigError(
            f"--to names the page, its data is written beside it as .json: not {page}, but a .html"
        )
    result = comparison([RunDir(path) for path in runs])
    write_comparison(result, page)
    return comparison_table(result)


def comparison(
    run_dirs: Sequence[RunDir], num_resamples: int = 10_000, seed: int = 0
) -> dict[str, Any]:
    """What the runs' evaluations say together.

    Where they asked the same questions: {"kind": "paired", "runs", "questions", "documents",
    "sentences", "levels": {run: {system: {metric: level}}}, "differences": [{a, b, system, metric,
    delta, ci95, p, p_holm, n}]}, over the shared questions alone, Holm over all differences.
    Systems that need a component that no run tuned are left out.

    Where these runs differ in nothing but run.seed: {"kind": "seeds", "systems", "comparisons",
    "verdict", "parts": [{run, questions, metric: {base, tuned}}], "spread": {metric: {mean, sd,
    low, high} of the parts' gains}}, each question's score being its mean over the seeds. Where
    they asked different questions, the same with {"kind": "folds"} and all questions pooled.

    Runs in which a component was not shipped that others tuned are named, in "sentences" or the
    verdict's notes.

    Raises:
        DataError: fewer than two runs, one is no run folder or not evaluated, or they overlap too
        little to pair and
            too much to pool.
    """
    if len(run_dirs) < 2:
        raise DataError("comparing takes two or more run folders")
    names = _names(run_dirs)
    tables = [_load(run_dir) for run_dir in run_dirs]
    asked = [{_key(pair): row for row, pair in enumerate(table.pairs)} for table in tables]
    shared = set(asked[0]).intersection(*asked[1:])
    smallest = min(len(keys) for keys in asked)
    shipped = [tuned_components(run_dir) for run_dir in run_dirs]
    tuned, notes = frozenset[str]().union(*shipped), _not_shipped(names, shipped)
    if len(shared) > smallest / 2:
        rows = [np.array([keys[key] for key in sorted(shared, key=str)]) for keys in asked]
        same = [subset(table, chosen) for table, chosen in zip(tables, rows, strict=True)]
        if _only_seeds_differ(run_dirs):
            return _together(
                "seeds", names, same, _averaged(same), tuned, notes, num_resamples, seed
            )
        return _paired(names, same, tuned, notes, num_resamples, seed)
    if all(
        len(set(a) & set(b)) <= MAX_MIXED_SHARE * smallest
        for a, b in itertools.combinations(asked, 2)
    ):
        return _together("folds", names, tables, _pooled(tables), tuned, notes, num_resamples, seed)
    raise DataError(
        f"the runs share only {len(shared)} of {smallest} questions: too few to pair, too many to "
        "be folds; evaluate them with the same questions, or with different ingest.advanced.fold"
    )


def comparison_table(result: dict[str, Any]) -> str:
    """The result of `comparison` for a terminal."""
    if result["kind"] != "paired":
        return "\n".join(
            [*_part_lines(result), "", result["verdict"]["sentence"], *result["verdict"]["notes"]]
        )
    rows = [["run", "system", *(LABELS[metric] for metric in METRICS)]]
    for run in result["runs"]:
        for system in result["levels"][run]:
            rows.append([run, system, *(_cell(result, run, system, metric) for metric in METRICS)])
    asked = f"{result['questions']} shared questions about {result['documents']} documents"
    head = f"{asked}; change from the first run"
    return "\n".join([head, *aligned(rows), "", *result["sentences"]])


def write_comparison(result: dict[str, Any], path: Path) -> None:
    """One self-contained page beside the data: `path` (.html) and the same name with .json."""
    columns = {metric: LABELS[metric] for metric in METRICS}
    cells = [system.name for system in SYSTEMS if system.context != "withheld"]
    page = {"result": result, "metrics": columns, "rows": dict.fromkeys([*cells, *RETRIEVERS])}
    html = environment().get_template("compare.html").render(page, style=style())
    write_text(path, html)
    write_text(path.with_suffix(".json"), json.dumps(result, indent=1, ensure_ascii=False) + "\n")


def _names(run_dirs: Sequence[RunDir]) -> list[str]:
    """The folders' own names, or whole paths where two have the same."""
    short = [run_dir.path.name for run_dir in run_dirs]
    names = short if len(set(short)) == len(short) else [str(run_dir.path) for run_dir in run_dirs]
    if len(set(names)) < len(names):
        raise DataError(f"a run folder is named twice: {', '.join(names)}")
    return names


def _not_shipped(names: list[str], shipped: Sequence[Collection[str]]) -> list[str]:
    """Of each component that some runs tuned, the runs that went without."""
    notes = []
    for component in COMPONENTS:
        without = [run for run, tuned in zip(names, shipped, strict=True) if component not in tuned]
        if 0 < len(without) < len(names):
            notes.append(
                f"No tuned {component} was shipped in {', '.join(without)}: "
                "the base one stands in its place and counts as tuned."
            )
    return notes


def _load(run_dir: RunDir) -> ScoreTable:
    if not run_dir.path.is_dir():
        raise DataError(
            f"{run_dir.path} is no run folder: name the folders that `rag-ft run` wrote"
        )
    pairs = [pair for pair in read_jsonl(run_dir.qa, QAPair) if pair.split == "test"]
    table = make_table(pairs, read_jsonl(run_dir.scores, Score))
    if not table.pairs:
        raise DataError(
            f"{run_dir.scores} scores no test question: run evaluate in {run_dir.path} first"
        )
    return table


def _key(pair: QAPair) -> tuple[str, str | None]:
    """Runs with other chunks or generators give other ids: the question and its document are what
    stays."""
    return normalise_question(pair.question), pair.document_id


def _only_seeds_differ(run_dirs: Sequence[RunDir]) -> bool:
    """Whether the runs are one configuration under several seeds."""
    seeds, settings = zip(*(_settings(run_dir) for run_dir in run_dirs), strict=True)
    distinct = None not in seeds and len(set(seeds)) == len(seeds)
    return distinct and all(other == settings[0] for other in settings)


def _settings(run_dir: RunDir) -> tuple[int | None, dict[str, Any]]:
    """(the seed, all settings but the run's own name, place and seed)."""
    values = (
        yaml.safe_load(run_dir.config.read_text(encoding="utf-8"))
        if run_dir.config.exists()
        else {}
    )
    seed = values.get("run", {}).get("seed")
    return seed, {key: value for key, value in values.items() if key not in ("name", "run")}


def _paired(
    names: list[str],
    tables: list[ScoreTable],
    tuned: Collection[str],
    notes: list[str],
    num_resamples: int,
    seed: int,
) -> dict[str, Any]:
    """Of tables whose rows are the same questions."""
    values = [table.values for table in tables]
    systems = distinct(ROWS, tuned)
    keys = [
        (system, metric)
        for system, metric in itertools.product(systems, METRICS)
        if all(_value(v, system, metric) is not None for v in values)
    ]
    # Systems that read one ranking share its recall: that of the system with the ranking's name is
    # tested.
    testers = {s.ranking: s for s in sorted(systems, key=lambda s: s.name == s.ranking)}
    tested = [(s, m) for s, m in keys if not _is_retrieval(m) or testers[s.ranking] == s]
    levels = [(run, key) for run in range(len(names)) for key in keys]
    changes = [(run, key) for run in range(1, len(names)) for key in tested]
    columns = [mean_column(_value(values[run], *key)) for run, key in levels]
    columns += [
        mean_column(_value(values[run], *key) - _value(values[0], *key)) for run, key in changes
    ]
    estimates = estimate_columns(tables[0], columns, num_resamples, seed)
    of_changes = list(zip(changes, estimates[len(levels) :], strict=True))
    differences = _differences(names, of_changes)
    return {
        "kind": "paired",
        "runs": names,
        **_size(tables[0]),
        "sentences": _sentences(systems, differences) + notes,
        "levels": _levels(names, dict(zip(levels, estimates, strict=False))),
        "differences": differences,
    }


def _sentences(systems: Sequence[System], differences: list[dict[str, Any]]) -> list[str]:
    """What the system with the most tuned components does in each other run against the first one:
    by F1, where there is none by recall."""
    compared = {row["system"] for row in differences}
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


def _size(table: ScoreTable) -> dict[str, int]:
    return {
        "questions": len(table.pairs),
        "documents": len({pair.document_id for pair in table.pairs} - {None}),
    }


def _levels(names: list[str], estimates: dict[tuple[int, Key], Estimate]) -> dict[str, Any]:
    levels: dict[str, Any] = {name: {} for name in names}
    for (run, (system, metric)), estimate in estimates.items():
        level = {"value": round(estimate.value, 6), "ci95": estimate.ci95, "n": estimate.n}
        levels[names[run]].setdefault(system.name, {})[metric] = level
    return levels


def _differences(
    names: list[str], changes: list[tuple[tuple[int, Key], Estimate]]
) -> list[dict[str, Any]]:
    corrected = holm([1.0 if estimate.p is None else estimate.p for _, estimate in changes])
    return [
        {
            "a": names[0],
            "b": names[run],
            "system": system.name,
            "metric": metric,
            "delta": round(estimate.value, 6),
            "ci95": [round(bound, 6) for bound in estimate.ci95] if estimate.ci95 else None,
            "p": estimate.p,
            "p_holm": p_holm,
            "n": estimate.n,
            "more_questions": 0 if p_holm < 0.05 else more_questions(estimate),
        }
        for ((run, (system, metric)), estimate), p_holm in zip(changes, corrected, strict=True)
    ]


def _is_retrieval(metric: str) -> bool:
    return METRIC_TABLE[metric].family == "retrieval"


def _value(values: dict[tuple[str, str], np.ndarray], system: System, metric: str) -> Any:
    """The scores of a system; the recall of one that retrieves is that of the ranking it reads."""
    of_ranking = _is_retrieval(metric) and system.is_retrieved
    return values.get((system.ranking if of_ranking else system.name, metric))


def _together(
    kind: str,
    names: list[str],
    tables: list[ScoreTable],
    whole: ScoreTable,
    tuned: Collection[str],
    notes: list[str],
    resamples: int,
    seed: int,
) -> dict[str, Any]:
    """One verdict over all runs, each run's own means, and their spread."""
    systems, comparisons = summarise(whole, tuned, resamples, seed)
    parts = [{"run": name, **_means(table)} for name, table in zip(names, tables, strict=True)]
    shown = [metric for metric in METRICS if all(metric in part for part in parts)]
    gains = {
        metric: spread([part[metric]["tuned"] - part[metric]["base"] for part in parts])
        for metric in shown
    }
    said = verdict(comparisons, tuned, ("base", DECIDING_ANSWER) in whole.values)
    said["notes"] += notes + _spread_notes(kind, gains, len(names))
    return {
        "kind": kind,
        "runs": names,
        **_size(whole),
        "systems": systems,
        "comparisons": comparisons,
        "parts": parts,
        "spread": gains,
        "verdict": said,
    }


def _spread_notes(kind: str, gains: dict[str, dict[str, float]], number: int) -> list[str]:
    """What the intervals do not hold: they resample questions, not trainings."""
    metric = next((m for m in (DECIDING_ANSWER, DECIDING_RETRIEVAL) if m in gains), None)
    if metric is None:
        return []
    gain = gains[metric]
    return [
        f"Single {kind} gain from {points(gain['low'])} to {points(gain['high'])} "
        f"{LABELS[metric]} (standard "
        f"deviation {100 * gain['sd']:.1f} over {number}): one training may bring any of these."
    ]


def _averaged(tables: list[ScoreTable]) -> ScoreTable:
    """Each question's scores averaged over the runs: what the training's chance does to it is then
    within its score."""
    keys = [key for key in tables[0].values if all(key in table.values for table in tables)]
    values = {key: np.mean([table.values[key] for table in tables], axis=0) for key in keys}
    return ScoreTable(tables[0].pairs, tables[0].documents, values)


def _pooled(tables: list[ScoreTable]) -> ScoreTable:
    """All runs' questions, each document its own."""
    starts = np.cumsum([0, *(int(table.documents.max()) + 1 for table in tables)])
    documents = np.concatenate(
        [table.documents + start for table, start in zip(tables, starts, strict=False)]
    )
    keys = [key for key in tables[0].values if all(key in table.values for table in tables)]
    values = {key: np.concatenate([table.values[key] for table in tables]) for key in keys}
    return ScoreTable([pair for table in tables for pair in table.pairs], documents, values)


def _means(table: ScoreTable) -> dict[str, Any]:
    """Plain means of base and tuned in one run, {metric: {base, tuned}}."""
    means: dict[str, Any] = {"questions": len(table.pairs)}
    for metric in METRICS:
        found = {s: table.values.get((s, metric)) for s in ("base", "tuned")}
        shown = {
            s: float(np.nanmean(v))
            for s, v in found.items()
            if v is not None and not np.isnan(v).all()
        }
        means |= {metric: shown} if len(shown) == 2 else {}
    return means


def _cell(result: dict[str, Any], run: str, system: str, metric: str) -> str:
    level = result["levels"][run][system].get(metric)
    if level is None:
        return "-"
    text = f"{100 * level['value']:5.1f}"
    for row in result["differences"]:
        if (row["b"], row["system"], row["metric"]) == (run, system, metric):
            interval = (
                f" [{points(row['ci95'][0])} {points(row['ci95'][1])}]" if row["ci95"] else ""
            )
            return f"{text} {points(row['delta'])}{'*' if row['p_holm'] < 0.05 else ''}{interval}"
    return text


def _part_lines(result: dict[str, Any]) -> list[str]:
    rows = [["run", "questions", *(f"{LABELS[metric]} base -> tuned" for metric in METRICS)]]
    for part in result["parts"]:
        cells = [
            f"{100 * part[m]['base']:5.1f} -> {100 * part[m]['tuned']:5.1f}" if m in part else "-"
            for m in METRICS
        ]
        rows.append([part["run"], str(part["questions"]), *cells])
    found = [result["spread"].get(metric) for metric in METRICS]
    rows.append(
        [
            "gain",
            "",
            *(f"{points(s['mean'])} (SD {100 * s['sd']:.1f})" if s else "-" for s in found),
        ]
    )
    head = f"{len(result['parts'])} {result['kind']}, {result['questions']} questions"
    return [f"{head} about {result['documents']} documents", *aligned(rows)]


def compare_command(args: argparse.Namespace) -> None:
    """`rag-ft compare`."""
    for folder in args.runs:
        check_files(RunDir(folder), finished=NAMES)
    print(compare(args.runs, args.to))
