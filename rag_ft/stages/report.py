"""report: scores and done-files -> metrics.json, report.md, report.html."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from rag_ft.config import Config
from rag_ft.config_loader import flat
from rag_ft.errors import DataError
from rag_ft.evaluation.comparisons import SIDE_METRICS, ScoreTable, make_table, subset, summarise
from rag_ft.evaluation.components import COMPONENTS, EVERY_WORD, RANKING
from rag_ft.evaluation.metric_table import (
    DECIDING_ANSWER,
    DECIDING_RETRIEVAL,
    EXACT_MATCH,
    LABELS,
    METRICS,
    Metric,
    foremost,
    in_family,
)
from rag_ft.evaluation.systems import ENSEMBLES, NAMES, RETRIEVERS, SERVED, SYSTEMS
from rag_ft.evaluation.verdict import FEW_DOCUMENTS, points, verdict
from rag_ft.relevance import gold_by_pair
from rag_ft.report import charts, retriever, slices
from rag_ft.report import run_data as facts
from rag_ft.report.browser import browser_data, script_json
from rag_ft.report.rendering import aligned, environment, script, style
from rag_ft.report.robustness import robustness
from rag_ft.run_dir import RunDir
from rag_ft.schema import Chunk, Document, Hit, Prediction, QAPair, Score
from rag_ft.session import Session
from rag_ft.storage import ChunkStore, read_jsonl, read_rows, write_text

SCHEMA = 1  # of metrics.json; raised when a key changes its meaning
# From so many on, questions that people wrote or reviewed make the headline alone.
MIN_HUMAN_QUESTIONS = 50
ENSEMBLE_NAMES = tuple(system.name for system in ENSEMBLES)
RETRIEVAL = in_family("retrieval")
BADGES = {"none": "Keep the base", "undecided": "Undecided", EVERY_WORD: f"Ship {EVERY_WORD}"} | {
    name: f"Ship the {name}" for name in COMPONENTS
}
TERMINAL_METRICS, PAGE_METRICS = 4, 5  # the columns there is room for


def run(session: Session) -> dict[str, int | float]:
    """Writes metrics.json, report.md and report.html from what the other stages left.

    Raises:
        DataError: the evaluation scored no question that qa.jsonl still holds.
    """
    config, run_dir = session.config, session.run_dir
    pairs = [pair for pair in read_jsonl(run_dir.qa, QAPair) if pair.split == "test"]
    table = make_table(pairs, read_jsonl(run_dir.scores, Score))
    if not table.pairs:
        raise DataError(_nothing_scored(run_dir))
    documents = {d.id: d for d in _documents(run_dir, {pair.document_id for pair in table.pairs})}
    metrics = make_metrics(config, run_dir, table, documents)
    write_text(run_dir.metrics, json.dumps(metrics, indent=1, ensure_ascii=False) + "\n")
    page = _page(config, run_dir, table, metrics, documents)
    templates = environment()
    write_text(run_dir.report_md, templates.get_template("report.md").render(page))
    html = templates.get_template("page.html").render(page)
    write_text(run_dir.report_html, html)
    return {"questions": len(table.pairs), "html_mb": round(len(html.encode()) / 1e6, 2)}


def make_metrics(
    config: Config, run_dir: RunDir, table: ScoreTable, documents: dict[str, Document]
) -> dict[str, Any]:
    """What metrics.json holds. Values and differences are shares (0-1); `seconds` are seconds.

    schema, run, tuned {component: whether a tuned one was there and served}.
    headline {origins, questions, documents, unplaced, of_several}: what `verdict`, `systems` and
    `comparisons` rest
        on; `documents` counts those that are known, `unplaced` the questions of which no document
        is known.
    verdict {ship, sentence, notes}: see metrics/verdict.py.
    systems {name: {metric: {value, ci95, n}}}: names of evaluation/systems.py. Retrieval metrics
    stand under the
        retrievers base, tuned, lexical, dense_base, dense_tuned.
    comparisons [{a, b, metric, delta = b - a, ci95, p, p_holm, family, p_permutation (null for
        abstention_f1), p_mcnemar (of em), n, num_documents (an unplaced question counts as one),
        more_questions (0 settled, null out of reach)}].
    by_origin {human | generated: {systems, comparisons}}: where both kinds of questions were asked.
    slices [{field, part, n, metrics: {metric: {base, tuned, delta, ci95}}, gap, compared}]: see
    report/slices.py. robustness: null, or see report/robustness.py. cross_validation
    (null without folds), leakage, funnel, cost: see report/facts.py.
    """
    tuned = facts.tuned_components(run_dir)
    human = np.array([pair.origin != "generated" for pair in table.pairs])
    num_human = int(human.sum())
    mixed = 0 < num_human < len(human)
    headline = subset(table, human) if mixed and num_human >= MIN_HUMAN_QUESTIONS else table
    resamples, seed = config.evaluate.advanced.num_resamples, config.run.seed
    systems, comparisons = summarise(headline, tuned, resamples, seed)
    shown = dict.fromkeys((*NAMES, *ENSEMBLE_NAMES, *RETRIEVERS))
    answers = ("base", DECIDING_ANSWER) in table.values
    parts = {"human": human, "generated": ~human} if mixed else {}
    by_origin = {
        name: summarise(subset(table, part), tuned, resamples, seed) for name, part in parts.items()
    }
    asked = _headline(headline, mixed)
    return {
        "schema": SCHEMA,
        "run": config.name,
        "headline": asked,
        "tuned": {name: name in tuned for name in COMPONENTS},
        "verdict": _verdict(comparisons, tuned, answers, asked),
        "systems": {name: systems[name] for name in shown if name in systems},
        "comparisons": comparisons,
        "by_origin": {name: {"systems": s, "comparisons": c} for name, (s, c) in by_origin.items()},
        "slices": slices.by_group(headline, _slice_metrics(answers), documents, seed),
        "robustness": robustness(systems),
        "cross_validation": facts.cross_validation(run_dir),
        "leakage": facts.leakage(run_dir),
        "funnel": facts.funnel(run_dir),
        "cost": facts.costs(run_dir),
    }


def summary_table(run_dir: RunDir) -> str:
    """The result in a few lines for a terminal: each system's metrics, and their change from base
    with its interval.

    Raises:
        DataError: there is no metrics.json yet.
    """
    try:
        metrics = json.loads(run_dir.metrics.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise DataError(f"{run_dir.metrics} does not exist: run the report stage first") from error
    shown = main_metrics(metrics, TERMINAL_METRICS)
    rows = [["", *(LABELS[metric] for metric in shown)]]
    rows += [[row["name"], *(_cell(row, metric) for metric in shown)] for row in grid(metrics)]
    head = f"{asked_about(metrics)}; change from base [95 %]"
    said = metrics["verdict"]
    return "\n".join([head, *aligned(rows), "", said["sentence"], *said["notes"]])


def asked_about(metrics: dict[str, Any]) -> str:
    """How many questions the headline rests on, and about how many documents. Of questions without
    a known document nobody can say that it was never trained on."""
    asked = {"unplaced": 0, **metrics["headline"]}  # earlier versions did not count them
    documents = f"about {_counted(asked['documents'], 'document')}"
    if not metrics["leakage"]["given"]:
        documents += f" that {'was' if asked['documents'] == 1 else 'were'} never trained on"
    questions = (
        f"{_counted(asked['questions'], 'test question')} ({' and '.join(asked['origins'])})"
    )
    if not asked["unplaced"]:
        return f"{questions} {documents}"
    if not asked["documents"]:
        return f"{questions} about no known document"
    placed = asked["questions"] - asked["unplaced"]
    return f"{questions}: {placed} {documents}, {asked['unplaced']} about no known document"


def main_metrics(metrics: dict[str, Any], room: int) -> list[str]:
    """The `room` foremost metrics that were measured; how well systems abstain only where questions
    without an answer were asked."""
    base = metrics["systems"].get("base", {})
    measured = {metric for metric, level in base.items() if level["value"] is not None}
    if "abstention_recall" not in measured:
        measured -= set(in_family("abstention"))
    return foremost(measured & set(in_family("answer", "abstention", "retrieval")), room)


def grid(metrics: dict[str, Any]) -> list[dict[str, Any]]:
    """One row per system, or per ranking where no answers were asked: {name, meaning, cells:
    {metric: level}, changes: {metric: comparison with base}}; systems that retrieve carry the
    recall of the ranking they read from."""
    compared = {(c["b"], c["metric"]): c for c in metrics["comparisons"] if c["a"] == "base"}
    rows = []
    for system in (*SYSTEMS, *ENSEMBLES):
        levels = metrics["systems"].get(system.name, {})
        if DECIDING_ANSWER not in levels and system.name not in SERVED:
            continue
        found = metrics["systems"].get(system.ranking, {}) if system.is_retrieved else {}
        cells = {m: found[m] for m in RETRIEVAL if m in found}
        changes = {m: compared.get((system.ranking, m)) for m in cells}
        own = [metric for metric in levels if metric not in RETRIEVAL]
        cells |= {metric: levels[metric] for metric in own}
        changes |= {metric: compared.get((system.name, metric)) for metric in own}
        rows.append(
            {"name": system.name, "meaning": system.meaning, "cells": cells, "changes": changes}
        )
    return rows


def _documents(run_dir: RunDir, ids: set[str | None]) -> list[Document]:
    return [document for document in read_jsonl(run_dir.documents, Document) if document.id in ids]


def _nothing_scored(run_dir: RunDir) -> str:
    counts = facts.counts_of(run_dir, "evaluate")
    if counts.get("located_questions") == 0 and "predictions" not in counts:
        return (
            f"{run_dir.scores} is empty: no test question has a known place in the documents, so there is nothing to "
            "find, and answers were not evaluated: set evaluate.answers=true, or give the questions of "
            "generate.questions their document_id and words of the document as answers or evidence"
        )
    return (
        f"{run_dir.scores} scores no test question of {run_dir.qa}: run evaluate again with --force"
    )


def _headline(table: ScoreTable, mixed: bool) -> dict[str, Any]:
    origins = sorted({pair.origin for pair in table.pairs})
    known = [pair.document_id for pair in table.pairs if pair.document_id is not None]
    counts = {
        "questions": len(table.pairs),
        "documents": len(set(known)),
        "unplaced": len(table.pairs) - len(known),
    }
    return {"origins": origins, **counts, "of_several": mixed}


def _verdict(
    comparisons: list[dict[str, Any]], tuned: frozenset[str], answers: bool, asked: dict[str, Any]
) -> dict[str, Any]:
    """The verdict on the headline, with a note on unplaced questions. Its caution counts the
    documents that are known; where they are one or none, the note says it instead."""
    known = asked["documents"]
    if not asked["unplaced"]:
        return verdict(comparisons, tuned, answers)
    counted = [
        {**c, "num_documents": min(c["num_documents"], known) if known > 1 else FEW_DOCUMENTS}
        for c in comparisons
    ]
    found = verdict(counted, tuned, answers)
    return {**found, "notes": [*found["notes"], _unplaced_note(asked)]}


def _unplaced_note(asked: dict[str, Any]) -> str:
    num, of = asked["unplaced"], asked["questions"]
    if num == of:
        who = "No test question has a known document"
    else:
        one = "Only one test document is known. " if asked["documents"] == 1 else ""
        who = f"{one}{num} of {of} test questions {'has' if num == 1 else 'have'} no known document"
    return (
        f"{who}: such a question may be about a document that was trained on, and it counts as a document of its own, "
        "so intervals may be too narrow. Name the documents (document_id) to be sure."
    )


def _counted(num: int, thing: str) -> str:
    return f"{num} {thing}{'' if num == 1 else 's'}"


def _slice_metrics(answers: bool) -> list[str]:
    return [DECIDING_ANSWER, EXACT_MATCH] if answers else [DECIDING_RETRIEVAL]


def _cell(row: dict[str, Any], metric: str) -> str:
    level, change = row["cells"].get(metric), row["changes"].get(metric)
    if not level or level["value"] is None:
        return "-"
    text = f"{100 * level['value']:5.1f}"
    if not change:
        return text
    interval = (
        f" [{points(change['ci95'][0])} {points(change['ci95'][1])}]" if change["ci95"] else ""
    )
    return f"{text} {points(change['delta'])}{interval}"


def _page(
    config: Config,
    run_dir: RunDir,
    table: ScoreTable,
    metrics: dict[str, Any],
    documents: dict[str, Document],
) -> dict[str, Any]:
    """Everything the templates show."""
    predictions = _predictions(run_dir, table)
    shown = {
        i for rows in predictions.values() for prediction in rows for i in prediction.chunk_ids
    }
    chunks, gold = _gold(ChunkStore(run_dir.chunks), table.pairs, documents, shown)
    answered = ("base", DECIDING_ANSWER) in table.values
    browser = browser_data(table, predictions, gold, chunks, documents) if predictions else None
    return {
        "config": config,
        "metrics": metrics,
        "asked_about": asked_about(metrics),
        "grid": grid(metrics),
        "labels": LABELS,
        "table": METRICS,
        "main_metrics": main_metrics(metrics, PAGE_METRICS),
        "answer_metrics": _reported(metrics, lambda m: m.family != "retrieval"),
        "side_metrics": _reported(metrics, lambda m: m.name in SIDE_METRICS),
        "retrieval_metrics": RETRIEVAL,
        "moved_metrics": retriever.METRICS,
        "slice_metric": _slice_metrics(answered)[0],
        "main_answer": DECIDING_ANSWER,
        "answered": answered,
        "untuned": [name for name, is_tuned in metrics["tuned"].items() if not is_tuned],
        "badges": BADGES,
        "retrievers": {
            name: meaning for name, meaning in RETRIEVERS.items() if name in metrics["systems"]
        },
        "documents": slices.by_document(table, _slice_metrics(answered), documents),
        "why_untuned": facts.why_untuned(run_dir),
        "num_unlocated": sum(pair.answerable and not gold[pair.id] for pair in table.pairs),
        "retriever": _retriever(config, run_dir, table, documents, chunks, gold),
        "curves": _training(run_dir, "train_generator"),
        "noise": _noise_curve(metrics["robustness"]),
        "pairs": facts.pairs_by_split(run_dir),
        "counts": {
            stage["stage"]: facts.counts_of(run_dir, stage["stage"]) for stage in metrics["cost"]
        },
        "fingerprints": facts.fingerprints(run_dir),
        "changed": facts.changed_settings(config),
        "settings": flat(config),
        "reach": _reach(metrics["comparisons"]),
        "questions": script_json(browser),
        "style": style(),
        "script": script(),
        "script_hash": base64.b64encode(hashlib.sha256(script().encode()).digest()).decode(),
    }


def _reported(metrics: dict[str, Any], is_wanted: Callable[[Metric], bool]) -> list[str]:
    """The wanted metrics that some system has, in the order of the table."""
    scored = {metric for levels in metrics["systems"].values() for metric in levels}
    return [name for name, metric in METRICS.items() if name in scored and is_wanted(metric)]


def _training(run_dir: RunDir, stage: str) -> list[dict[str, Any]]:
    path = run_dir.training_log(stage)
    return charts.training_curves(list(read_rows(path))) if path.exists() else []


def _noise_curve(probes: dict[str, Any] | None) -> dict[str, Any] | None:
    if not probes:
        return None
    rows = [row for row in probes["noise"] if row["base"] and row["tuned"]]
    lines = {s: [(row["noise_share"], row[s]["value"]) for row in rows] for s in ("base", "tuned")}
    return charts.curve(lines, zero_based=True)


def _reach(comparisons: list[dict[str, Any]]) -> float:
    """Where the axis of differences ends on either side: all intervals of the deciding ones fit."""
    ends = [
        abs(bound)
        for c in comparisons
        if c["family"] == "decides"
        for bound in (c["ci95"] or [c["delta"]])
    ]
    return max([*ends, 0.02]) * 1.05


def _predictions(run_dir: RunDir, table: ScoreTable) -> dict[str, list[Prediction]]:
    """By system, of those that were scored: what an earlier evaluation asked further ones may still
    lie there."""
    scored = [name for name in (*NAMES, *ENSEMBLE_NAMES) if (name, DECIDING_ANSWER) in table.values]
    names = [name for name in scored if run_dir.predictions(name).exists()]
    return {name: list(read_jsonl(run_dir.predictions(name), Prediction)) for name in names}


def _gold(
    store: ChunkStore, pairs: Sequence[QAPair], documents: dict[str, Document], shown: set[str]
) -> tuple[dict[str, Chunk], dict[str, set[str]]]:
    """(the chunks of the documents and those that were shown, the ids of each question's gold
    chunks)."""
    chunks = {chunk.id: chunk for chunk in store.of_documents(documents)}
    chunks |= store.select(shown - chunks.keys())
    return chunks, gold_by_pair(pairs, chunks.values())


def _retriever(
    config: Config, run_dir: RunDir, table: ScoreTable, documents: dict[str, Document], chunks: dict[str, Chunk],
    gold: dict[str, set[str]],
) -> dict[str, Any]:  # fmt: skip
    """What report/retriever.py finds; without a tuned ranking its training alone."""
    log = run_dir.training_log("train_retriever")
    found = retriever.training(list(read_rows(log)) if log.exists() else [])
    is_tuned = bool(RANKING & facts.tuned_components(run_dir))
    if not is_tuned or ("tuned", DECIDING_RETRIEVAL) not in table.values:
        return found
    hits = {name: read_jsonl(run_dir.hits(name), Hit) for name in ("base", "tuned")}
    found |= retriever.changes(table, documents, config.run.seed)
    return found | {"moved": retriever.moved(table.pairs, hits, gold, chunks)}
