"""The number of requests in flight grows while that pays, and halves when the server is busy."""

from __future__ import annotations

import time

from rag_ft.llm.adaptive_concurrency import FIRST, HIGHEST, AdaptiveConcurrency


def replies_at(window: AdaptiveConcurrency, rates: list[float]) -> list[int]:
    """The limits after one round of replies at each rate (a second)."""
    clock, limits = time.monotonic(), []
    for rate in rates:
        for _ in range(window.limit):
            window.enter()
            clock += 1 / rate
            window.succeeded(clock)
            window.leave()
        limits.append(window.limit)
    return limits


def test_the_window_grows_while_it_pays_and_halves_once_per_overload() -> None:
    window = AdaptiveConcurrency(0, 1000)
    # the first round is a burst and no measure: it cannot keep the window small
    assert replies_at(window, [900, 100, 190, 195]) == [2 * FIRST, 4 * FIRST, 8 * FIRST, 8 * FIRST]
    began = time.monotonic()
    for _ in range(10):
        window.failed(began, busy=True)
    assert window.limit == 4 * FIRST
    assert replies_at(window, [500])[0] == 4 * FIRST + 4 * FIRST // 16


def test_the_window_does_not_grow_to_where_requests_would_miss_their_time_limit() -> None:
    assert replies_at(AdaptiveConcurrency(0, timeout_seconds=60), [2, 4, 8, 16]) == [
        FIRST,
        FIRST,
        2 * FIRST,
        4 * FIRST,
    ]
    assert max(replies_at(AdaptiveConcurrency(0, 1000), [1000 * 2**n for n in range(8)])) == HIGHEST


def test_a_fixed_concurrency_is_kept() -> None:
    window = AdaptiveConcurrency(7, 60)
    window.failed(time.monotonic(), busy=True)
    assert replies_at(window, [10, 100, 1000]) == [7, 7, 7]
