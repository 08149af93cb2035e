"""metrics.json: every result of a run that another program may read.

Values and differences are shares (0-1); `seconds` are seconds.

schema, run (`name`), tuned {component: whether it was tuned and served}.
headline {origins, questions, documents, unplaced, of_several}: what `verdict`, `systems` and
    `comparisons` rest on. `documents` counts the known ones, `unplaced` the questions without
    a known document.
verdict {ship, sentence, notes}: see evaluation/verdict.py.
systems {name: {metric: {value, ci95, n}}}: names of evaluation/systems.py; metrics of
    retrieval belong to the retrievers base, tuned, lexical, dense_base, dense_tuned, and where a
    reranker was tuned beside the retriever tuned_retriever, tuned_reranker.
comparisons [{a, b, metric, delta = b - a, ci95, p, p_holm, family, p_permutation (null for
    abstention_f1), p_mcnemar (of em), n, num_documents (an unplaced question counts as one),
    more_questions (0: significant already, null: out of reach)}].
by_origin {human | generated: {systems, comparisons}}: empty where all have one kind of origin.
slices [{field, part, n, metrics: {metric: {base, tuned, delta, ci95}}, gap, compared}]: see
    report/slices.py.
robustness: null, or see report/robustness.py.
cross_validation (null without folds), leakage, funnel, cost: see report/run_data.py.
reviews: null where nobody has reviewed a pair, or see report/reviews.py.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from rag_ft.evaluation.comparisons import ScoreTable, subset, summarise
from rag_ft.evaluation.components import COMPONENTS
from rag_ft.evaluation.metric_table import DECIDING_ANSWER, DECIDING_RETRIEVAL, EXACT_MATCH
from rag_ft.evaluation.systems import ENSEMBLES, NAMES, RETRIEVERS
from rag_ft.evaluation.verdict import FEW_DOCUMENTS, verdict
from rag_ft.report import run_data, slices
from rag_ft.report.reviews import reviews
from rag_ft.report.robustness import robustness
from rag_ft.run_dir import RunDir
from rag_ft.schema import Document

SCHEMA = 1  # of metrics.json; raised when a key changes its meaning
# From so many on, the headline rests on questions that people wrote or reviewed alone.
MIN_HUMAN_QUESTIONS = 50


def make_metrics(
    name: str,
    run_dir: RunDir,
    table: ScoreTable,
    documents: Mapping[str, Document],
    num_resamples: int,
    seed: int,
) -> dict[str, Any]:
    """The content of metrics.json; `name` is that of the run."""
    # The headline rests on human questions alone where there are enough of them.
    tuned = run_data.tuned_components(run_dir)
    human = np.array([pair.origin != "generated" for pair in table.pairs])
    num_human = int(human.sum())
    mixed = 0 < num_human < len(human)
    headline = subset(table, human) if mixed and num_human >= MIN_HUMAN_QUESTIONS else table
    systems, comparisons = summarise(headline, tuned, num_resamples, seed)

    # Where both kinds were asked, each kind is also evaluated by itself.
    by_origin = {}
    for origin, part in {"human": human, "generated": ~human}.items() if mixed else ():
        levels, changes = summarise(subset(table, part), tuned, num_resamples, seed)
        by_origin[origin] = {"systems": levels, "comparisons": changes}

    known = [pair.document_id for pair in headline.pairs if pair.document_id is not None]
    asked = {
        "origins": sorted({pair.origin for pair in headline.pairs}),
        "questions": len(headline.pairs),
        "documents": len(set(known)),
        "unplaced": len(headline.pairs) - len(known),
        "of_several": mixed,
    }
    # Systems, then retrievers; a name that both have ("base") keeps its first place.
    in_order = dict.fromkeys((*NAMES, *(system.name for system in ENSEMBLES), *RETRIEVERS))
    return {
        "schema": SCHEMA,
        "run": name,
        "headline": asked,
        "tuned": {component: component in tuned for component in COMPONENTS},
        "verdict": cautious_verdict(comparisons, tuned, is_answered(table), asked),
        "systems": {name: systems[name] for name in in_order if name in systems},
        "comparisons": comparisons,
        "by_origin": by_origin,
        "slices": slices.by_group(headline, slice_metrics(table), documents, seed),
        "robustness": robustness(systems),
        "cross_validation": run_data.cross_validation(run_dir),
        "leakage": run_data.leakage(run_dir),
        "funnel": run_data.funnel(run_dir),
        "reviews": reviews(run_dir, seed),
        "cost": run_data.costs(run_dir),
    }


def is_answered(table: ScoreTable) -> bool:
    """Whether answers were evaluated, and not retrieval alone."""
    return ("base", DECIDING_ANSWER) in table.values


def slice_metrics(table: ScoreTable) -> list[str]:
    """The metrics that slices show; the first one decides whether a slice has a gap."""
    return [DECIDING_ANSWER, EXACT_MATCH] if is_answered(table) else [DECIDING_RETRIEVAL]


def cautious_verdict(
    comparisons: list[dict[str, Any]],
    tuned: Collection[str],
    answers: bool,
    asked: Mapping[str, Any],
) -> dict[str, Any]:
    """The verdict on the headline, with a note on questions without a known document."""
    known, num_unplaced, num = asked["documents"], asked["unplaced"], asked["questions"]
    if not num_unplaced:
        return verdict(comparisons, tuned, answers)
    # The statistics count such a question as a document of its own. The caution about few
    # documents must count known ones; where there is one or none, the note below says it instead.
    counted = []
    for comparison in comparisons:
        documents = min(comparison["num_documents"], known) if known > 1 else FEW_DOCUMENTS
        counted.append({**comparison, "num_documents": documents})
    found = verdict(counted, tuned, answers)
    if num_unplaced == num:
        who = "No test question has a known document"
    else:
        who = f"{num_unplaced} of {num} test questions"
        who += f" {'has' if num_unplaced == 1 else 'have'} no known document"
    if known == 1:
        who = f"Only one test document is known. {who}"
    note = (
        f"{who}: such a question may be about a document that was trained on, and it counts as a "
        "document of its own, so intervals may be too narrow. Set document_id to avoid this."
    )
    return {**found, "notes": [*found["notes"], note]}
