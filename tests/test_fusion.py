"""The mixture of a dense and a lexical ranking."""

from __future__ import annotations

import numpy as np

from rag_ft.retrieval.fusion import best_first, fuse


def test_fusion_is_the_weighted_sum_of_min_max_scores_with_zero_for_what_a_side_lacks() -> None:
    dense = (np.array([4, 1, 2]), np.array([0.9, 0.7, 0.5], dtype=np.float32))
    lexical = (np.array([2, 7]), np.array([12.0, 4.0], dtype=np.float32))
    rows, scores = fuse(dense, lexical, 0.5)
    assert list(rows) == [2, 4, 1, 7]  # 2: (0 + 1) / 2, 4: (1 + 0) / 2, a tie in chunk order
    np.testing.assert_allclose(scores, [0.5, 0.5, 0.25, 0.0], atol=1e-6)
    assert list(fuse(dense, lexical, 0.25)[0]) == [4, 1, 2, 7]


def test_fusion_with_an_empty_or_single_side_works() -> None:
    nothing = (np.empty(0, dtype=np.int64), np.empty(0, dtype=np.float32))
    one = (np.array([3]), np.array([0.2], dtype=np.float32))
    assert [list(part) for part in fuse(one, nothing, 0.5)] == [[3], [0.5]]
    assert len(fuse(nothing, nothing, 0.5)[0]) == 0


def test_equal_scores_keep_the_order_of_the_rows() -> None:
    rows, scores = best_first(np.array([5, 2, 9]), np.array([0.1, 0.1, 0.7]))
    assert list(rows) == [9, 2, 5] and list(scores) == [0.7, 0.1, 0.1]
