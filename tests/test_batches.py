"""Batches without false negatives, full, and the same for the same seed."""

from __future__ import annotations

import itertools

from datasets import Dataset

from rag_ft.training.batches import DistinctBatches, ShuffledBatches, distinct_batches, fitting_batch_size

ROWS = [(f"question {n}", f"chunk {n % 6}", f"chunk {(n + 1) % 6}") for n in range(24)]


def test_no_proving_chunk_is_a_negative_of_the_same_batch() -> None:
    batches = list(distinct_batches(ROWS, 3, range(24)))
    assert batches
    for batch in batches:
        for a, b in itertools.permutations(batch, 2):
            assert ROWS[a][1] not in ROWS[b][1:], (a, b)


def test_rows_that_share_only_a_negative_may_share_a_batch() -> None:
    rows = [(f"q{n}", f"p{n}", "the same negative") for n in range(4)]
    assert list(distinct_batches(rows, 4, range(4))) == [[0, 1, 2, 3]]


def test_a_question_asked_of_two_chunks_is_not_twice_in_a_batch() -> None:
    rows = [("same", "p0"), ("same", "p1"), ("other", "p2")]
    assert list(distinct_batches(rows, 2, range(3))) == [[0, 2]]


def test_rows_without_clashes_are_taken_once_and_in_order() -> None:
    rows = [(f"q{n}", f"p{n}") for n in range(7)]
    assert list(distinct_batches(rows, 3, range(7))) == [[0, 1, 2], [3, 4, 5]]


def test_a_small_corpus_gets_a_batch_size_it_can_fill() -> None:
    assert fitting_batch_size([(f"q{n}", f"p{n}") for n in range(100)], 16, 1, 0) == 16
    assert fitting_batch_size(ROWS, 16, 1, 0) in (1, 2)
    assert fitting_batch_size(ROWS, 16, 2, 0) == 2
    assert fitting_batch_size([("q", "p")], 16, 2, 0) == 0


def test_an_epoch_is_as_long_as_promised_and_epochs_differ() -> None:
    columns = {"question": [r[0] for r in ROWS], "chunk_0": [r[1] for r in ROWS], "label": list(range(24))}
    for kind in (DistinctBatches, ShuffledBatches):
        sampler = kind(Dataset.from_dict(columns), 4, True, seed=1)
        first = list(sampler)
        assert len(first) == len(sampler) == 6
        assert list(sampler) == first
        sampler.set_epoch(1)
        assert list(sampler) != first
