"""The batch size of contrastive training: how many rows can share a batch without a false negative.

In contrastive training the chunks of every other row are negatives. NoDuplicatesBatchSampler keeps
rows that share a question or a chunk out of one batch, so a small corpus needs smaller batches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from sentence_transformers.base.sampler import NoDuplicatesBatchSampler

if TYPE_CHECKING:
    from datasets import Dataset

LEAST_PLACED = 0.8  # share of the rows in full batches of one pass: below it batches get smaller


def fitting_batch_size(dataset: Dataset, wanted: int, multiple_of: int, seed: int) -> int:
    """The largest of wanted, wanted / 2, ... with which a pass places most rows; 0 for none.

    Args:
        dataset: the text columns of the rows.
        wanted: the configured size.
        multiple_of: number of processes that share a batch.
        seed: of the order that is tried.
    """
    size = min(wanted, len(dataset)) // multiple_of * multiple_of
    while size:
        # With drop_last=False the sampler makes one pass: rows that fit no full batch end in
        # smaller ones.
        sampler = NoDuplicatesBatchSampler(
            dataset, size, drop_last=False, generator=torch.Generator(), seed=seed
        )
        num_placed = sum(len(batch) for batch in sampler if len(batch) == size)
        # A last batch that is not full for want of rows does not count against the size.
        enough = num_placed >= LEAST_PLACED * (len(dataset) - size + 1)
        if num_placed and (enough or size == multiple_of):
            return size
        size = size // 2 // multiple_of * multiple_of
    return 0
