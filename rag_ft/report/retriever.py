"""What tuning did to the retriever: recall by kind and by document, the questions that moved most,
its training."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from rag_ft.evaluation.comparisons import ScoreTable, subset
from rag_ft.evaluation.metric_table import DECIDING_RETRIEVAL, RANK
from rag_ft.report import charts, slices
from rag_ft.schema import Chunk, Document, Hit, QAPair

METRICS = [DECIDING_RETRIEVAL, RANK]
NUM_MOVED = 10  # questions shown in each direction


def changes(
    table: ScoreTable, documents: Mapping[str, Document], seed: int
) -> dict[str, list[dict[str, Any]]]:
    """{"kinds", "documents"}: rows as of slices.by_group and by_document, over the questions with a
    known gold chunk."""
    located = subset(table, ~np.isnan(table.values["base", METRICS[0]]))
    kinds = [
        row for row in slices.by_group(located, METRICS, documents, seed) if row["field"] == "kind"
    ]
    return {"kinds": kinds, "documents": slices.by_document(located, METRICS, documents)}


def moved(
    pairs: Sequence[QAPair],
    hits: Mapping[str, Iterable[Hit]],
    gold: Mapping[str, set[str]],
    chunks: Mapping[str, Chunk],
) -> dict[str, dict[str, Any]]:
    """Which questions' best gold chunk moved between the base and the tuned ranking.

    Returns {"up", "down"}: {"num": of questions, "rows": those that moved by most places, {id,
    question, before, after, chunk, text, places}}. A rank is None where no gold chunk was found,
    which counts as the place after the last. `hits`: of the rankings base and tuned.
    """
    # By ranking: question id -> (rank, chunk id) of its best gold chunk.
    ranks: dict[str, dict[str, tuple[int, str]]] = {"base": {}, "tuned": {}}
    for name, best in ranks.items():
        for hit in hits[name]:
            if hit.chunk_id in gold.get(hit.question_id, ()):
                found = (hit.rank, hit.chunk_id)
                best[hit.question_id] = min(best.get(hit.question_id, found), found)
    last = max((rank for best in ranks.values() for rank, _ in best.values()), default=0)

    rows: list[dict[str, Any]] = []
    for pair in pairs:
        if not gold.get(pair.id):
            continue
        before, first = ranks["base"].get(pair.id, (None, ""))
        after, second = ranks["tuned"].get(pair.id, (None, ""))
        chunk = chunks.get(second or first)
        row = {
            "id": pair.id,
            "question": pair.question,
            "before": before,
            "after": after,
            "chunk": second or first,
            "text": chunk.text if chunk else "",
            "places": (before or last + 1) - (after or last + 1),
        }
        rows.append(row)
    # The largest moves first; ids make the order of equal ones stable.
    rows.sort(key=lambda row: (-abs(row["places"]), row["id"]))
    ways = {
        "up": [row for row in rows if row["places"] > 0],
        "down": [row for row in rows if row["places"] < 0],
    }
    return {way: {"num": len(moves), "rows": moves[:NUM_MOVED]} for way, moves in ways.items()}


def training(log: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """{"phases", "teacher", "curves"} of the training log. `phases`: a row for each phase, with its
    metrics on dev documents or the reason why it was left out; `teacher`: the rows of
    LM-supervised phases, with the entropy of their targets."""
    phases = [row for row in log if "dev_served_recall" in row or "reason" in row]
    return {
        "phases": phases,
        "teacher": [row for row in phases if row.get("entropy") is not None],
        "curves": charts.training_curves(log),
    }
