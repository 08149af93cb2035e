"""Searches of many clients over one encoder: one at a time, and those that wait go together."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from typing import Any, NamedTuple

from anyio import CapacityLimiter, to_thread

from rag_ft.engine.local import one_thread
from rag_ft.errors import DataError
from rag_ft.rag import RagPipeline, RetrievedChunk

MAX_TOGETHER = 32  # questions in one search: the first of them waits for the last


class _Question(NamedTuple):
    text: str
    filters: dict[str, Any]
    found: asyncio.Future[list[RetrievedChunk]]


class SearchQueue:
    """Questions that come while a search runs share the next one: encoding ten at once takes
    little longer than one."""

    def __init__(self, limiter: CapacityLimiter) -> None:
        """`limiter` says how many threads may work at a time."""
        self._limiter = limiter
        self._waiting: defaultdict[tuple[RagPipeline, int | None], list[_Question]] = defaultdict(
            list
        )
        # One for each kind of search that somebody waits for.
        self._tasks: dict[tuple[RagPipeline, int | None], asyncio.Task[None]] = {}

    async def retrieve(
        self, pipeline: RagPipeline, question: str, k: int | None, filters: dict[str, Any] | None
    ) -> list[RetrievedChunk]:
        """As RagPipeline.retrieve. Who stops waiting does not hold up the others.

        Raises:
            DataError: the filters are malformed.
        """
        one = _Question(question, filters or {}, asyncio.get_running_loop().create_future())
        self._waiting[pipeline, k].append(one)
        if (pipeline, k) not in self._tasks:
            self._tasks[pipeline, k] = asyncio.create_task(self._search(pipeline, k))
        return await one.found

    async def _search(self, pipeline: RagPipeline, k: int | None) -> None:
        """Searches for all that wait for these chunks, until nobody does."""
        waiting = self._waiting[pipeline, k]
        while waiting:
            async with self._limiter:
                batch = [one for one in waiting[:MAX_TOGETHER] if not one.found.done()]
                del waiting[:MAX_TOGETHER]
                results = await to_thread.run_sync(_retrieve, pipeline, batch, k)
            for one, result in zip(batch, results, strict=True):
                if one.found.done():
                    continue
                if isinstance(result, BaseException):
                    one.found.set_exception(result)
                else:
                    one.found.set_result(result)
        # An updated index comes with a new pipeline: the old one is let go.
        del self._tasks[pipeline, k], self._waiting[pipeline, k]


Result = list[RetrievedChunk] | BaseException


def _retrieve(pipeline: RagPipeline, batch: list[_Question], k: int | None) -> list[Result]:
    """The chunks of each question, or why there are none."""
    texts, filters = [one.text for one in batch], [one.filters for one in batch]
    try:
        # A few short questions keep one thread busy. Two wait for each other, which costs more CPU
        # time beside busy processes.
        with one_thread():
            found = pipeline.retrieve_many(texts, k, filters)
    except DataError as error:
        # One malformed filter is no reason to refuse the others.
        return [r for one in batch for r in _retrieve(pipeline, [one], k)] if batch[1:] else [error]
    except Exception as error:
        return [error] * len(batch)
    return list(found)
