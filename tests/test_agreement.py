"""Rates and kappa agree with scipy and scikit-learn, also where they are undefined."""

from __future__ import annotations

import random

import pytest
from scipy.stats import binomtest
from sklearn.metrics import cohen_kappa_score

from rag_ft.review.agreement import kappa, rate, reviewers_agreement, votes_of
from rag_ft.review.store import decided
from rag_ft.schema import QAPair


@pytest.mark.parametrize(("good", "num"), [(0, 5), (5, 5), (37, 50), (1, 1)])
def test_a_rate_has_wilsons_interval(good: int, num: int) -> None:
    found = rate("x", good, num)
    expected = binomtest(good, num).proportion_ci(method="wilson")
    assert found.share == good / num
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high))


def test_a_rate_of_nothing_is_unknown() -> None:
    assert rate("x", 0, 0).share is None


def test_kappa_is_that_of_scikit_learn_within_its_interval() -> None:
    rng = random.Random(1)
    first = [rng.random() < 0.7 for _ in range(200)]
    second = [vote if rng.random() < 0.85 else not vote for vote in first]
    found = kappa(list(zip(first, second, strict=True)))
    assert found is not None
    expected = cohen_kappa_score(first, second)
    assert found["kappa"] == pytest.approx(expected, abs=1e-4)
    low, high = found["ci95"]
    assert low < expected < high and 0.05 < high - low < 0.4
    assert found["num"] == 200


def test_the_interval_covers_the_true_kappa() -> None:
    """Of 200 samples of raters whose true kappa is known, about 95 % cover it."""
    rng, covered = random.Random(2), 0
    for _ in range(200):
        votes = []
        for _ in range(120):
            truth = rng.random() < 0.5
            votes.append((truth, truth if rng.random() < 0.8 else not truth))
        low, high = kappa(votes)["ci95"]  # type: ignore[index]
        covered += low <= 0.6 <= high
    assert 180 <= covered <= 200


def test_kappa_is_undefined_where_nobody_ever_disagrees_about_anything() -> None:
    found = kappa([(True, True)] * 10)
    assert found is not None and (found["kappa"], found["ci95"]) == (None, None)
    assert found["agreed"] == 1.0
    assert kappa([]) is None


def test_pairs_of_reviewers_are_compared_on_what_both_decided() -> None:
    votes = [{"ann": True, "bob": True}, {"ann": True, "bob": False}, {"ann": True}, {"cid": False}]
    [row] = reviewers_agreement(votes)
    assert (row["reviewers"], row["num"], row["agreed"]) == (["ann", "bob"], 2, 0.5)


def test_users_of_the_server_and_the_unsure_do_not_vote() -> None:
    pair = QAPair("p", "Q?", ("a",), None, "d", None, "factoid", "train", "generated")
    reviews = {
        "ann": decided(pair, "edit", "ann"),
        "bob": decided(pair, "reject", "bob"),
        "cid": decided(pair, "unsure", "cid"),
        "serve": decided(pair, "add", "serve", source="serve"),
    }
    assert votes_of(reviews) == {"ann": True, "bob": False}
