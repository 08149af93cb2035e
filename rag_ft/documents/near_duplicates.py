"""Documents that are nearly the same: MinHash signatures (Broder 1997) and locality-sensitive hashing, in numpy.

Only signatures are held, 512 bytes a document. The `datasketch` package would do as well, but hashes every 5-gram by a
Python call and holds a table of n_grams x num_hashes, 1 KB for every word of a long document.
"""

from __future__ import annotations

import re
import zlib

import numpy as np

NUM_HASHES = 128  # standard error of a similarity of 0.8: 0.035
NUM_BANDS = 32  # of 4 hashes: 0.8 is missed with probability 5e-8, 0.5 met with 0.87 (and then measured)
WORDS_PER_GRAM = 5
_BLOCK = 4096
_WORD = re.compile(
    r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+"
)


def signature(text: str) -> np.ndarray:
    """MinHash of the text's word 5-grams, uint32 (NUM_HASHES,); the share of equal places of two signatures estimates
    the Jaccard similarity of their sets. Case and punctuation do not count; a Chinese, Japanese or Thai character is a
    word; a shorter text is one gram."""
    words = _words(text.lower())
    if not len(words):
        words = np.array([zlib.crc32(text.encode())], dtype=np.uint64)
    grams = np.zeros(max(1, len(words) - WORDS_PER_GRAM + 1), dtype=np.uint64)
    for n in range(min(WORDS_PER_GRAM, len(words))):
        grams = _mix(grams * np.uint64(31) + words[n : n + len(grams)])
    grams = np.unique(grams)
    least = np.full(NUM_HASHES, np.iinfo(np.uint32).max, dtype=np.uint32)
    for start in range(0, len(grams), _BLOCK):
        hashes = (grams[start : start + _BLOCK, None] * _FACTORS + _OFFSETS) >> np.uint64(32)
        np.minimum(least, hashes.min(axis=0).astype(np.uint32), out=least)
    return least


def groups(signatures: np.ndarray, similarity: float) -> list[int]:
    """For each of (n, NUM_HASHES) signatures the lowest index of those it is linked to, over any number of steps, by
    a similarity of at least `similarity`; its own index where there is none."""
    parents = list(range(len(signatures)))
    for rows in np.split(np.arange(NUM_HASHES), NUM_BANDS):
        for members in _equal_rows(signatures[:, rows]):
            _link(signatures, members, similarity, parents)
    return [_root(parents, n) for n in range(len(parents))]


def _words(text: str) -> np.ndarray:
    return np.fromiter((zlib.crc32(m[0].encode()) for m in _WORD.finditer(text)), dtype=np.uint64)


def _mix(values: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser: every bit of the input moves every bit of the output."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


_FACTORS = _mix(np.arange(1, NUM_HASHES + 1, dtype=np.uint64)) | np.uint64(1)
_OFFSETS = _mix(np.arange(NUM_HASHES + 1, 2 * NUM_HASHES + 1, dtype=np.uint64))


def _equal_rows(table: np.ndarray) -> list[np.ndarray]:
    """Ascending indices of rows that are equal, for each row that occurs more than once."""
    if len(table) < 2:
        return []
    keys = np.zeros(len(table), dtype=np.uint64)
    for column in table.T:
        keys = _mix(keys * np.uint64(31) + column)
    order = np.argsort(keys, kind="stable")
    ends = np.flatnonzero(np.diff(keys[order])) + 1
    return [np.sort(same) for same in np.split(order, ends) if len(same) > 1]


def _link(signatures: np.ndarray, members: np.ndarray, similarity: float, parents: list[int]) -> None:
    while len(members) > 1:
        head, rest = members[0], members[1:]
        near = (signatures[rest] == signatures[head]).mean(axis=1) >= similarity
        for other in rest[near]:
            a, b = sorted((_root(parents, int(head)), _root(parents, int(other))))
            parents[b] = a
        members = rest[~near]


def _root(parents: list[int], n: int) -> int:
    while parents[n] != n:
        parents[n] = parents[parents[n]]
        n = parents[n]
    return n
