"""How many requests are in flight: a fixed number, or adapted to the server."""

from __future__ import annotations

import time

FIRST, HIGHEST = 64, 512
# A vLLM server that we started queues what it cannot take yet; 64 would leave it half empty.
FIRST_OURS = 256
GROWTH = 1.05  # the limit grows on while replies per second rise by this factor
PATIENCE = 0.5  # share of the time limit that a request may take for the limit to grow


class AdaptiveConcurrency:
    """At most `limit` requests at once.

    With concurrency 0 the limit doubles while the rate of replies grows and the time limit is far.
    It halves when the server is busy or does not answer in time, and grows by small steps from then
    on. Only the event loop's thread calls methods; others may read `limit`.
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
        """Whether another request may start."""
        return self._in_flight < self.limit

    def enter(self) -> None:
        """A request starts."""
        self._in_flight += 1
        if not self._round_began:
            self._round_began = time.monotonic()

    def leave(self) -> None:
        """A request has ended, in whatever way."""
        self._in_flight -= 1

    def succeeded(self, now: float) -> None:
        """Counts a reply that came at `now` (time.monotonic) and may raise the limit.

        A round is `limit` replies. After each round the limit grows if the growth before it raised
        the rate.
        """
        self._round_replies += 1
        if not self._adaptive or self._round_replies < self.limit:
            return
        rate = self._round_replies / max(now - self._round_began, 1e-9)
        pays = rate > GROWTH * (self._best_rate or 0.0)
        # With twice as many in flight, a request takes about 2 * limit / rate seconds.
        in_time = 2 * self.limit < PATIENCE * self._timeout * rate
        if self._careful:
            self.limit = min(HIGHEST, self.limit + max(1, self.limit // 16))
        elif pays and in_time:
            self.limit = min(HIGHEST, 2 * self.limit)
        # The first round is no measure: its requests start together and end together.
        self._best_rate = 0.0 if self._best_rate is None else max(self._best_rate, rate)
        self._round_began, self._round_replies = now, 0

    def failed(self, began: float, busy: bool) -> None:
        """A try that began at `began` (time.monotonic) failed; `busy`: the server is overloaded.

        Many requests fail of one overload. They halve the limit once.
        """
        if not (self._adaptive and busy) or began < self._halved:
            return
        self.limit = max(1, self.limit // 2)
        self._halved, self._careful = time.monotonic(), True
        # The replies counted so far belong to another limit.
        self._round_began, self._round_replies = self._halved, 0
