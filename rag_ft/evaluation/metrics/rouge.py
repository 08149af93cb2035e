"""ROUGE by rouge-score (F-measure, Porter stemmer). The tokenizer also keeps text that is not
Latin; scores are cached."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

from rag_ft.text import stems

ROUGE = ("rouge1", "rouge2", "rougeL", "rougeLsum")


def rouge(prediction: str, answers: Sequence[str]) -> dict[str, float]:
    """ROUGE-1, -2, -L and -Lsum F-measures (0-1), each the best over the accepted answers.

    rougeLsum takes lines as sentences, as rouge-score does: on one line it equals rougeL.
    """
    best = dict.fromkeys(ROUGE, 0.0)
    for answer in answers:
        for metric, value in _rouge_of_one(prediction, answer).items():
            best[metric] = max(best[metric], value)
    return best


@lru_cache(maxsize=1 << 16)
def _rouge_of_one(prediction: str, answer: str) -> dict[str, float]:
    said, wanted = stems(prediction), stems(answer)
    # Most wrong answers have no word in common with the accepted one: every value is 0.
    if set(said).isdisjoint(wanted):
        return dict.fromkeys(ROUGE, 0.0)
    lines = "\n" in prediction or "\n" in answer
    # rouge-score takes 3 s to import: only when an answer is scored.
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(list(ROUGE if lines else ROUGE[:3]), tokenizer=_Stems())
    scores = scorer.score(answer, prediction)
    found = {metric: float(score.fmeasure) for metric, score in scores.items()}
    return found if lines else {**found, "rougeLsum": found["rougeL"]}


class _Stems:
    def tokenize(self, text: str) -> tuple[str, ...]:
        return stems(text)
