"""How good one answer is: SQuAD's exact match and F1, ROUGE, containment, abstention, citations, faithfulness.

Every value is a share (0-1). `answers` are the accepted answers; none of them means that the question cannot be
answered from the documents and that saying so is right.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence

from rag_ft.metrics.rouge import ROUGE, rouge
from rag_ft.text import (
    contains_words,
    content_words,
    normalise,
    single_spaced,
    stems,
    without_punctuation,
)

ANSWER_METRICS = ("em", "f1", *ROUGE, "contains")


# From SQuAD's normal form to milder ones, for answers that it leaves nothing of.
FORMS = (normalise, without_punctuation, single_spaced)


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1.0 if the prediction equals an accepted answer in SQuAD's normal form.

    Where that form leaves nothing of any accepted answer ("A", "The", "+"), the next milder form is used that does:
    the official script would take every prediction that it empties for right.
    """
    return float(any(said == wanted for said, wanted in _compared(prediction, answers)))


def token_f1(prediction: str, answers: Sequence[str]) -> float:
    """Token F1 with the accepted answer that fits best, as in SQuAD v2's official script; forms as of exact_match."""
    return max(_f1(said.split(), wanted.split()) for said, wanted in _compared(prediction, answers))


def contains(prediction: str, answers: Sequence[str]) -> float:
    """1.0 if the prediction has an accepted answer in it as whole words (as a substring in scripts without spaces);
    forms as of exact_match."""
    return float(
        any(contains_words(said, wanted) for said, wanted in _compared(prediction, answers))
    )


def score_answer(prediction: str, answers: Sequence[str], abstained: bool) -> dict[str, float]:
    """All of ANSWER_METRICS for one prediction, and `abstained`.

    Where there is no answer to give, abstaining scores 1 on every metric and anything else 0; abstaining where there
    is one scores 0. An answer of nothing but white space counts as abstaining.
    """
    abstained = abstained or not prediction.strip()
    if abstained or not answers:
        right = float(abstained and not answers)
        return {**dict.fromkeys(ANSWER_METRICS, right), "abstained": float(abstained)}
    return {
        "em": exact_match(prediction, answers),
        "f1": token_f1(prediction, answers),
        **rouge(prediction, answers),
        "contains": contains(prediction, answers),
        "abstained": 0.0,
    }


def faithfulness(prediction: str, context: Sequence[str]) -> float | None:
    """Share of the answer's content words (stems) that occur in the shown chunks.

    None where there is nothing to support: no content word, or no context. A lexical measure: it sees invented names
    and numbers, not a wrong relation between words that are all there.
    """
    words = content_words(prediction)
    if not words or not context:
        return None
    return len(words & shown_words(tuple(context))) / len(words)


def shown_words(context: tuple[str, ...]) -> set[str]:
    """The stems of the shown chunks."""
    return {stem for chunk in context for stem in stems(chunk)}


def citation_scores(
    cited: Collection[str], shown: Collection[str], gold: Collection[str]
) -> dict[str, float]:
    """Precision: share of the cited chunks that hold the evidence. Recall: 1.0 if one of the shown ones is cited.

    A metric is left out where it means nothing: precision without a citation, recall without a gold chunk shown.
    """
    scores = {}
    if cited:
        scores["citation_precision"] = len(set(cited) & set(gold)) / len(set(cited))
    if set(shown) & set(gold):
        scores["citation_recall"] = float(bool(set(cited) & set(gold)))
    return scores


def _compared(prediction: str, answers: Sequence[str]) -> list[tuple[str, str]]:
    """(prediction, accepted answer) in one form each. As in the official script, answers that normalise to nothing are
    dropped where others are left, and without any answer "" is right."""
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
