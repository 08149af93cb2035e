"""Documents that are nearly the same: MinHash signatures (Broder 1997) and locality-sensitive hashing, in numpy.

Only signatures are held, 512 bytes a document. The `datasketch` package would do as well, but hashes every 5-gram by a
Python call and holds a table of n_grams x num_hashes, 1 KB for every word of a long document.
"""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Iterator

import numpy as np

NUM_HASHES = 128  # standard error of a similarity of 0.8: 0.035
MAX_BANDS = 256
MAX_MISSED = (
    1e-3  # the probability that two signatures exactly as similar as asked for are never compared
)
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
    lowest = np.arange(len(signatures))
    for places in _bands(similarity):
        links = [
            link
            for members in _equal_rows(signatures[:, places])
            if (lowest[members] != lowest[members[0]]).any()
            for link in _links(signatures, members, similarity)
        ]
        if links:
            lowest = _linked(lowest, np.concatenate(links))
    return [int(n) for n in lowest]


def _bands(similarity: float) -> list[np.ndarray]:
    """Sets of places: two signatures that agree in `similarity` of all places agree everywhere in one of these sets,
    but for MAX_MISSED. The sets are as large as MAX_BANDS allows: the larger, the fewer signatures meet that are less
    similar, and documents made from one template are as many pairs as there are, all a little too dissimilar."""
    agreeing = math.ceil(similarity * NUM_HASHES)
    for size in range(agreeing, 1, -1):
        chance = math.comb(agreeing, size) / math.comb(NUM_HASHES, size)
        number = 1 if chance == 1 else math.ceil(math.log(MAX_MISSED) / math.log1p(-chance))
        if number <= MAX_BANDS:
            draw = np.random.default_rng(0)
            return [draw.permutation(NUM_HASHES)[:size] for _ in range(number)]
    return list(np.arange(NUM_HASHES)[:, None])


def _words(text: str) -> np.ndarray:
    return np.fromiter((zlib.crc32(m[0].encode()) for m in _WORD.finditer(text)), dtype=np.uint64)


def _mix(values: np.ndarray) -> np.ndarray:
    """splitmix64's finaliser: every bit of the input moves every bit of the output."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


_FACTORS = _mix(np.arange(1, NUM_HASHES + 1, dtype=np.uint64)) | np.uint64(1)
_OFFSETS = _mix(np.arange(NUM_HASHES + 1, 2 * NUM_HASHES + 1, dtype=np.uint64))


def _equal_rows(table: np.ndarray) -> Iterator[np.ndarray]:
    """Ascending indices of rows that are equal, for each row that occurs more than once."""
    keys = (table * _FACTORS[: table.shape[1]]).sum(
        axis=1
    )  # rows that only their keys make equal are compared in vain
    order = np.argsort(keys, kind="stable")
    edges = np.flatnonzero(np.diff(keys[order])) + 1
    starts, ends = np.append(0, edges), np.append(edges, len(keys))
    for n in np.flatnonzero(ends - starts > 1):
        yield order[starts[n] : ends[n]]


def _links(signatures: np.ndarray, members: np.ndarray, similarity: float) -> Iterator[np.ndarray]:
    """Pairs (m, 2) that link all members that are similar enough, if not each with each."""
    rows = signatures[members]
    while len(members) > 1:
        head, members = members[0], members[1:]
        near = np.count_nonzero(rows[1:] == rows[0], axis=1) >= similarity * NUM_HASHES
        rows = rows[1:]
        if near.any():
            yield np.column_stack((np.full(near.sum(), head), members[near]))
            rows, members = rows[~near], members[~near]


def _linked(lowest: np.ndarray, links: np.ndarray) -> np.ndarray:
    """`lowest` after further links: the lowest index of each group."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = np.concatenate((links, np.column_stack((np.arange(len(lowest)), lowest))))
    graph = coo_array((np.ones(len(links), dtype=bool), links.T), shape=(len(lowest), len(lowest)))
    _, group = connected_components(graph, directed=False)
    _, first = np.unique(group, return_index=True)
    return first[group]
