"""SQuAD's exact match and F1, and containment, of an answer against the accepted ones; each is a
share (0-1)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

from rag_ft.text import composed, contains_words, normalise, single_spaced, without_punctuation

# From SQuAD's normal form to milder ones, for answers that it leaves nothing of.
FORMS = (normalise, without_punctuation, single_spaced)


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1.0 if the prediction equals an accepted answer in SQuAD's normal form.

    Where that form leaves nothing of any accepted answer ("A", "The", "+"), the next milder form
    that leaves something is used. The official script accepts every prediction there of which its
    form leaves nothing either.
    """
    pairs = _in_one_form(prediction, tuple(answers))
    return float(any(said == wanted for said, wanted in pairs))


def token_f1(prediction: str, answers: Sequence[str]) -> float:
    """Token F1 with the accepted answer that fits best, as in SQuAD v2's official script; forms as
    of exact_match."""
    best = 0.0
    for said, wanted in _in_one_form(prediction, tuple(answers)):
        words, wanted_words = said.split(), wanted.split()
        if not words or not wanted_words:
            best = max(best, float(words == wanted_words))
            continue
        # Each word of the accepted answer counts once.
        unmatched, same = Counter(wanted_words), 0
        for word in words:
            if unmatched.get(word, 0):
                unmatched[word] -= 1
                same += 1
        if same:
            precision, recall = same / len(words), same / len(wanted_words)
            best = max(best, 2 * precision * recall / (precision + recall))
    return best


def contains(prediction: str, answers: Sequence[str]) -> float:
    """1.0 if the prediction contains an accepted answer as whole words (as a substring in scripts
    without spaces); forms as of exact_match."""
    pairs = _in_one_form(prediction, tuple(answers))
    return float(any(contains_words(said, wanted) for said, wanted in pairs))


# The three metrics of one answer ask for the same pairs, one after the other.
@lru_cache(maxsize=1 << 10)
def _in_one_form(prediction: str, answers: tuple[str, ...]) -> list[tuple[str, str]]:
    """(prediction, accepted answer) in one form each. As in the official script, answers that
    normalise to nothing are left out where others remain, and without any answer "" is right."""
    accepted = [answer for answer in answers if normalise(answer)] or answers or ("",)
    # An accent may be a part of its letter or a character of its own.
    prediction, accepted = composed(prediction), [composed(answer) for answer in accepted]
    pairs = []
    for answer in accepted:
        form = next((form for form in FORMS if form(answer)), normalise)
        pairs.append((form(prediction), form(answer)))
    return pairs
