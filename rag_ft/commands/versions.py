"""`rag-ft versions` and `rag-ft rollback`: which versions of a run there are, and which one is
served."""

from __future__ import annotations

import argparse
import json
from typing import Any

from rag_ft.errors import DataError
from rag_ft.evaluation.components import RANKING
from rag_ft.evaluation.metric_table import DECIDING_ANSWER, DECIDING_RETRIEVAL, LABELS
from rag_ft.evaluation.systems import shipped_system
from rag_ft.forgetting.record import Forgotten
from rag_ft.report.rendering import aligned
from rag_ft.terminal import say
from rag_ft.versions import Version, forgotten_list, rollback, versions_of

SHOWN = (DECIDING_ANSWER, DECIDING_RETRIEVAL)


def versions_command(args: argparse.Namespace) -> None:
    """`rag-ft versions`: a line a version, with the scores of its report."""
    head = ["version", "served", "continues", *(LABELS[metric] for metric in SHOWN), "decision"]
    say("\n".join(aligned([head, *map(row_of, versions_of(args.run))])))


def rollback_command(args: argparse.Namespace) -> None:
    """`rag-ft rollback`."""
    say(f"{rollback(args.run, args.version).name} is served from now on")


def row_of(version: Version) -> list[str]:
    """The cells of a version. Scores are those of the components that its verdict ships."""
    scores = scores_of(version)
    why = version.decision.get("sentence") or ("" if version.number == 1 else "not decided yet")
    if not version.is_complete:
        why = "no index: it cannot be served"
    elif learnt := Forgotten(forgotten_list(version.run_dir.path)).learnt(version.run_dir):
        why = f"its {' and '.join(learnt)} learnt from a forgotten document"
    return [
        version.name,
        "served" if version.is_promoted else "",
        version.parent or "",
        *(f"{100 * scores[m]:.1f}" if m in scores else "–" for m in SHOWN),
        str(why),
    ]


def scores_of(version: Version) -> dict[str, float]:
    """{metric: share (0-1)} of what the version serves; empty without a report.

    Raises:
        DataError: its metrics.json is damaged.
    """
    path = version.run_dir.metrics
    if not path.exists():
        return {}
    try:
        metrics: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        systems = metrics["systems"]
        served = shipped_system(str(metrics["verdict"]["ship"]))
        # Without a reranker the tuned retriever's ranking stands under the name of all components.
        ranked = systems.get(served.ranking) or {}
        if served.tuned & RANKING and DECIDING_RETRIEVAL not in ranked:
            ranked = systems.get("tuned") or {}
        found = {
            DECIDING_ANSWER: (systems.get(served.name) or {}).get(DECIDING_ANSWER),
            DECIDING_RETRIEVAL: ranked.get(DECIDING_RETRIEVAL),
        }
        return {metric: level["value"] for metric, level in found.items() if level}
    except (OSError, ValueError, KeyError, TypeError, StopIteration) as error:
        raise DataError(f"{path} is damaged: run the report of this version again") from error
