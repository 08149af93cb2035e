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
    """{"kinds", "documents"}: rows as of slices.by_group and by_document, of the questions whose
    place is known."""
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
    """{"up", "down"}: {"num", "rows"}, how many questions' best gold chunk moved between the base
    and the tuned ranking, and those it moved by most places: {id, question, before, after, chunk,
    text, places}. A rank is None where no gold chunk was found; that counts as the place after the
    last."""
    ranks = {name: _ranks(found, gold) for name, found in hits.items()}
    last = max((rank for found in ranks.values() for rank, _ in found.values()), default=0)
    rows: list[dict[str, Any]] = []
    for pair in pairs:
        if gold.get(pair.id):
            (before, first), (after, second) = (
                ranks[name].get(pair.id, (None, "")) for name in ("base", "tuned")
            )
            chunk = chunks.get(second or first)
            rows.append({
                "id": pair.id, "question": pair.question, "before": before, "after": after, "chunk": second or first,
                "text": chunk.text if chunk else "", "places": (before or last + 1) - (after or last + 1),
            })  # fmt: skip
    rows.sort(key=lambda row: (-abs(row["places"]), row["id"]))
    ways = {
        "up": [row for row in rows if row["places"] > 0],
        "down": [row for row in rows if row["places"] < 0],
    }
    return {way: {"num": len(found), "rows": found[:NUM_MOVED]} for way, found in ways.items()}


def training(log: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """{"phases": rows with what dev documents said after each phase, or why it is left out,
    "teacher": what LM-supervised retrieval learned from, one row a round, "curves"} of the training
    log."""
    phases = [row for row in log if "dev_served_recall" in row or "reason" in row]
    return {
        "phases": phases,
        "teacher": [row for row in phases if row.get("entropy") is not None],
        "curves": charts.training_curves(log),
    }


def _ranks(hits: Iterable[Hit], gold: Mapping[str, set[str]]) -> dict[str, tuple[int, str]]:
    """Question id -> (rank, id) of its best gold chunk."""
    found: dict[str, tuple[int, str]] = {}
    for hit in hits:
        if hit.chunk_id in gold.get(hit.question_id, ()):
            found[hit.question_id] = min(
                found.get(hit.question_id, (hit.rank, hit.chunk_id)), (hit.rank, hit.chunk_id)
            )
    return found
