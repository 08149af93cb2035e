"""Which rows share a batch. In contrastive training every other row's chunks are negatives, so a batch must not hold a
question twice, nor one row's proving chunk among the chunks of another; and a resumed training must see the same order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from datasets import Dataset
from sentence_transformers.base.sampler import DefaultBatchSampler

PASSES = 3  # over the rows, to make up for rows that found no place
LEAST_COVERED = 0.8  # of the rows in one pass: below it batches are made smaller


def distinct_batches(rows: Sequence[Sequence[str]], size: int, order: Sequence[int]) -> Iterator[list[int]]:
    """Full batches of row numbers, each row at most once, in `order` as far as rows that clash allow.

    Args:
        rows: the texts of each row: question, proving chunk, negatives.
        size: rows of a batch; what is left when no further batch can be filled is left out.
        order: row numbers.
    """
    waiting = deque(order)
    while True:
        batch: list[int] = []
        passed: list[int] = []
        single: set[str] = set()  # questions and proving chunks: once in a batch
        seen: set[str] = set()  # all texts
        while waiting and len(batch) < size:
            number = waiting.popleft()
            question, positive, *negatives = rows[number]
            if single.isdisjoint((question, *negatives)) and seen.isdisjoint((question, positive)):
                batch.append(number)
                single |= {question, positive}
                seen |= {question, positive, *negatives}
            else:
                passed.append(number)
        if len(batch) < size:
            return
        waiting.extendleft(reversed(passed))
        yield batch


def fitting_batch_size(rows: Sequence[Sequence[str]], wanted: int, multiple_of: int, seed: int) -> int:
    """The largest of wanted, wanted / 2, ... whose batches take in most rows; 0 where not even the smallest does.

    Args:
        rows: as for distinct_batches.
        wanted: the configured size.
        multiple_of: number of processes that share a batch.
        seed: of the order tried.
    """
    size = min(wanted, len(rows)) // multiple_of * multiple_of
    order = _order(len(rows), seed)
    while size:
        batches = list(distinct_batches(rows, size, order))
        if batches and (len(batches) * size >= LEAST_COVERED * (len(rows) - size + 1) or size == multiple_of):
            return size
        size = size // 2 // multiple_of * multiple_of
    return 0


class ShuffledBatches(DefaultBatchSampler):
    """Rows in an order that depends on seed and epoch alone."""

    def __init__(self, dataset: Dataset, batch_size: int, drop_last: bool, **rest: Any) -> None:
        super().__init__(range(len(dataset)), batch_size, drop_last, **rest)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[list[int]]:
        order = _order(len(self.sampler), self.seed + self.epoch)  # type: ignore[arg-type]
        for start in range(0, len(self) * self.batch_size, self.batch_size):
            yield order[start : start + self.batch_size]


class DistinctBatches(ShuffledBatches):
    """As ShuffledBatches, without clashes in a batch. An epoch has as many batches as one without clashes: rows that
    found no place are made up for by others, seen twice."""

    def __init__(self, dataset: Dataset, batch_size: int, drop_last: bool, **rest: Any) -> None:
        super().__init__(dataset, batch_size, drop_last, **rest)
        columns = [list(dataset[name]) for name in dataset.column_names if name != "label"]
        self._rows = list(zip(*columns, strict=True))

    def __iter__(self) -> Iterator[list[int]]:
        missing = len(self)
        for number in range(PASSES):
            order = _order(len(self._rows), self.seed + self.epoch + 7919 * number)
            for batch in distinct_batches(self._rows, self.batch_size, order):
                if not missing:
                    return
                missing -= 1
                yield batch


def _order(num: int, seed: int) -> list[int]:
    found: list[int] = torch.randperm(num, generator=torch.Generator().manual_seed(seed)).tolist()
    return found
