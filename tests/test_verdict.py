"""The verdict: what is shipped, what is noted, and how seldom it ships where nothing changed."""

from __future__ import annotations

import numpy as np
import pytest
from test_statistics import clustered, intervals

from rag_ft.evaluation.comparisons import DECIDING
from rag_ft.evaluation.statistics import holm
from rag_ft.evaluation.verdict import verdict

BOTH = {"generator", "retriever"}


def comparison(
    b: str, metric: str, delta: float, low: float, high: float, p: float, more: int | None = 0
) -> dict:
    return {
        "a": "base",
        "b": b,
        "metric": metric,
        "delta": delta,
        "ci95": [low, high],
        "p": p,
        "p_holm": p,
        "n": 300,
        "num_documents": 40,
        "family": "decides",
        "more_questions": more,
    }


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
        "Ship both: +6.1 F1 (95 % CI 4.0 to 8.3); the tuned generator alone brings "
        "+5.0 F1 (95 % CI 3.0 to 7.0); the tuned retriever alone is not significant, "
        "about 420 more questions needed for significance."
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


def test_a_difference_that_holm_leaves_open_differs_from_one_that_was_never_significant() -> None:
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
        "Undecided: the tuned retriever +0.0 F1 (95 % CI -2.4 to 2.4); no difference was seen; "
        "the tuned generator alone harms (-24.4 F1 (95 % CI -33.2 to -14.8)); "
        "both components together harm (-29.2 F1 (95 % CI -37.2 to -21.2)).",
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
    decides = [("tuned_generator", "f1"), ("tuned_retriever", "f1"), ("tuned", "f1")]
    decides.append(("tuned", "recall@5"))
    assert {("base", *row) for row in decides} < set(DECIDING)
    for simulation in range(num_simulations):
        deltas, documents = clustered(rng, 25, 0.0, columns=4)
        deltas[:, 2] = np.where(rng.random(len(deltas)) < 0.5, deltas[:, 0], deltas[:, 2])
        estimates = intervals(deltas, documents, simulation, 500)
        corrected = holm([estimate.p or 1.0 for estimate in estimates])
        rows = [
            comparison(b, metric, e.value, *(e.ci95 or (0, 0)), p)
            for (b, metric), e, p in zip(decides, estimates, corrected, strict=True)
        ]
        alarms += verdict(rows, BOTH)["ship"] not in ("none", "undecided")
    return alarms / num_simulations


def test_where_nothing_changed_the_verdict_rarely_ships() -> None:
    assert false_alarms(400) <= 0.05


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_false_alarm_rate_is_at_most_5_percent() -> None:
    assert false_alarms(4000) <= 0.05
