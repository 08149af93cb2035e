"""What the decision about a version says where it is kept back."""

from __future__ import annotations

from rag_ft.evaluation.statistics import Estimate
from rag_ft.improving.decision import more_needed


def change(value: float, standard_error: float = 0.0078) -> Estimate:
    return Estimate(value, (value - 0.02, value + 0.01), 0.3, standard_error, 127, 11)


def test_a_small_loss_says_how_many_more_questions_would_exclude_a_large_one() -> None:
    # 127 * ((1.96 + 0.84) * 0.0078 / (0.02 - 0.008)) ** 2 = 421 questions in all.
    assert more_needed(change(-0.008), 0.02) == ", about 300 more questions needed"
    assert more_needed(change(0.01), 0.02) == ", about 20 more questions needed"


def test_a_loss_that_is_too_large_or_has_no_variation_says_nothing_of_questions() -> None:
    assert more_needed(change(-0.02), 0.02) == more_needed(change(-0.05), 0.02) == ""
    assert more_needed(change(-0.008, standard_error=0.0), 0.02) == ""
    assert more_needed(change(-0.0199), 0.02) == ""
