"""How many requests are in flight: a fixed number, or what the server turns out to take."""

from __future__ import annotations

import time

FIRST, HIGHEST = 64, 512
FIRST_OURS = 256  # to a vLLM server of ours: it keeps what it cannot take yet, and 64 would leave it half empty
GROWTH = 1.05  # replies per second must rise so much for the window to grow on
PATIENCE = 0.5  # share of the time limit that a request may wait in a window about to grow


class AdaptiveConcurrency:
    """`limit` requests at most. Adaptive (concurrency 0): doubles while the rate of replies grows and the time limit
    is far, halves when the server says it is busy or does not answer in time, and from then on grows by small steps.

    Used from one thread only (the event loop's), `limit` may be read from others.
    """

    def __init__(self, concurrency: int, timeout_seconds: float, first: int = FIRST) -> None:
        self._adaptive, self._timeout = concurrency == 0, timeout_seconds
        self.limit = concurrency or first
        self._in_flight = 0
        self._halved = 0.0
        self._careful = False
        self._best_rate: float | None = None
        self._round_began = 0.0
        self._round_replies = 0

    def has_room(self) -> bool:
        return self._in_flight < self.limit

    def enter(self) -> None:
        self._in_flight += 1
        if not self._round_began:
            self._round_began = time.monotonic()

    def leave(self) -> None:
        self._in_flight -= 1

    def succeeded(self, now: float) -> None:
        """Counts a reply; after `limit` of them decides whether more in flight brought more per second."""
        self._round_replies += 1
        if not self._adaptive or self._round_replies < self.limit:
            return
        rate = self._round_replies / max(now - self._round_began, 1e-9)
        if self._careful:
            self.limit = min(HIGHEST, self.limit + max(1, self.limit // 16))
        elif rate > GROWTH * (self._best_rate or 0.0) and 2 * self.limit < PATIENCE * self._timeout * rate:
            self.limit = min(HIGHEST, 2 * self.limit)
        # The first round is no measure: its requests start together and end together.
        self._best_rate = 0.0 if self._best_rate is None else max(self._best_rate, rate)
        self._round_began, self._round_replies = now, 0

    def failed(self, began: float, busy: bool) -> None:
        """A try that began at `began` failed. One overload makes many fail together: it halves the window once."""
        if not (self._adaptive and busy) or began < self._halved:
            return
        self.limit = max(1, self.limit // 2)
        self._halved, self._careful = time.monotonic(), True
        self._round_began, self._round_replies = self._halved, 0
