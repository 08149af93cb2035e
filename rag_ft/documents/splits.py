"""Which documents are trained on and which are kept for evaluation: decided by document, once, by hash."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from rag_ft.config import IngestConfig
from rag_ft.schema import Split

_STRICTEST: tuple[Split, ...] = ("test", "dev", "train")


def hash_share(document_id: str) -> float:
    """A number in [0, 1) that depends on the id alone: the split of a document never changes as others come and go."""
    return int.from_bytes(hashlib.sha256(document_id.encode()).digest()[:6], "big") / 2**48


def split_of(document_id: str, config: IngestConfig) -> Split:
    """By `test_share` and `dev_share`; with `folds`, test is fold number `fold` and dev `dev_share` of the others."""
    share = hash_share(document_id)
    if config.advanced.folds:
        place = share * config.advanced.folds
        if int(place) == config.advanced.fold:
            return "test"
        return "dev" if place % 1 < config.dev_share else "train"
    if share < config.test_share:
        return "test"
    return "dev" if share < config.test_share + config.dev_share else "train"


def strictest(splits: Iterable[Split]) -> Split:
    """What a group of near-duplicates takes where the user put its members into different splits: what comes first of
    test, dev and train, since nothing that resembles a test document may be trained on."""
    found = set(splits)
    return next(split for split in _STRICTEST if split in found)
