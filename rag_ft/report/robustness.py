"""The scores of the robustness probes: base against tuned under noise, order and contradiction."""

from __future__ import annotations

from typing import Any

from rag_ft.evaluation.extras.robustness import NOISE_CHUNKS, PLACES, STATES
from rag_ft.evaluation.metric_table import DECIDING_ANSWER


def robustness(systems: dict[str, dict[str, Any]]) -> dict[str, Any] | None:
    """{"noise": [{"noise_share", base, tuned}], "order": [{"place", base, tuned}], "swap": {base,
    tuned: {follows, keeps}}}; None without probes. A value is {value, ci95, n} of F1, for `swap`
    of containment: `follows` of the answer that was swapped into the context, `keeps` of the true
    answer, which the context contradicts.
    """
    if "noise0_base" not in systems:
        return None

    def both(probe: str) -> dict[str, Any]:
        return {s: systems.get(f"{probe}_{s}", {}).get(DECIDING_ANSWER) for s in STATES}

    noise = []
    for number in NOISE_CHUNKS:
        share = number / (number + 1)  # of the context, beside one gold chunk
        noise.append({"noise_share": round(share, 4), **both(f"noise{round(100 * share)}")})
    order = [{"place": place, **both(f"order_{place}")} for place in PLACES]
    swap = {}
    for state in STATES:
        follows = systems.get(f"swap_{state}", {}).get("contains")
        keeps = systems.get(f"swap_memory_{state}", {}).get("contains")
        swap[state] = {"follows": follows, "keeps": keeps}
    return {"noise": noise, "order": order, "swap": swap}
