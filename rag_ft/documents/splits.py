"""Puts each document into train, dev or test, by a hash of its id."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence

import numpy as np

from rag_ft.config import IngestConfig
from rag_ft.schema import Split
from rag_ft.text import composed

logger = logging.getLogger(__name__)
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


def decide_splits(
    ids: Sequence[str], fixed: Sequence[Split | None], near: np.ndarray, config: IngestConfig
) -> list[Split]:
    """Returns the split of each document, the same for a whole group of near-duplicates.

    `near` has the lowest index of each document's group. The split is the strictest one that the
    user fixed for a member, else it depends on the hash of the group's smallest id.
    """
    members: dict[int, list[int]] = {}  # most documents are alone
    for n in np.flatnonzero(np.bincount(near, minlength=len(near))[near] > 1).tolist():
        members.setdefault(int(near[n]), []).append(n)
    splits: list[Split] = []
    for n in range(len(ids)):
        group = members.get(int(near[n]), [n])
        if group[0] < n:
            splits.append(splits[group[0]])
            continue
        wanted = {split for m in group if (split := fixed[m])}
        split = strictest(wanted) if wanted else split_of(min(ids[m] for m in group), config)
        if len(wanted) > 1:
            names = ", ".join(ids[m] for m in group[:5])
            logger.warning("near-duplicates with different splits all go to %s: %s", split, names)
        splits.append(split)
    for missing in {"train", "test"}.difference(splits):
        logger.warning("the %s split has no documents: add some, or set splits in JSONL", missing)
    return splits
