"""Intervals and tests, by simulation and against scipy."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest
from scipy import stats

from rag_ft.evaluation.statistics import (
    Estimate,
    bootstrap,
    bootstrap_change,
    holm,
    mcnemar,
    more_questions,
    sign_flip,
)


def clustered(
    rng: np.random.Generator, num_documents: int, mean: float, columns: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """(deltas, documents): differences of -1, 0, 1 that go up and down together in a document."""
    documents = np.repeat(np.arange(num_documents), rng.integers(2, 15, num_documents))
    # Every share below stays within 0 to 1.
    lean = rng.uniform(-0.22, 0.22, (num_documents, columns))[documents]
    draws = rng.random((len(documents), columns))
    return np.where(
        draws < 0.15 + (mean + lean) / 2, 1.0, np.where(draws > 0.85 + (mean + lean) / 2, -1.0, 0.0)
    ), documents


def intervals(
    deltas: np.ndarray, documents: np.ndarray, seed: int, num_resamples: int = 1000
) -> list[Estimate]:
    return bootstrap(deltas, np.ones_like(deltas), documents, num_resamples, seed)


def coverage(
    num_documents: int, num_simulations: int, num_resamples: int = 600, mean: float = 0.05
) -> float:
    """Share of simulations whose interval contains the true mean; few resamples cost a little."""
    rng, inside = np.random.default_rng(num_documents), 0
    for simulation in range(num_simulations):
        deltas, documents = clustered(rng, num_documents, mean)
        low, high = intervals(deltas, documents, simulation, num_resamples)[0].ci95 or (0, 0)
        inside += low <= mean <= high
    return inside / num_simulations


def test_the_change_of_a_mean_is_the_mean_of_the_changes() -> None:
    rng = np.random.default_rng(2)
    documents = np.repeat(np.arange(30), 4)
    before, after = rng.random((2, 120, 2))
    ones = np.ones_like(before)
    changes = bootstrap_change((before, ones), (after, ones), documents, 500, 3)
    for change, mean in zip(
        changes, bootstrap(after - before, ones, documents, 500, 3), strict=True
    ):
        assert dataclasses.astuple(change)[2:] == pytest.approx(dataclasses.astuple(mean)[2:])
        assert (change.value, *change.ci95) == pytest.approx((mean.value, *mean.ci95))


def test_the_change_of_an_f1_is_that_of_the_ratios_and_its_interval_covers_the_truth() -> None:
    """Two systems abstain; F1 = 2 right / (abstained + unanswerable). Truth by a large sample."""

    def draw(
        rng: np.random.Generator, num_documents: int
    ) -> tuple[list[tuple[np.ndarray, np.ndarray]], np.ndarray]:
        documents = np.repeat(np.arange(num_documents), 12)
        none, lean = (
            rng.random(len(documents)) < 0.2,
            rng.uniform(-0.15, 0.15, num_documents)[documents],
        )
        columns = []
        for right, wrong in ((0.5, 0.2), (0.7, 0.2)):
            said = rng.random(len(documents)) < np.where(none, right, wrong) + lean
            columns.append(((2.0 * (said & none))[:, None], (said.astype(float) + none)[:, None]))
        return columns, documents

    (before, after), documents = draw(np.random.default_rng(0), 20_000)
    truth = after[0].sum() / after[1].sum() - before[0].sum() / before[1].sum()
    rng, inside = np.random.default_rng(1), 0
    for simulation in range(400):
        (before, after), documents = draw(rng, 40)
        found = bootstrap_change(before, after, documents, 400, simulation)[0]
        assert found.value == pytest.approx(
            after[0].sum() / after[1].sum() - before[0].sum() / before[1].sum()
        )
        low, high = found.ci95 or (0, 0)
        inside += low <= truth <= high
    assert 0.92 <= inside / 400 <= 0.98


@pytest.mark.parametrize("num_documents", [25, 80])
def test_the_interval_covers_the_truth_about_95_times_in_100(num_documents: int) -> None:
    assert 0.925 <= coverage(num_documents, 600) <= 0.975


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("num_documents", [25, 60, 150])
def test_the_interval_covers_94_to_96_percent(num_documents: int) -> None:
    assert 0.94 <= coverage(num_documents, 4000, 2000) <= 0.96


def test_resampling_questions_instead_of_documents_would_promise_too_much() -> None:
    rng = np.random.default_rng(5)
    documents = np.repeat(np.arange(20), 30)
    deltas = rng.normal(0, 0.4, 20)[documents][:, None] + rng.normal(0, 0.1, (600, 1))
    by_document = intervals(deltas, documents, 0)[0]
    by_question = intervals(deltas, np.arange(600), 0)[0]
    assert by_document.standard_error > 4 * by_question.standard_error


def test_the_standard_error_is_that_of_a_mean_when_every_question_is_a_document() -> None:
    values = np.random.default_rng(0).normal(1, 2, (400, 1))
    estimate = intervals(values, np.arange(400), 0, 4000)[0]
    assert estimate.standard_error == pytest.approx(values.std() / 20, rel=0.05)
    expected = stats.ttest_1samp(values[:, 0], 0)
    assert estimate.ci95 == pytest.approx(expected.confidence_interval(0.95), abs=0.02)


def test_p_and_interval_agree() -> None:
    rng = np.random.default_rng(2)
    for seed in range(40):
        deltas, documents = clustered(rng, 30, 0.07)
        estimate = intervals(deltas, documents, seed)[0]
        assert (estimate.p < 0.05) == (estimate.ci95[0] > 0 or estimate.ci95[1] < 0)


def test_the_same_seed_gives_the_same_interval() -> None:
    deltas, documents = clustered(np.random.default_rng(0), 30, 0.1)
    assert intervals(deltas, documents, 7) == intervals(deltas, documents, 7)


def test_a_ratio_of_sums_is_resampled_as_one() -> None:
    # precision: 3 right of 4 said; the document that said nothing counts for nothing
    right, said = np.array([[1.0], [0.0], [2.0], [0.0]]), np.array([[1.0], [1.0], [2.0], [0.0]])
    estimate = bootstrap(right, said, np.array([0, 1, 2, 3]), 500, 0)[0]
    assert (estimate.value, estimate.n, estimate.num_documents) == (0.75, 3, 3)


def test_one_document_gives_no_interval_and_no_p() -> None:
    estimate = intervals(np.array([[0.1], [0.2]]), np.array([0, 0]), 0)[0]
    assert (estimate.ci95, estimate.p) == (None, None)


def test_no_difference_at_all_is_certainly_nothing() -> None:
    estimate = intervals(np.zeros((30, 1)), np.arange(30), 0)[0]
    assert (estimate.value, estimate.ci95, estimate.p) == (0.0, (0.0, 0.0), 1.0)


def test_rounding_noise_is_no_spread() -> None:
    """Every document gains 6 of its 10 questions: sums of 0.6 differ in their last bit."""
    for num_documents, share in itertools.product((2, 3, 5, 12), (0.1, 0.3, 0.5, 0.6, 0.7)):
        deltas = np.tile(np.arange(10) < 10 * share, num_documents).astype(float)[:, None]
        estimate = intervals(deltas, np.repeat(np.arange(num_documents), 10), 0)[0]
        assert (estimate.standard_error, estimate.p) == (0.0, 2 * 0.5**num_documents), share
        assert more_questions(estimate) is None


def test_where_nothing_varies_six_documents_are_the_fewest_that_tell() -> None:
    p = {number: intervals(np.ones((number, 1)), np.arange(number), 0)[0].p for number in (2, 5, 6)}
    assert p[2] == 0.5 and p[5] > 0.05 > p[6]


def test_what_counts_as_significant_has_no_zero_in_its_interval() -> None:
    """Few changes over few documents: many resamples are exactly 0."""
    rng, num_significant = np.random.default_rng(0), 0
    for seed in range(400):
        num_documents, per_document = rng.integers(8, 40), rng.integers(1, 6)
        documents = np.repeat(np.arange(num_documents), per_document)
        deltas = rng.choice([-1.0, 0.0, 1.0], p=[0.1, 0.6, 0.3], size=(len(documents), 1))
        estimate = intervals(deltas, documents, seed)[0]
        low, high = (round(bound, 6) for bound in estimate.ci95)
        if estimate.p < 0.05:
            assert not low <= 0 <= high
            num_significant += 1
    assert num_significant > 50


def test_a_large_difference_over_few_documents_is_not_held_back_by_few_resamples() -> None:
    deltas = np.random.default_rng(0).normal(0.5, 0.15, (12, 1))
    few, exact = (
        intervals(deltas, np.arange(12), 0, 500)[0].p,
        stats.ttest_1samp(deltas[:, 0], 0).pvalue,
    )
    assert few < 0.001
    assert exact / 100 < few < exact * 100


def test_sign_flips_agree_with_scipys_permutation_test() -> None:
    rng = np.random.default_rng(4)
    deltas = rng.normal(0.1, 0.3, (40, 1))
    peer = stats.permutation_test(
        (deltas[:, 0],), np.sum, permutation_type="samples", n_resamples=20000, rng=rng
    )
    assert sign_flip(deltas, np.arange(40), 20000, 0)[0] == pytest.approx(peer.pvalue, abs=0.01)


def test_sign_flips_treat_a_document_as_one() -> None:
    documents = np.repeat(np.arange(5), 100)
    deltas = np.ones((500, 1))
    assert sign_flip(deltas, documents, 5000, 0)[0] == pytest.approx(2 / 2**5, abs=0.02)


def test_mcnemar_is_the_exact_binomial_test_on_discordant_pairs() -> None:
    a, b = (
        np.array([1] * 3 + [0] * 12 + [1] * 50, float),
        np.array([0] * 3 + [1] * 12 + [1] * 50, float),
    )
    assert mcnemar(a, b) == pytest.approx(stats.binomtest(12, 15).pvalue)
    assert mcnemar(a, a) == 1.0


def test_holm_of_a_hand_computed_family() -> None:
    # sorted .01 x 3, .02 x 2, .04 x 1; never decreasing
    assert holm([0.04, 0.01, 0.02]) == pytest.approx([0.04, 0.03, 0.04])
    assert holm([]) == []
    assert holm([0.9, 0.8]) == [1.0, 1.0]


def test_more_questions_reach_the_promised_power() -> None:
    rng = np.random.default_rng(8)
    estimate = Estimate(0.06, (-0.01, 0.13), 0.1, 0.035, 200, 200)
    total = 200 + (more_questions(estimate) or 0)
    spread = 0.035 * np.sqrt(200)
    draws = rng.normal(0.06, spread, (2000, total))
    found = stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05
    assert 0.77 < found.mean() < 0.83


def test_a_difference_out_of_reach_asks_for_no_number_of_questions() -> None:
    assert more_questions(Estimate(0.0001, (-0.1, 0.1), 0.9, 0.05, 100, 50)) is None
    assert more_questions(Estimate(0.0, (0.0, 0.0), 1.0, 0.0, 100, 50)) is None
