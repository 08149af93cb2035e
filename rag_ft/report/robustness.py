"""The robustness probes' scores as curves: base against tuned under noise, order and
contradiction."""

from __future__ import annotations

from typing import Any

from rag_ft.evaluation.extras.robustness import NOISE_CHUNKS, PLACES, STATES
from rag_ft.evaluation.metric_table import DECIDING_ANSWER


def robustness(systems: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    """{"noise": [{"noise_share", base, tuned}], "order": [{"place", base, tuned}], "swap": {base,
    tuned: {follows, keeps}}}, values {value, ci95, n} of F1 (of containment for `swap`); None where
    no probe was made.

    `follows`: the answer is the one swapped into the context; `keeps`: the true one, which the
    context contradicts.
    """
    if "noise0_base" not in systems:
        return None
    shares = [number / (number + 1) for number in NOISE_CHUNKS]
    noise = [
        {"noise_share": round(s, 4), **_both(systems, f"noise{round(100 * s)}")} for s in shares
    ]
    order = [{"place": place, **_both(systems, f"order_{place}")} for place in PLACES]
    swap = {
        state: {
            "follows": systems.get(f"swap_{state}", {}).get("contains"),
            "keeps": systems.get(f"swap_memory_{state}", {}).get("contains"),
        }
        for state in STATES
    }
    return {"noise": noise, "order": order, "swap": swap}


def _both(systems: dict[str, dict[str, Any]], name: str) -> dict[str, Any]:
    return {state: systems.get(f"{name}_{state}", {}).get(DECIDING_ANSWER) for state in STATES}
