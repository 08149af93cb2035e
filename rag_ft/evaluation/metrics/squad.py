"""SQuAD's exact match and F1, and containment, of an answer against the accepted ones; each is a
share (0-1)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rag_ft.text import contains_words, normalise, single_spaced, without_punctuation

# From SQuAD's normal form to milder ones, for answers that it leaves nothing of.
FORMS = (normalise, without_punctuation, single_spaced)


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1.0 if the prediction equals an accepted answer in SQuAD's normal form.

    Where that form leaves nothing of any accepted answer ("A", "The", "+"), the next milder form is
    used that does: the official script would take every prediction that it empties for right.
    """
    return float(any(said == wanted for said, wanted in _compared(prediction, answers)))


def token_f1(prediction: str, answers: Sequence[str]) -> float:
    """Token F1 with the accepted answer that fits best, as in SQuAD v2's official script; forms as
    of exact_match."""
    return max(_f1(said.split(), wanted.split()) for said, wanted in _compared(prediction, answers))


def contains(prediction: str, answers: Sequence[str]) -> float:
    """1.0 if the prediction has an accepted answer in it as whole words (as a substring in scripts
    without spaces); forms as of exact_match."""
    return float(
        any(contains_words(said, wanted) for said, wanted in _compared(prediction, answers))
    )


def _compared(prediction: str, answers: Sequence[str]) -> list[tuple[str, str]]:
    """(prediction, accepted answer) in one form each. As in the official script, answers that
    normalise to nothing are dropped where others are left, and without any answer "" is right."""
    gold = [answer for answer in answers if normalise(answer)] or answers or ("",)
    forms = [next((form for form in FORMS if form(answer)), normalise) for answer in gold]
    return [(form(prediction), form(answer)) for form, answer in zip(forms, gold, strict=True)]


def _f1(said: list[str], wanted: list[str]) -> float:
    if not said or not wanted:
        return float(said == wanted)
    same = sum((Counter(said) & Counter(wanted)).values())
    if same == 0:
        return 0.0
    precision, recall = same / len(said), same / len(wanted)
    return 2 * precision * recall / (precision + recall)
