"""Intervals, tests and the verdict, by simulation and against scipy."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Sequence

import numpy as np
import pytest
from scipy import stats

from rag_ft.evaluation.comparisons import DECIDING, make_table, summarise
from rag_ft.evaluation.statistics import (
    Estimate,
    bootstrap,
    bootstrap_change,
    holm,
    mcnemar,
    more_questions,
    sign_flip,
)
from rag_ft.evaluation.verdict import verdict
from rag_ft.schema import QAPair, Score

BOTH = {"generator", "retriever"}


def clustered(
    rng: np.random.Generator, num_documents: int, mean: float, columns: int = 1
) -> tuple[np.ndarray, np.ndarray]:
    """Differences of -1, 0, 1 that go up and down together within a document; (deltas, documents)."""
    documents = np.repeat(np.arange(num_documents), rng.integers(2, 15, num_documents))
    lean = rng.uniform(-0.22, 0.22, (num_documents, columns))[
        documents
    ]  # every share below stays within 0 to 1
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
    """Share of simulations whose interval holds the true mean; fewer resamples than are used cost a little of it."""
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
    """Two systems refuse questions; F1 = 2 right / (refused + unanswerable). Truth by a large sample."""

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
    """Every document gains 6 of its 10 questions: sums of 0.6 differ in the last bit from resample to resample."""
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


def test_a_large_difference_over_few_documents_is_not_held_back_by_the_number_of_resamples() -> (
    None
):
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


# --- what is compared ---------------------------------------------------------------------------------------------


def compared(
    tuned: Collection[str], systems: Sequence[str]
) -> tuple[dict[str, dict], dict[tuple[str, str], dict]]:
    """(levels, the differences in F1 by their two systems) of systems that are right at random, cells that need an
    untuned component being those of the base one, as the evaluation fills them."""
    needed = {
        "base": set(),
        "tuned_generator": {"generator"},
        "tuned_retriever": {"retriever"},
        "tuned": BOTH,
    }
    rng, pairs, scores = np.random.default_rng(3), [], []
    for number in range(60):
        key, right = f"q{number}", {}
        pairs.append(
            QAPair(key, key, ("x",), None, f"d{number // 3}", None, "factoid", "test", "imported")
        )
        for system in systems:
            cell = str(sorted(needed[system] & set(tuned))) if system in needed else system
            right[cell] = right.get(cell, float(rng.random() < 0.5))
            scores.append(Score(key, system, "f1", right[cell]))
    levels, rows = summarise(make_table(pairs, scores), tuned, 300, 0)
    return levels, {(row["a"], row["b"]): row for row in rows}


@pytest.mark.parametrize("component", ["generator", "retriever"])
def test_with_one_component_tuned_its_difference_is_tested_once(component: str) -> None:
    tuned, only = {component}, f"tuned_{component}"
    levels, rows = compared(tuned, ("base", "tuned_generator", "tuned_retriever", "tuned"))
    assert rows.keys() == {("base", only)}
    assert rows["base", only]["p_holm"] == rows["base", only]["p"]
    assert levels["tuned"] == levels[only]  # its row stays


def test_with_both_components_tuned_every_cell_is_compared() -> None:
    rows = compared(
        BOTH,
        ("base", "tuned_generator", "tuned_retriever", "tuned", "ensemble_base", "ensemble_tuned"),
    )[1]
    assert rows.keys() == {
        ("base", "tuned_generator"), ("base", "tuned_retriever"), ("base", "tuned"), ("tuned_retriever", "tuned"),
        ("tuned_generator", "tuned"), ("base", "ensemble_base"), ("tuned", "ensemble_tuned"),
    }  # fmt: skip


def test_with_nothing_tuned_only_untuned_systems_are_compared() -> None:
    assert compared(set(), ("base", "tuned", "ensemble_base", "ensemble_tuned"))[1].keys() == {
        ("base", "ensemble_base")
    }


# --- the verdict --------------------------------------------------------------------------------------------------


def comparison(
    b: str, metric: str, delta: float, low: float, high: float, p: float, more: int | None = 0
) -> dict:
    return {"a": "base", "b": b, "metric": metric, "delta": delta, "ci95": [low, high], "p": p, "p_holm": p,
            "n": 300, "num_documents": 40, "family": "decides", "more_questions": more}  # fmt: skip


def test_a_fusion_that_ranks_worse_than_one_of_its_sides_is_named() -> None:
    rank = {
        **comparison("tuned", "mrr@10", -0.17, -0.2, -0.14, 0.001),
        "a": "dense_tuned",
        "family": "mrr@10, others",
    }
    gain = comparison("tuned_retriever", "f1", 0.08, 0.03, 0.12, 0.001)
    [note] = (n for n in verdict([gain, rank], {"retriever"})["notes"] if "alone" in n)
    assert note.startswith(
        "What is served ranks the gold chunk lower than the encoder alone does: -17.0 MRR@10"
    )
    assert note.endswith("try retrieval.mode=dense, and compare the answers too.")
    assert not any(
        "alone" in n for n in verdict([gain, {**rank, "delta": 0.1}], {"retriever"})["notes"]
    )


def test_the_verdict_names_the_best_component_its_gain_and_what_is_open() -> None:
    found = verdict(
        [
            comparison("tuned_generator", "f1", 0.05, 0.03, 0.07, 0.001),
            comparison("tuned_retriever", "f1", 0.004, -0.01, 0.02, 0.6, 412),
            comparison("tuned", "f1", 0.061, 0.04, 0.083, 0.001),
            comparison("tuned", "recall@5", 0.1, 0.06, 0.14, 0.001),
        ],
        BOTH,
    )
    assert found["ship"] == "both"
    assert found["sentence"] == (
        "Ship both: +6.1 F1 (95 % CI 4.0 to 8.3); the tuned generator alone brings +5.0 F1 (95 % CI 3.0 to 7.0); "
        "the tuned retriever alone is not significant, about 420 more questions needed for significance."
    )


def test_what_an_open_result_needs_depends_on_why_it_is_open() -> None:
    cases = {
        "no difference was seen": comparison("tuned_generator", "f1", 0.0, -0.02, 0.02, 1.0, None),
        "too small for any reachable number": comparison(
            "tuned_generator", "f1", 0.001, -0.02, 0.02, 0.9, None
        ),
        "add test documents": comparison("tuned_generator", "f1", 0.6, 0.6, 0.6, 0.5, None),
    }
    for said, row in cases.items():
        found = verdict([row], {"generator"})
        assert found["ship"] == "undecided"
        assert [said in found["sentence"] for said in cases] == [other == said for other in cases]
    one_document = {**cases["add test documents"], "ci95": None, "p": None, "num_documents": 1}
    assert (
        "(no interval: one document); add test documents"
        in verdict([one_document], {"generator"})["sentence"]
    )


def test_a_difference_that_holm_leaves_open_is_told_from_one_that_was_never_significant() -> None:
    gain = comparison("tuned_generator", "f1", 0.05, 0.03, 0.07, 0.001)
    for p, said in (
        (0.03, "not significant once several comparisons are allowed for"),
        (0.5, "not significant,"),
    ):
        other = {**comparison("tuned_retriever", "f1", 0.6, 0.5, 0.7, p, 90), "p_holm": 0.5}
        assert f"the tuned retriever alone is {said}" in verdict([gain, other], BOTH)["sentence"]


def test_an_open_result_hides_no_significant_harm() -> None:
    found = verdict(
        [
            comparison("tuned_generator", "f1", -0.244, -0.332, -0.148, 2e-5),
            comparison("tuned_retriever", "f1", 0.0, -0.024, 0.024, 1.0, None),
            comparison("tuned", "f1", -0.292, -0.372, -0.212, 6e-7),
        ],
        BOTH,
    )
    assert (found["ship"], found["sentence"]) == (
        "undecided",
        "Undecided: the tuned retriever +0.0 F1 (95 % CI -2.4 to 2.4); no difference was seen; the tuned generator "
        "alone harms (-24.4 F1 (95 % CI -33.2 to -14.8)); both components together harm (-29.2 F1 (95 % CI "
        "-37.2 to -21.2)).",
    )


def test_a_significant_harm_is_never_what_is_called_undecided() -> None:
    harm, worse = (-0.04, -0.06, -0.02, 0.001), (-0.05, -0.12, 0.02, 0.2, 300)
    rows = [comparison("tuned_generator", "f1", *harm), comparison("tuned_retriever", "f1", *worse)]
    sentence = verdict(rows, BOTH)["sentence"]
    assert sentence.startswith("Undecided: the tuned retriever -5.0 F1")
    assert "the tuned generator alone harms" in sentence


def test_what_is_shipped_hides_no_significant_harm() -> None:
    harm = (-0.05, -0.08, -0.02, 0.001)
    generator = comparison("tuned_generator", "f1", 0.08, 0.05, 0.11, 0.001)
    both = comparison("tuned", "f1", *harm)
    assert (
        "; both components together harm (-5.0 F1" in verdict([generator, both], BOTH)["sentence"]
    )
    found = comparison("tuned", "recall@5", 0.1, 0.06, 0.14, 0.001)
    rows = [
        comparison("tuned_generator", "f1", *harm),
        comparison("tuned_retriever", "f1", 0.0, -0.1, 0.1, 1.0, None),
    ]
    shipped = verdict([*rows, both, found], BOTH)
    assert shipped["ship"] == "retriever"
    assert (
        "the tuned generator alone harms" in shipped["sentence"]
        and "together harm" in shipped["sentence"]
    )


def test_where_nothing_was_measured_the_verdict_says_why() -> None:
    why = {
        ("generator", False): "the retriever was not tuned and answers were not evaluated",
        ("retriever", False): "no question has a known gold chunk, so nothing was measured",
        ("generator retriever", True): "no answers of a tuned system were scored",
    }
    for (tuned, answers), said in why.items():
        assert verdict([], tuned.split(), answers)["sentence"] == f"Undecided: {said}."


def test_a_component_that_harms_is_not_shipped_with_the_other() -> None:
    found = verdict(
        [
            comparison("tuned_generator", "f1", 0.08, 0.05, 0.11, 0.001),
            comparison("tuned_retriever", "f1", -0.04, -0.06, -0.02, 0.001),
            comparison("tuned", "f1", 0.05, 0.02, 0.08, 0.01),
        ],
        BOTH,
    )
    assert found["ship"] == "generator"
    assert "the tuned retriever alone harms (-4.0 F1" in found["sentence"]


def test_tuning_that_only_harms_keeps_the_base() -> None:
    found = verdict([comparison("tuned_generator", "f1", -0.08, -0.1, -0.05, 0.001)], {"generator"})
    assert (found["ship"], found["sentence"][:14]) == ("none", "Keep the base:")


def test_an_open_result_says_how_many_questions_are_needed() -> None:
    found = verdict(
        [comparison("tuned_generator", "f1", 0.02, -0.01, 0.05, 0.2, 300)], {"generator"}
    )
    assert found["ship"] == "undecided"
    assert "about 300 more questions needed" in found["sentence"]


def test_retrieval_alone_gives_a_verdict_on_the_retriever() -> None:
    found = verdict(
        [comparison("tuned", "recall@5", 0.1, 0.06, 0.14, 0.001)], {"retriever"}, answers=False
    )
    assert found["ship"] == "retriever"


def test_a_better_rank_is_noted_where_recall_cannot_rise() -> None:
    rank = {**comparison("tuned", "mrr@10", 0.22, 0.15, 0.3, 0.001), "family": "mrr@10, from base"}
    recall = comparison("tuned", "recall@5", 0.01, 0.0, 0.02, 0.2, 745)
    found = verdict(
        [comparison("tuned_retriever", "f1", 0.02, -0.01, 0.05, 0.2, 90), recall, rank],
        {"retriever"},
    )
    assert found["notes"] == [
        "Retrieval: +1.0 recall@5 (95 % CI 0.0 to 2.0), not significant; "
        "about 750 more questions needed for significance.",
        "The tuned retriever ranks the gold chunk higher: +22.0 MRR@10 (95 % CI 15.0 to 30.0).",
    ]


def test_a_generator_that_invents_more_is_called_out_though_it_gains() -> None:
    withheld = {
        **comparison("withheld_tuned", "em", -0.135, -0.2, -0.07, 0.001),
        "a": "withheld_base",
    }
    found = verdict(
        [
            comparison("tuned_generator", "f1", 0.05, 0.03, 0.07, 0.001),
            {**withheld, "family": "em"},
        ],
        {"generator"},
    )
    [note] = found["notes"]
    assert note.endswith(
        "the tuned generator abstains LESS often: -13.5 points (95 % CI -20.0 to -7.0)."
    )


def test_nothing_tuned_is_nothing_to_ship() -> None:
    assert verdict([], set())["ship"] == "none"


def false_alarms(num_simulations: int) -> float:
    """How often something is shipped though nothing changed, over four correlated differences."""
    rng, alarms = np.random.default_rng(11), 0
    for simulation in range(num_simulations):
        deltas, documents = clustered(rng, 25, 0.0, columns=4)
        deltas[:, 2] = np.where(rng.random(len(deltas)) < 0.5, deltas[:, 0], deltas[:, 2])
        estimates = intervals(deltas, documents, simulation, 500)
        corrected = holm([estimate.p or 1.0 for estimate in estimates])
        rows = [
            comparison(b, metric, e.value, *(e.ci95 or (0, 0)), p)
            for (_, b, metric), e, p in zip(DECIDING, estimates, corrected, strict=True)
        ]
        alarms += verdict(rows, BOTH)["ship"] not in ("none", "undecided")
    return alarms / num_simulations


def test_where_nothing_changed_the_verdict_rarely_ships() -> None:
    assert false_alarms(400) <= 0.05


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_false_alarm_rate_is_at_most_5_percent() -> None:
    assert false_alarms(4000) <= 0.05
