"""One sentence a human can act on: which half to ship, by how much it helps, and what is not known yet."""

from __future__ import annotations

from typing import Any

ALPHA = 0.05
FEW_DOCUMENTS = 10
CANDIDATES = {"tuned_generator": "generator", "tuned_retriever": "retriever", "tuned": "both"}
WORDS = {
    "generator": "the tuned generator",
    "retriever": "the tuned retriever",
    "both": "both halves tuned",
}
HARMS = {
    "generator": "the tuned generator alone harms",
    "retriever": "the tuned retriever alone harms",
    "both": "both halves together harm",
}
UNITS = {
    "f1": "F1",
    "em": "EM",
    "recall@5": "recall@5",
    "mrr@10": "MRR@10",
    "abstention_f1": "abstention F1",
}

Comparison = dict[str, Any]


def verdict(comparisons: list[Comparison], tuned: str, answers: bool = True) -> dict[str, Any]:
    """{"ship": "both" | "generator" | "retriever" | "none" | "undecided", "sentence", "notes"}.

    Something is shipped only where its gain over base stays significant (5 %) after Holm's correction over all
    differences that decide: F1 of the three tuned cells, and recall@5 of the tuned retriever.

    Args:
        comparisons: as in metrics.json.
        tuned: which halves were really tuned, of the letters g and r.
        answers: whether answers were evaluated, or retrieval alone.
    """
    found = _decide(comparisons, tuned, answers)
    return {**found, "notes": found["notes"] + _better_alone(comparisons, tuned)}


def _decide(comparisons: list[Comparison], tuned: str, answers: bool) -> dict[str, Any]:
    if not tuned:
        return _result(
            "none",
            "Nothing was tuned, or no tuning was accepted: base is all there is to ship.",
            [],
        )
    decides = {(c["b"], c["metric"]): c for c in comparisons if c["family"] == "decides"}
    recall = decides.get(("tuned", "recall@5"))
    gains = {half: c for name, half in CANDIDATES.items() if (c := decides.get((name, "f1")))}
    if not answers or not gains:
        return _by_recall(recall, _unmeasured(tuned, answers))
    notes = _notes(gains, comparisons)
    better = {half: c for half, c in gains.items() if _is_gain(c)}
    if better:
        best = max(better, key=lambda half: (better[half]["delta"], half == "both"))
        return _result(
            best, f"Ship {_name(best)}: {_amount(better[best])}{_rest(gains, best)}.", notes
        )
    if recall and _is_gain(recall) and not _is_loss(gains.get("retriever")):
        sentence = f"Ship the tuned retriever for what it finds: {_amount(recall)}; no gain in answers is proven yet"
        return _result("retriever", f"{sentence}{_rest(gains, None)}.", notes)
    if all(_is_loss(c) for c in gains.values()):
        worst = min(gains.values(), key=lambda c: c["delta"])
        return _result(
            "none", f"Keep the base: tuning made the answers worse ({_amount(worst)}).", notes
        )
    best = max(
        (half for half in gains if not _is_loss(gains[half])), key=lambda half: gains[half]["delta"]
    )
    sentence = (
        f"Undecided: {WORDS[best]} {_amount(gains[best])}; {_more(gains[best])}{_harms(gains)}."
    )
    return _result("undecided", sentence, notes)


def points(value: float) -> str:
    """A share as signed percentage points: +6.1."""
    return f"{100 * value:+.1f}"


def described(comparison: Comparison) -> str:
    """ "+3.4 recall@5 (95 % CI 1.0 to 6.4)", and where that is not settled, what would settle it."""
    if _is_gain(comparison) or _is_loss(comparison):
        return _amount(comparison)
    return f"{_amount(comparison)}, {_open(comparison)}; {_more(comparison)}"


def _unmeasured(tuned: str, answers: bool) -> str:
    """Why there is neither a difference in answers nor one in recall."""
    if answers:
        return "no answers of a tuned system were scored"
    if "r" not in tuned:
        return "the retriever was not tuned and answers were not asked"
    return "no question has a known proving chunk, so nothing was measured"


def _by_recall(recall: Comparison | None, unmeasured: str) -> dict[str, Any]:
    if recall is None:
        return _result("undecided", f"Undecided: {unmeasured}.", [])
    if _is_gain(recall):
        return _result(
            "retriever", f"Ship the tuned retriever: {_amount(recall)}.", _cautions(recall)
        )
    if _is_loss(recall):
        return _result(
            "none",
            f"Keep the base retriever: tuning made it worse ({_amount(recall)}).",
            _cautions(recall),
        )
    return _result(
        "undecided",
        f"Undecided: the tuned retriever {_amount(recall)}; {_more(recall)}.",
        _cautions(recall),
    )


def _rest(gains: dict[str, Comparison], shipped: str | None) -> str:
    """What is to be said of the single halves that are not shipped, and of both where they harm."""
    parts = []
    for half, comparison in gains.items():
        if (
            half in (shipped, "both")
            or (shipped is None and half == "generator")
            or _is_loss(comparison)
        ):
            continue
        if _is_gain(comparison):
            parts.append(f"{WORDS[half]} alone brings {_amount(comparison)}")
        else:
            parts.append(f"{WORDS[half]} alone is {_open(comparison)}, {_more(comparison)}")
    return "".join(f"; {part}" for part in parts) + _harms(gains)


def _harms(gains: dict[str, Comparison]) -> str:
    """Every proven loss: a verdict on one half is not to hide what another does."""
    return "".join(f"; {HARMS[half]} ({_amount(c)})" for half, c in gains.items() if _is_loss(c))


def _find(comparisons: list[Comparison], a: str, b: str, metric: str) -> Comparison | None:
    return next((c for c in comparisons if (c["a"], c["b"], c["metric"]) == (a, b, metric)), None)


def _notes(gains: dict[str, Comparison], comparisons: list[Comparison]) -> list[str]:
    """What else changed: how much is found, how high it ranks (where nearly all is found, rank is what can still
    change), and whether the tuned generator makes things up where the context does not tell."""
    notes = []
    if recall := _find(comparisons, "base", "tuned", "recall@5"):
        notes.append(f"Retrieval: {described(recall)}.")
    rank = _find(comparisons, "base", "tuned", "mrr@10")
    if rank and (_is_gain(rank) or _is_loss(rank)):
        way = "higher" if _is_gain(rank) else "lower"
        notes.append(f"The tuned retriever ranks the proof {way}: {_amount(rank)}.")
    withheld = _find(comparisons, "withheld_base", "withheld_tuned", "em")
    if withheld and (_is_gain(withheld) or _is_loss(withheld)):
        way = "more" if _is_gain(withheld) else "LESS"
        interval = _amount(withheld).replace(" EM", " points")
        notes.append(
            f"Where the context lacks the proof, the tuned generator abstains {way} often: {interval}."
        )
    refusing = _find(comparisons, "base", "tuned_generator", "abstention_f1")
    if refusing and (_is_gain(refusing) or _is_loss(refusing)):
        way = "better" if _is_gain(refusing) else "WORSE"
        notes.append(
            f"The tuned generator tells {way} which questions have no answer: {_amount(refusing)}."
        )
    return notes + _cautions(next(iter(gains.values())))


def _better_alone(comparisons: list[Comparison], tuned: str) -> list[str]:
    """Whether one side of the fusion ranks better than the fusion that is served."""
    served = "tuned" if "r" in tuned else "base"
    notes = []
    for side, mode, name in (
        (f"dense_{served}", "dense", "the encoder"),
        ("lexical", "lexical", "BM25"),
    ):
        rank = _find(comparisons, side, served, "mrr@10")
        if rank and _is_loss(rank):
            loss = f"What is served ranks the proof lower than {name} alone does: {_amount(rank)}"
            notes.append(f"{loss}; try retrieval.mode={mode}, and compare the answers too.")
    return notes


def _cautions(comparison: Comparison) -> list[str]:
    num = comparison["num_documents"]
    if num < 2:
        return [
            "All test questions are about one document: no interval can be given. Add test documents."
        ]
    if num < FEW_DOCUMENTS:
        return [
            f"Only {num} test documents: intervals are wide, and other documents may behave differently."
        ]
    return []


def _is_gain(comparison: Comparison) -> bool:
    return comparison["p_holm"] < ALPHA and comparison["delta"] > 0


def _is_loss(comparison: Comparison | None) -> bool:
    return comparison is not None and comparison["p_holm"] < ALPHA and comparison["delta"] < 0


def _amount(comparison: Comparison) -> str:
    text = f"{points(comparison['delta'])} {UNITS[comparison['metric']]}"
    if comparison["ci95"] is None:
        return f"{text} (no interval: one document)"
    low, high = (100 * bound for bound in comparison["ci95"])
    return f"{text} (95 % CI {low:.1f} to {high:.1f})"


def _open(comparison: Comparison) -> str:
    alone = comparison["p"] is not None and comparison["p"] < ALPHA
    return (
        "not significant once several comparisons are allowed for" if alone else "not significant"
    )


def _more(comparison: Comparison) -> str:
    """What would settle a difference that is not significant."""
    num = comparison["more_questions"]
    if num:
        step = 10 ** max(1, len(str(num)) - 2)
        return f"about {-(-num // step) * step:,} more questions would tell"
    if comparison["delta"] == 0:
        return "no difference was seen"
    if not _varies(comparison):
        return "add test documents, these do not tell how far others would differ"
    return "the difference is too small for any reachable number of questions to tell"


def _varies(comparison: Comparison) -> bool:
    """Whether the documents changed by different amounts: without that there is no standard error."""
    return comparison["ci95"] is not None and comparison["ci95"][0] < comparison["ci95"][1]


def _name(half: str) -> str:
    return {
        "both": "both",
        "generator": "the tuned generator alone",
        "retriever": "the tuned retriever alone",
    }[half]


def _result(ship: str, sentence: str, notes: list[str]) -> dict[str, Any]:
    return {"ship": ship, "sentence": sentence, "notes": notes}
