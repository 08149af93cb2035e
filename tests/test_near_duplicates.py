"""Near-duplicates are found at every threshold, also in corpora made from templates, in time."""

from __future__ import annotations

import random
import time
from pathlib import Path

import numpy as np
import pytest

from rag_ft.documents import near_duplicates
from rag_ft.documents.near_duplicates import (
    MAX_BANDS,
    NUM_HASHES,
    Signatures,
    bands,
    equal_keys,
    groups,
    least_estimate,
    signature,
)

CHANCE = np.random.default_rng(0)


def grouped(table: np.ndarray, similarity: float) -> list[int]:
    signatures = Signatures()
    signatures.add(table)
    return list(groups(signatures, similarity).tolist())


def pairs(num_agreeing: int, number: int) -> np.ndarray:
    """Signatures of which 0 and 1, 2 and 3 ... agree in so many places, and others in none."""
    signatures = CHANCE.integers(0, 2**32, (number, 2, NUM_HASHES), dtype=np.uint32)
    for one, other in signatures:
        same = CHANCE.permutation(NUM_HASHES)[:num_agreeing]
        other[same] = one[same]
    return signatures.reshape(-1, NUM_HASHES)


def from_a_template(number: int, share: float) -> np.ndarray:
    """Signatures of documents that share a template.

    Each place is the template's where its least hash is less.
    """
    template, own = (
        CHANCE.exponential(1 / share, NUM_HASHES),
        CHANCE.exponential(1 / (1 - share), (number, NUM_HASHES)),
    )
    return np.where(
        own < template, CHANCE.integers(0, 2**32, own.shape), np.arange(NUM_HASHES)
    ).astype(np.uint32)


@pytest.mark.parametrize("similarity", [0.05, 0.25, 0.4, 0.5, 0.8, 0.95, 1.0])
def test_pairs_are_linked_from_the_threshold_on_and_not_below(similarity: float) -> None:
    least = int(np.ceil(similarity * NUM_HASHES))
    assert len(set(grouped(pairs(least, 1000), similarity))) <= 1005
    assert len(set(grouped(pairs(least - 1, 1000), similarity))) == 2000


def test_groups_are_named_by_their_lowest_index() -> None:
    one, two = pairs(0, 1)
    assert grouped(np.array([two, one, one, two, one]), 0.8) == [0, 1, 1, 0, 1]
    assert grouped(np.empty((0, NUM_HASHES), dtype=np.uint32), 0.8) == []


def test_keys_that_repeat_are_found_by_their_indices() -> None:
    keys = np.array([12, 34, 12, 56, 34, 12], dtype=np.uint64)
    assert sorted(rows.tolist() for rows in equal_keys(keys)) == [[0, 2, 5], [1, 4]]


def test_signatures_are_saved_and_grouped_alike_in_blocks_of_any_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = np.concatenate([from_a_template(150, 0.9), pairs(110, 40)])
    whole = grouped(table, 0.8)
    assert len(set(whole)) < len(whole)
    monkeypatch.setattr(near_duplicates, "BLOCK_SIGNATURES", 7)
    assert grouped(table, 0.8) == whole
    signatures = Signatures(tmp_path)
    signatures.add(table)
    signatures.save(tmp_path / "s.npy", 100)
    assert (np.load(tmp_path / "s.npy") == table[:100]).all()
    assert [path.name for path in tmp_path.iterdir()] == ["s.npy"], "nothing temporary stays"


@pytest.mark.parametrize("similarity", [0.005, 0.3, 0.5, 0.8, 1.0])
def test_bands_are_few_sets_of_different_places(similarity: float) -> None:
    found = bands(similarity)
    assert 1 <= len(found) <= MAX_BANDS
    assert all(len(set(places.tolist())) == len(places) for places in found)
    assert len(bands(1.0)) == 1 and len(bands(1.0)[0]) == NUM_HASHES


def test_documents_from_a_template_just_too_dissimilar_are_not_compared_each_with_each() -> None:
    signatures = from_a_template(8000, 0.74)
    begin = time.process_time()
    assert len(set(grouped(signatures, 0.8))) > 7900
    assert time.process_time() - begin < 8


def test_a_large_group_is_linked_once() -> None:
    signatures = np.where(
        CHANCE.random((20_000, NUM_HASHES)) < 0.97,
        np.uint32(7),
        CHANCE.integers(9, 2**32, (20_000, 1)),
    )
    begin = time.process_time()
    assert set(grouped(signatures.astype(np.uint32), 0.8)) == {0}
    assert time.process_time() - begin < 8


def test_the_signature_estimates_the_jaccard_similarity_of_word_5_grams() -> None:
    chance = random.Random(4)
    words = [f"w{n}" for n in range(1000)]
    for changed in (1, 5, 20, 60):
        other = list(words)
        for place in chance.sample(range(1000), changed):
            other[place] = "new"
        a, b = ({tuple(w[n : n + 5]) for n in range(996)} for w in (words, other))
        expected = len(a & b) / len(a | b)
        measured = (signature(" ".join(words)) == signature(" ".join(other))).mean()
        assert abs(measured - expected) < 0.12


def test_case_and_punctuation_do_not_make_a_difference() -> None:
    assert (
        signature("The hall, opens at Nine; every day!")
        == signature("the hall opens at nine every day")
    ).all()
    assert (signature("图书馆每天早上九点开门") != signature("图书馆每天早上九点关闭了")).any()
    assert signature("").shape == (128,) == signature("!?").shape


def test_near_duplicates_are_linked_through_each_other() -> None:
    words = [f"w{n}" for n in range(400)]
    versions = [" ".join(words[:n] + ["x"] * 20 + words[n + 20 :]) for n in (0, 100)]
    texts = [
        "something else altogether " * 9,
        *versions,
        " ".join(words),
        "one more different thing " * 9,
    ]
    assert grouped(np.array([signature(t) for t in texts]), 0.85) == [0, 1, 1, 1, 4]
    assert grouped(np.array([signature(t) for t in texts]), 1.0) == [0, 1, 2, 3, 4]
    assert grouped(np.array([signature("alone")]), 0.8) == [0]


def test_no_pair_at_the_threshold_is_missed() -> None:
    import random

    def similar(seed: int) -> tuple[str, str, float]:
        draw = random.Random(seed)
        words = [f"w{draw.randrange(5000)}" for _ in range(400)]
        other = list(words)
        for place in draw.sample(range(400), 8):
            other[place] = "another"
        grams = [{tuple(t[n : n + 5]) for n in range(396)} for t in (words, other)]
        jaccard = len(grams[0] & grams[1]) / len(grams[0] | grams[1])
        return " ".join(words), " ".join(other), jaccard

    pairs = [pair for seed in range(60) if (pair := similar(seed))[2] >= 0.8]
    assert len(pairs) >= 30
    for one, other, _ in pairs:
        table = np.array([signature(one), signature(other)])
        assert grouped(table, least_estimate(0.8)) == [0, 0]
    assert least_estimate(1.0) == 1.0
