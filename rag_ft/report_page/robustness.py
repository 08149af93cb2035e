"""The robustness probes' scores as curves: base against tuned under noise, order and contradiction."""

from __future__ import annotations

from typing import Any

from rag_ft.evaluation.robustness import NOISE_CHUNKS, PLACES

HALVES = ("base", "tuned")


def robustness(systems: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    """{"noise": [{"noise_share", base, tuned}], "order": [{"place", base, tuned}], "swap": {half: {follows, keeps}}},
    values {value, ci95, n} of F1 (of containment for `swap`); None where no probe was made.

    `follows`: the answer is the one swapped into the context; `keeps`: the true one, which the context contradicts.
    """
    if "noise0_base" not in systems:
        return None
    shares = [number / (number + 1) for number in NOISE_CHUNKS]
    noise = [
        {"noise_share": round(s, 4), **_halves(systems, f"noise{round(100 * s)}", "f1")}
        for s in shares
    ]
    order = [{"place": place, **_halves(systems, f"order_{place}", "f1")} for place in PLACES]
    swap = {
        half: {
            "follows": _cell(systems, f"swap_{half}"),
            "keeps": _cell(systems, f"swap_memory_{half}"),
        }
        for half in HALVES
    }
    return {"noise": noise, "order": order, "swap": swap}


def _halves(systems: dict[str, dict[str, Any]], name: str, metric: str) -> dict[str, Any]:
    return {half: systems.get(f"{name}_{half}", {}).get(metric) for half in HALVES}


def _cell(systems: dict[str, dict[str, Any]], name: str) -> Any:
    return systems.get(name, {}).get("contains")
