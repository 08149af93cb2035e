"""How good one answer is: SQuAD's exact match and F1, ROUGE, containment, abstention, citations,
faithfulness.

Every value is a share (0-1). `answers` are the accepted answers; none of them means that the
question cannot be answered from the documents and that saying so is right.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rag_ft.evaluation.metric_table import METRICS, in_family
from rag_ft.text import content_words, stems

ANSWER_METRICS = {name: METRICS[name].score for name in in_family("answer")}


def score_answer(prediction: str, answers: Sequence[str], abstained: bool) -> dict[str, float]:
    """The metrics of the family answer for one prediction, and `abstained`.

    Where there is no answer to give, abstaining scores 1 on every metric and anything else 0;
    abstaining where there is one scores 0. An answer of nothing but white space counts as
    abstaining.
    """
    abstained = abstained or not prediction.strip()
    if abstained or not answers:
        right = float(abstained and not answers)
        return {**dict.fromkeys(ANSWER_METRICS, right), "abstained": float(abstained)}
    values = {name: score(prediction, answers) for name, score in ANSWER_METRICS.items() if score}
    return {**values, "abstained": 0.0}


def faithfulness(prediction: str, context: Sequence[str]) -> float | None:
    """Share of the answer's content words (stems) that occur in the shown chunks.

    None where there is nothing to support: no content word, or no context. A lexical measure: it
    sees invented names and numbers, not a wrong relation between words that are all there.
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
    """Precision: share of the cited chunks that hold the evidence. Recall: 1.0 if one of the shown
    ones is cited.

    A metric is left out where it means nothing: precision without a citation, recall without a gold
    chunk shown.
    """
    scores = {}
    if cited:
        scores["citation_precision"] = len(set(cited) & set(gold)) / len(set(cited))
    if set(shown) & set(gold):
        scores["citation_recall"] = float(bool(set(cited) & set(gold)))
    return scores
