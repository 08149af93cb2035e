"""Everything that the templates of the report show."""

from __future__ import annotations

import base64
import hashlib
import itertools
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from rag_ft.chunk_store import ChunkStore
from rag_ft.config import Config
from rag_ft.config_loader import flat
from rag_ft.evaluation.comparisons import SIDE_METRICS, ScoreTable
from rag_ft.evaluation.components import COMPONENTS, RANKING, WORDS, set_name
from rag_ft.evaluation.metric_table import (
    DECIDING_ANSWER,
    DECIDING_RETRIEVAL,
    LABELS,
    METRICS,
    in_family,
)
from rag_ft.evaluation.systems import ENSEMBLES, NAMES, RETRIEVERS, distinct_rankings
from rag_ft.relevance import gold_by_pair
from rag_ft.report import charts, retriever, run_data, slices
from rag_ft.report.browser import add_ranks, browser_data, script_json
from rag_ft.report.metrics_json import is_answered, slice_metrics
from rag_ft.report.rendering import script, style
from rag_ft.report.summary import asked_about, grid, main_metrics
from rag_ft.run_dir import RunDir
from rag_ft.schema import Chunk, Document, Hit, Prediction
from rag_ft.storage import read_jsonl, read_rows

BADGES = {"none": "Keep the base", "undecided": "Undecided"} | {
    set_name(chosen): f"Ship {WORDS.get(frozenset(chosen)) or 'the ' + ' and '.join(chosen)}"
    for number in range(1, len(COMPONENTS) + 1)
    for chosen in itertools.combinations(COMPONENTS, number)
}
PAGE_METRICS = 6  # the columns there is room for


def page_data(
    config: Config,
    run_dir: RunDir,
    store: ChunkStore,
    table: ScoreTable,
    metrics: dict[str, Any],
    documents: dict[str, Document],
) -> dict[str, Any]:
    """What report.md and page.html show: `metrics` (of metrics.json) and its labels, the question
    browser, the training's curves, and settings and versions of the run."""
    predictions = read_predictions(run_dir, table)
    # Texts are needed of the questions' own documents, and of all that some system was shown.
    chunks = {chunk.id: chunk for chunk in store.of_documents(documents)}
    shown = {i for rows in predictions.values() for row in rows for i in row.chunk_ids}
    chunks |= store.select(shown - chunks.keys())
    gold = gold_by_pair(table.pairs, chunks.values())
    browser = browser_data(table, predictions, gold, chunks, documents) if predictions else None
    if browser:
        add_ranks(browser, read_hits(run_dir))
    scored = {metric for levels in metrics["systems"].values() for metric in levels}
    retrieval, settings = in_family("retrieval"), flat(config)
    trained = training_log(run_dir, "train_generator")
    rankings = distinct_rankings(run_data.tuned_components(run_dir))
    stages = [row["stage"] for row in metrics["cost"]]
    return {
        "config": config,
        "metrics": metrics,
        "asked_about": asked_about(metrics),
        "grid": grid(metrics),
        "labels": LABELS,
        "table": METRICS,
        "main_metrics": main_metrics(metrics, PAGE_METRICS),
        "answer_metrics": [m for m in METRICS if m in scored and m not in retrieval],
        "side_metrics": [m for m in METRICS if m in scored and m in SIDE_METRICS],
        "retrieval_metrics": retrieval,
        "moved_metrics": retriever.METRICS,
        "slice_metric": slice_metrics(table)[0],
        "main_answer": DECIDING_ANSWER,
        "answered": is_answered(table),
        "untuned": untuned(metrics["tuned"], bool(config.reranker.model)),
        "badges": BADGES,
        "retrievers": {n: RETRIEVERS[n] for n in rankings if n in metrics["systems"]},
        "documents": slices.by_document(table, slice_metrics(table), documents),
        "why_untuned": run_data.why_untuned(run_dir),
        "num_unlocated": sum(pair.answerable and not gold[pair.id] for pair in table.pairs),
        "retriever": retriever_data(run_dir, table, documents, chunks, gold, config.run.seed),
        "curves": charts.training_curves(trained),
        "quadrants": [row for row in trained if "gold_shown" in row],
        "noise": noise_curve(metrics["robustness"]),
        "pairs": run_data.pairs_by_split(run_dir),
        "counts": {stage: run_data.counts_of(run_dir, stage) for stage in stages},
        "fingerprints": run_data.fingerprints(run_dir),
        "changed": run_data.changed_settings(settings),
        "settings": settings,
        "reach": reach(metrics["comparisons"]),
        "questions": script_json(browser),
        "style": style(),
        "script": script(),
        "script_hash": base64.b64encode(hashlib.sha256(script().encode()).digest()).decode(),
    }


def untuned(tuned: Mapping[str, bool], has_reranker: bool) -> list[str]:
    """The components that are not tuned, without a reranker that the run does not have."""
    return [name for name in tuned if not tuned[name] and (name != "reranker" or has_reranker)]


def read_predictions(run_dir: RunDir, table: ScoreTable) -> dict[str, list[Prediction]]:
    """{system: its predictions} of the systems that were scored. Files of other systems may be left
    from an earlier evaluation."""
    found = {}
    for name in (*NAMES, *(system.name for system in ENSEMBLES)):
        path = run_dir.predictions(name)
        if (name, DECIDING_ANSWER) in table.values and path.exists():
            found[name] = list(read_jsonl(path, Prediction))
    return found


def read_hits(run_dir: RunDir) -> dict[str, Iterator[Hit]]:
    """{ranking: its hits} of those that were searched."""
    paths = {name: run_dir.hits(name) for name in RETRIEVERS}
    return {name: read_jsonl(path, Hit) for name, path in paths.items() if path.exists()}


def retriever_data(
    run_dir: RunDir,
    table: ScoreTable,
    documents: Mapping[str, Document],
    chunks: Mapping[str, Chunk],
    gold: Mapping[str, set[str]],
    seed: int,
) -> dict[str, Any]:
    """What report/retriever.py finds; without a tuned ranking, only how the retriever was
    trained."""
    found = retriever.training(training_log(run_dir, "train_retriever"))
    is_tuned = bool(RANKING & run_data.tuned_components(run_dir))
    if not is_tuned or ("tuned", DECIDING_RETRIEVAL) not in table.values:
        return found
    hits = {name: read_jsonl(run_dir.hits(name), Hit) for name in ("base", "tuned")}
    found |= retriever.changes(table, documents, seed)
    return found | {"moved": retriever.moved(table.pairs, hits, gold, chunks)}


def training_log(run_dir: RunDir, stage: str) -> list[dict[str, Any]]:
    """The rows that a training stage logged; none where it did not train."""
    path = run_dir.training_log(stage)
    return list(read_rows(path)) if path.exists() else []


def noise_curve(probes: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """F1 of base and tuned by the share of noise in the context; None without robustness probes."""
    if not probes:
        return None
    rows = [row for row in probes["noise"] if row["base"] and row["tuned"]]
    lines = {s: [(row["noise_share"], row[s]["value"]) for row in rows] for s in ("base", "tuned")}
    return charts.curve(lines, zero_based=True)


def reach(comparisons: Iterable[Mapping[str, Any]]) -> float:
    """Where the axis of differences ends on either side (a share): every interval of the deciding
    comparisons fits, and at least 2 points are shown."""
    ends = [0.02]
    for comparison in comparisons:
        if comparison["family"] == "decides":
            ends += [abs(bound) for bound in comparison["ci95"] or [comparison["delta"]]]
    return max(ends) * 1.05
