"""How good one answer is: SQuAD's exact match and F1, ROUGE, containment, abstention, citations,
faithfulness.

Every value is a share (0-1). `answers` are the accepted answers. Without any, the documents do not
contain an answer, and abstaining is right.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from rag_ft.evaluation.metric_table import METRICS, in_family
from rag_ft.evaluation.metrics.rouge import rouge
from rag_ft.text import content_words, stems

# The values of ROUGE have no function of their own: one call computes all of them.
ANSWER_METRICS = {name: METRICS[name].score for name in in_family("answer")}


def score_answer(prediction: str, answers: Sequence[str], abstained: bool) -> dict[str, float]:
    """The metrics of the family answer for one prediction, and `abstained`.

    Where the documents contain no answer, abstaining scores 1 on every metric and anything else 0.
    Where they contain one, abstaining scores 0. An answer of white space alone counts as
    abstaining.
    """
    abstained = abstained or not prediction.strip()
    if abstained or not answers:
        right = float(abstained and not answers)
        return {**dict.fromkeys(ANSWER_METRICS, right), "abstained": float(abstained)}
    together = rouge(prediction, answers)
    values = {
        name: score(prediction, answers) if score else together[name]
        for name, score in ANSWER_METRICS.items()
    }
    return {**values, "abstained": 0.0}


def faithfulness(prediction: str, context: Sequence[str]) -> float | None:
    """Share (0-1) of the answer's content words (stems) that occur in the shown chunks.

    None where nothing can be supported: the answer has no content word, or no chunk is shown. The
    measure is lexical: it finds invented names and numbers, but not a wrong relation between words
    that all occur.
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
    """Of chunk ids. Precision: share (0-1) of the cited chunks that are gold. Recall: 1.0 if a gold
    chunk that was shown is cited, else 0.0.

    Precision is left out without a citation, recall where no gold chunk was shown.
    """
    scores = {}
    if cited:
        scores["citation_precision"] = len(set(cited) & set(gold)) / len(set(cited))
    if set(shown) & set(gold):
        scores["citation_recall"] = float(bool(set(cited) & set(gold)))
    return scores
