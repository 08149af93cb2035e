"""Puts each document into train, dev or test: by a hash of its text, so that no name decides.

A document whose id the user gave in a JSONL line is split by that id, which also stays when its
text changes.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from rag_ft.config import IngestConfig
from rag_ft.errors import ConfigError
from rag_ft.schema import SPLITS, Split
from rag_ft.text import composed

logger = logging.getLogger(__name__)
_STRICTEST_FIRST: tuple[Split, ...] = ("test", "dev", "train")


def hash_share(key: str) -> float:
    """Returns a number in [0, 1) that depends on the key alone.

    So the split of a document stays the same when others are added or removed.
    """
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:6], "big") / 2**48


def text_digest(text: str) -> bytes:
    """A hash of the words of a text; two files with one digest are copies."""
    plain = " ".join(composed(text).split())
    return hashlib.sha256(plain.encode()).digest()


class NamedSplits:
    """Splits that are known, by text and by id: those of an earlier run, or of a file."""

    def __init__(self) -> None:
        self.by_id: dict[str, Split] = {}
        self._by_text: dict[bytes, Split] = {}

    def add(self, document_id: str, digest: bytes, split: Split) -> None:
        """Keeps the split of a document; `digest` is that of its text."""
        self.by_id[document_id] = split
        self._by_text[digest] = split

    def split_of(self, document_id: str, digest: bytes) -> Split | None:
        """The split of a document with this text, whatever its name, else of one with this id,
        whose text may have changed; None: neither is known."""
        return self._by_text.get(digest) or self.by_id.get(document_id)

    def __len__(self) -> int:
        """The number of ids."""
        return len(self.by_id)


def read_splits(path: Path | None) -> NamedSplits:
    """Reads a file of {id, split, and text or text_sha256} lines, such as documents.jsonl of a run.
    `text_sha256` is `text_digest` in hexadecimal digits.

    Raises:
        ConfigError: the file or a line cannot be read.
    """
    found = NamedSplits()
    if path is None:
        return found
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        detail = error.strerror or error
        raise ConfigError(f"cannot read ingest.advanced.splits {path}: {detail}") from error
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            digest = bytes.fromhex(row.get("text_sha256") or text_digest(row["text"]).hex())
            if row["split"] not in SPLITS:
                raise ValueError("split")
            found.add(str(row["id"]), digest, row["split"])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise ConfigError(
                f"ingest.advanced.splits {path}, line {number}: write a JSON object with id, "
                f"split ({', '.join(SPLITS)}) and text or text_sha256"
            ) from error
    return found


def split_of(key: str, config: IngestConfig) -> Split:
    """Returns the split by `test_share` and `dev_share` for a key of `decide_splits`.

    With `folds`, fold number `fold` is the test split, and `dev_share` of the others is dev.
    """
    share = hash_share(key)
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
    ids: Sequence[str],
    keys: Sequence[str],
    fixed: Sequence[Split | None],
    near: np.ndarray,
    config: IngestConfig,
) -> list[Split]:
    """Returns the split of each document, the same for a whole group of near-duplicates.

    `keys` decide where no split is fixed: the hash of a document's text, or its id if the user gave
    one. `near` has the lowest index of each document's group. The split is the strictest one that
    is fixed for a member, else it depends on the hash of the group's smallest key.
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
        split = strictest(wanted) if wanted else split_of(min(keys[m] for m in group), config)
        if len(wanted) > 1:
            names = ", ".join(ids[m] for m in group[:5])
            logger.warning("near-duplicates with different splits all go to %s: %s", split, names)
        splits.append(split)
    for missing in {"train", "test"}.difference(splits):
        logger.warning("the %s split has no documents: add some, or set splits in JSONL", missing)
    return splits
