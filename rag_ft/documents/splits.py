"""Puts each document into train, dev or test, by a hash of its id."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

from rag_ft.config import IngestConfig
from rag_ft.schema import Split
from rag_ft.text import composed

_STRICTEST_FIRST: tuple[Split, ...] = ("test", "dev", "train")


def hash_share(document_id: str) -> float:
    """Returns a number in [0, 1) that depends on the id alone.

    So the split of a document stays the same when others are added or removed.
    """
    return int.from_bytes(hashlib.sha256(document_id.encode()).digest()[:6], "big") / 2**48


def text_digest(text: str) -> bytes:
    """A hash of the words of a text; two files with one digest are copies."""
    plain = " ".join(composed(text).split())
    return hashlib.sha256(plain.encode()).digest()


def split_of(document_id: str, config: IngestConfig) -> Split:
    """Returns the split by `test_share` and `dev_share`.

    With `folds`, fold number `fold` is the test split, and `dev_share` of the others is dev.
    """
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
    """Returns the first of test, dev and train that occurs in `splits`, which is not empty.

    Near-duplicates with different splits all take this one, so that no document is trained on that
    resembles a test document.
    """
    found = set(splits)
    return next(split for split in _STRICTEST_FIRST if split in found)
