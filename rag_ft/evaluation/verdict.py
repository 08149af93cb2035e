"""One sentence that says what to do: which components to ship, what they gain, and what is still
open."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, TypeGuard

from rag_ft.evaluation.components import RANKING, WORDS, set_name, set_words
from rag_ft.evaluation.metric_table import (
    ABSTENTION_F1,
    DECIDING_ANSWER,
    DECIDING_RETRIEVAL,
    EXACT_MATCH,
    LABELS,
    RANK,
)
from rag_ft.evaluation.systems import SERVED, TUNED_SYSTEMS

ALPHA = 0.05
FEW_DOCUMENTS = 10

Comparison = dict[str, Any]
Gains = dict[frozenset[str], Comparison]  # by tuned components: their difference from base


def verdict(
    comparisons: list[Comparison], tuned: Collection[str], answers: bool = True
) -> dict[str, Any]:
    """{"ship": a component | "both" | "none" | "undecided", "sentence", "notes"}.

    Something is shipped only where its gain over base stays significant (5 %) after Holm's
    correction over all differences that decide: F1 of the systems with tuned components, and
    recall@5 of the tuned rankings.

    Args:
        comparisons: as in metrics.json.
        tuned: the components that were tuned.
        answers: whether answers were evaluated, or retrieval alone.
    """
    found = _decide(comparisons, tuned, answers)
    # Does the encoder or BM25 alone rank better than the mixture that is served?
    served = "tuned" if RANKING & frozenset(tuned) else "base"
    encoder = "dense_tuned" if "retriever" in tuned else "dense_base"
    for ranking, mode, name in ((encoder, "dense", "the encoder"), ("lexical", "lexical", "BM25")):
        rank = _find(comparisons, ranking, served, RANK)
        if _is_loss(rank):
            found["notes"].append(
                f"What is served ranks the gold chunk lower than {name} alone does: "
                f"{_amount(rank)}; try retrieval.mode={mode}, and compare the answers too."
            )
    return found


def _decide(comparisons: list[Comparison], tuned: Collection[str], answers: bool) -> dict[str, Any]:
    if not tuned:
        sentence = "Nothing was tuned, or no tuning was accepted: base is all there is to ship."
        return _result("none", sentence, [])
    # What decides, by the components that were tuned: the gains in answers and in retrieval.
    decides = {(c["b"], c["metric"]): c for c in comparisons if c["family"] == "decides"}
    gains: Gains = {}
    for system in TUNED_SYSTEMS:
        if gain := decides.get((system.name, DECIDING_ANSWER)):
            gains[system.tuned & frozenset(tuned)] = gain
    recalls: Gains = {}
    for name, row in SERVED.items():
        if gain := decides.get((name, DECIDING_RETRIEVAL)):
            recalls[row.tuned & frozenset(tuned)] = gain
    # The components that find most: they can be shipped where answers do not decide.
    ranking = max(recalls, key=lambda components: recalls[components]["delta"], default=RANKING)
    recall = recalls.get(ranking)
    if not answers or not gains:
        return _by_recall(ranking, recall, tuned, answers)

    notes = _notes(gains, comparisons)
    # A significant gain in answers: ship the largest, of equal ones the one with more components.
    better = [components for components, gain in gains.items() if _is_gain(gain)]
    if better:
        best = max(better, key=lambda components: (gains[components]["delta"], len(components)))
        words = WORDS.get(best) or set_words(best)
        if len(best) == 1:
            words += " alone"
        rest = _rest(gains, [other for other in gains if len(other) == 1 and other != best])
        return _result(set_name(best), f"Ship {words}: {_amount(gains[best])}{rest}.", notes)
    # A significant gain in retrieval that does not make the answers worse.
    if _is_gain(recall) and not _is_loss(gains.get(ranking)):
        found = f"Ship {set_words(ranking)} for what it finds: {_amount(recall)}"
        rest = _rest(gains, [ranking] if ranking in gains else [])
        sentence = f"{found}; no gain in answers is significant yet{rest}."
        return _result(set_name(ranking), sentence, notes)
    # Everything that was tuned harms.
    open_ = [components for components, gain in gains.items() if not _is_loss(gain)]
    if not open_:
        worst = min(gains.values(), key=lambda gain: gain["delta"])
        sentence = f"Keep the base: tuning made the answers worse ({_amount(worst)})."
        return _result("none", sentence, notes)
    best = max(open_, key=lambda components: gains[components]["delta"])
    sentence = f"Undecided: {set_words(best)} {_amount(gains[best])}; {_more(gains[best])}"
    return _result("undecided", f"{sentence}{_harms(gains)}.", notes)


def points(value: float) -> str:
    """A share as signed percentage points: +6.1."""
    return f"{100 * value:+.1f}"


def in_brackets(ci95: Sequence[float]) -> str:
    """ "(95 % CI -0.9 to 1.7)": an interval of shares, in percent."""
    low, high = (100 * bound for bound in ci95)
    return f"(95 % CI {low:.1f} to {high:.1f})"


def about_more(num: int) -> str:
    """ "about 420 more": rounded up to two digits, since the number is an estimate."""
    step = 10 ** max(1, len(str(num)) - 2)
    return f"about {-(-num // step) * step:,} more"


def described(comparison: Comparison) -> str:
    """ "+3.4 recall@5 (95 % CI 1.0 to 6.4)"; where that is not significant, also how many questions
    are needed."""
    if _is_gain(comparison) or _is_loss(comparison):
        return _amount(comparison)
    return f"{_amount(comparison)}, {_open(comparison)}; {_more(comparison)}"


def _by_recall(
    ranking: frozenset[str], recall: Comparison | None, tuned: Collection[str], answers: bool
) -> dict[str, Any]:
    """The verdict where there is no difference in answers."""
    if recall is None:
        why = "no question has a known gold chunk, so nothing was measured"
        if answers:
            why = "no answers of a tuned system were scored"
        elif not RANKING & frozenset(tuned):
            why = "the retriever was not tuned and answers were not evaluated"
        return _result("undecided", f"Undecided: {why}.", [])
    found, notes, words = _amount(recall), _cautions(recall), set_words(ranking)
    if _is_gain(recall):
        return _result(set_name(ranking), f"Ship {words}: {found}.", notes)
    if _is_loss(recall):
        base = words.replace("tuned", "base")
        return _result("none", f"Keep {base}: tuning made it worse ({found}).", notes)
    return _result("undecided", f"Undecided: {words} {found}; {_more(recall)}.", notes)


def _rest(gains: Gains, others: list[frozenset[str]]) -> str:
    """What these components, which are not shipped alone, bring, and which components harm."""
    parts = []
    for components in others:
        comparison, words = gains[components], set_words(components)
        if _is_gain(comparison):
            parts.append(f"{words} alone brings {_amount(comparison)}")
        elif not _is_loss(comparison):
            parts.append(f"{words} alone is {_open(comparison)}, {_more(comparison)}")
    return "".join(f"; {part}" for part in parts) + _harms(gains)


def _harms(gains: Gains) -> str:
    """Every significant loss: a verdict on one component must not hide another's harm."""
    parts = []
    for components, comparison in gains.items():
        if _is_loss(comparison):
            word = WORDS.get(components)
            all_of = f"{word} components" if word else set_words(components)
            harm = f"{all_of} together harm" if len(components) > 1 else f"{all_of} alone harms"
            parts.append(f"; {harm} ({_amount(comparison)})")
    return "".join(parts)


def _find(comparisons: list[Comparison], a: str, b: str, metric: str) -> Comparison | None:
    return next((c for c in comparisons if (c["a"], c["b"], c["metric"]) == (a, b, metric)), None)


def _notes(gains: Gains, comparisons: list[Comparison]) -> list[str]:
    """What else changed: how much is found, how high it ranks, and whether the tuned generator
    answers where it should abstain."""
    notes = []
    # Where nearly all is found, only the rank can still change.
    if recall := _find(comparisons, "base", "tuned", DECIDING_RETRIEVAL):
        notes.append(f"Retrieval: {described(recall)}.")
    rank = _find(comparisons, "base", "tuned", RANK)
    if rank and (_is_gain(rank) or _is_loss(rank)):
        tuned = frozenset[str]().union(*gains)
        way, words = "higher" if _is_gain(rank) else "lower", set_words(RANKING & tuned)
        notes.append(f"{words[0].upper()}{words[1:]} ranks the gold chunk {way}: {_amount(rank)}.")
    withheld = _find(comparisons, "withheld_base", "withheld_tuned", EXACT_MATCH)
    if withheld and (_is_gain(withheld) or _is_loss(withheld)):
        way = "more" if _is_gain(withheld) else "LESS"
        interval = _amount(withheld).replace(f" {LABELS[EXACT_MATCH]}", " points")
        notes.append(
            "Where the gold chunk is withheld, "
            f"the tuned generator abstains {way} often: {interval}."
        )
    abstains = _find(comparisons, "base", "tuned_generator", ABSTENTION_F1)
    if abstains and (_is_gain(abstains) or _is_loss(abstains)):
        way = "better" if _is_gain(abstains) else "WORSE"
        notes.append(
            "The tuned generator recognises questions without an answer "
            f"{way}: {_amount(abstains)}."
        )
    return notes + _cautions(next(iter(gains.values())))


def _cautions(comparison: Comparison) -> list[str]:
    num = comparison["num_documents"]
    if num < 2:
        return [
            "All test questions are about one document: no interval can be given. "
            "Add test documents."
        ]
    if num < FEW_DOCUMENTS:
        return [
            f"Only {num} test documents: intervals are wide, "
            "and other documents may behave differently."
        ]
    return []


def _is_gain(comparison: Comparison | None) -> TypeGuard[Comparison]:
    return comparison is not None and comparison["p_holm"] < ALPHA and comparison["delta"] > 0


def _is_loss(comparison: Comparison | None) -> TypeGuard[Comparison]:
    return comparison is not None and comparison["p_holm"] < ALPHA and comparison["delta"] < 0


def _amount(comparison: Comparison) -> str:
    text = f"{points(comparison['delta'])} {LABELS[comparison['metric']]}"
    if comparison["ci95"] is None:
        return f"{text} (no interval: one document)"
    return f"{text} {in_brackets(comparison['ci95'])}"


def _open(comparison: Comparison) -> str:
    alone = comparison["p"] is not None and comparison["p"] < ALPHA
    if alone:
        return "not significant once several comparisons are allowed for"
    return "not significant"


def _more(comparison: Comparison) -> str:
    """What a difference that is not significant needs to become so."""
    num = comparison["more_questions"]
    if num:
        return f"{about_more(num)} questions needed for significance"
    if comparison["delta"] == 0:
        return "no difference was seen"
    # Where all documents changed by the same amount there is no standard error.
    interval = comparison["ci95"]
    if interval is None or interval[0] == interval[1]:
        return "add test documents: there is no variation between these"
    return "the difference is too small for any reachable number of questions"


def _result(ship: str, sentence: str, notes: list[str]) -> dict[str, Any]:
    return {"ship": ship, "sentence": sentence, "notes": notes}
