"""Which rows share a batch. In contrastive training every other row's chunks are negatives, so a batch must not hold a
question twice, nor a chunk that proves one row's answer among the chunks of another; and a resumed training must see
the same order.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from datasets import Dataset
from sentence_transformers.base.sampler import DefaultBatchSampler

PASSES = 3  # over the rows, to make up for rows that found no place
LEAST_COVERED = 0.8  # of the rows in one pass: below it batches are made smaller


@dataclass(frozen=True)
class Apart:
    """What keeps a row out of a batch: `holds` is all that stands in it (its question, the texts and ids of its
    chunks), `alone` what no other row of its batch may hold (its question, and the chunks that prove its answer)."""

    alone: frozenset[str]
    holds: frozenset[str]


def distinct_batches(rows: Sequence[Apart], size: int, order: Sequence[int]) -> Iterator[list[int]]:
    """Full batches of row numbers, each row at most once, in `order` as far as rows that clash allow.

    Args:
        rows: what keeps each out of a batch.
        size: rows of a batch; what is left when no further batch can be filled is left out.
        order: row numbers.
    """
    waiting = deque(order)
    while True:
        batch: list[int] = []
        passed: list[int] = []
        alone: set[str] = set()
        held: set[str] = set()
        while waiting and len(batch) < size:
            number = waiting.popleft()
            row = rows[number]
            if alone.isdisjoint(row.holds) and held.isdisjoint(row.alone):
                batch.append(number)
                alone |= row.alone
                held |= row.holds
            else:
                passed.append(number)
        if len(batch) < size:
            return
        waiting.extendleft(reversed(passed))
        yield batch


def fitting_batch_size(rows: Sequence[Apart], wanted: int, multiple_of: int, seed: int) -> int:
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
        if batches and (
            len(batches) * size >= LEAST_COVERED * (len(rows) - size + 1) or size == multiple_of
        ):
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
    found no place are made up for by others, seen twice. `apart`: of each row of the dataset."""

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int,
        drop_last: bool,
        *,
        apart: Sequence[Apart],
        **rest: Any,
    ) -> None:
        super().__init__(dataset, batch_size, drop_last, **rest)
        self._rows = apart

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
