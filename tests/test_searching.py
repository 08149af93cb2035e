"""Searches of several clients go together, and none disturbs another."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
import torch
from anyio import CapacityLimiter, move_on_after

from rag_ft.errors import DataError
from rag_ft.rag import RetrievedChunk
from rag_ft.schema import Chunk
from rag_ft.serving.answering import Answerer
from rag_ft.serving.searching import MAX_TOGETHER, SearchQueue
from rag_ft.serving.telemetry import Telemetry


class Pipeline:
    """Finds for each question a chunk with its text; `batches` are the questions so far, `threads`
    those that PyTorch had for each batch."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.threads: list[int] = []
        self.go_on = threading.Event()
        self.go_on.set()

    def retrieve_many(self, questions: list[str], k: Any, filters: Any) -> Any:
        self.threads.append(torch.get_num_threads())
        self.batches.append(list(questions))
        assert self.go_on.wait(10)
        if {"bad": 1} in filters:
            raise DataError("a malformed filter")
        if "defect" in questions:
            raise ZeroDivisionError
        return [[found(question)] for question in questions]


def found(text: str) -> RetrievedChunk:
    return RetrievedChunk(Chunk("c", "d", "", text, 0, len(text), 1, "train"), 1.0)


async def asked(pipeline: Pipeline, later: list[tuple[str, Any]], leaving: int = -1) -> list[Any]:
    """What the questions `later` find, which all come while a first search runs; the client of
    number `leaving` leaves meanwhile."""
    queue = SearchQueue(CapacityLimiter(1))
    pipeline.go_on.clear()
    first = asyncio.create_task(queue.retrieve(pipeline, "first", None, None))  # type: ignore[arg-type]
    while not pipeline.batches:
        await asyncio.sleep(0.01)
    tasks = [
        asyncio.create_task(queue.retrieve(pipeline, text, None, filters))  # type: ignore[arg-type]
        for text, filters in later
    ]
    await asyncio.sleep(0.05)
    if leaving >= 0:
        tasks[leaving].cancel()
    pipeline.go_on.set()
    await first
    return await asyncio.gather(*tasks, return_exceptions=True)


def test_questions_that_wait_are_searched_together() -> None:
    pipeline = Pipeline()
    questions = [(f"q{number}", None) for number in range(MAX_TOGETHER + 5)]
    results = asyncio.run(asked(pipeline, questions))
    assert [chunk.chunk.text for [chunk] in results] == [text for text, _ in questions]
    assert [len(batch) for batch in pipeline.batches] == [1, MAX_TOGETHER, 5]


def test_a_search_takes_one_thread_and_leaves_the_others_to_the_generator() -> None:
    pipeline, before = Pipeline(), torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        asyncio.run(asked(pipeline, [("a", None)]))
        assert pipeline.threads == [1, 1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_client_that_leaves_is_not_searched_for() -> None:
    pipeline = Pipeline()
    results = asyncio.run(asked(pipeline, [("a", None), ("b", None), ("c", None)], leaving=0))
    assert pipeline.batches == [["first"], ["b", "c"]]
    assert isinstance(results[0], asyncio.CancelledError)
    assert [results[1][0].chunk.text, results[2][0].chunk.text] == ["b", "c"]


def test_a_malformed_filter_refuses_its_own_question_alone() -> None:
    results = asyncio.run(asked(Pipeline(), [("a", {"x": "y"}), ("b", {"bad": 1}), ("c", None)]))
    assert isinstance(results[1], DataError)
    assert [results[0][0].chunk.text, results[2][0].chunk.text] == ["a", "c"]


def test_a_defect_reaches_all_and_the_next_search_works() -> None:
    async def both() -> None:
        queue = SearchQueue(CapacityLimiter(1))
        pipeline: Any = Pipeline()
        with pytest.raises(ZeroDivisionError):
            await queue.retrieve(pipeline, "defect", None, None)
        [chunk] = await queue.retrieve(pipeline, "sound", None, None)
        assert chunk.chunk.text == "sound"

    asyncio.run(both())


@pytest.mark.parametrize("leaves_by", ["cancel", "scope"])
def test_work_in_a_thread_ends_before_the_next_begins_whoever_has_left(leaves_by: str) -> None:
    at_work, most, go_on = [0], [0], threading.Event()

    def work() -> int:
        at_work[0] += 1
        most[0] = max(most[0], at_work[0])
        assert go_on.wait(10)
        at_work[0] -= 1
        return most[0]

    async def leave(answerer: Answerer) -> None:
        if leaves_by == "scope":
            with move_on_after(0.02):
                await answerer.in_thread(work, "embed")
        else:
            task = asyncio.create_task(answerer.in_thread(work, "embed"))
            await asyncio.sleep(0.02)
            task.cancel()

    async def run() -> None:
        answerer = Answerer({}, False, Telemetry())
        asyncio.get_running_loop().call_later(0.1, go_on.set)
        await asyncio.gather(*(leave(answerer) for _ in range(3)))
        assert await answerer.in_thread(work, "embed") == 1

    asyncio.run(run())
    assert (at_work, most) == ([0], [1])
