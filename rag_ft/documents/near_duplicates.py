"""Finds documents that are nearly the same, by MinHash signatures (Broder 1997) and
locality-sensitive hashing, in numpy.

Signatures, 512 bytes a document, stand in a file; memory holds some 30 bytes a document. The
`datasketch` package gives the same result, but it hashes every 5-gram by a Python call and holds a
table of n_grams x num_hashes: 1 KB for every word of a long document.
"""

from __future__ import annotations

import math
import re
import shutil
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

# The standard error of a similarity of 0.8 is 0.035.
NUM_HASHES = 128
MAX_BANDS = 256
# The probability that two signatures exactly as similar as asked for are never compared.
MAX_MISSED = 1e-3
WORDS_PER_GRAM = 5
# The 5-grams hashed at once: 4096 x 128 hashes are 4 MB.
BLOCK_GRAMS = 4096
# The signatures that are read at once: 2 MB.
BLOCK_SIGNATURES = 4096
# The words whose hashes are held: about 30 MB.
MAX_HASHED_WORDS = 200_000
# A Thai, Lao, Chinese or Japanese character is a word of its own.
_WORD = re.compile(
    r"[\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]"
    r"|[^\W\u0e00-\u0eff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+"
)


def splitmix64(values: np.ndarray) -> np.ndarray:
    """The finaliser of splitmix64 (Steele et al. 2014) of uint64 values of any shape.

    Every bit of the input changes about half of the bits of the output.
    """
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


class _WordHashes(dict[str, int]):
    """The hashes of the words that were seen: most words come again and again."""

    def __missing__(self, word: str) -> int:
        self[word] = value = zlib.crc32(word.encode())
        return value


_hashes = _WordHashes()
# One multiply-shift hash function a place: an odd factor and an offset.
_FACTORS = splitmix64(np.arange(1, NUM_HASHES + 1, dtype=np.uint64)) | np.uint64(1)
_OFFSETS = splitmix64(np.arange(NUM_HASHES + 1, 2 * NUM_HASHES + 1, dtype=np.uint64))


def hash_words(text: str) -> np.ndarray:
    """A hash of each word of a text, uint64 (words,), in order. Punctuation does not count; a
    character of a script without spaces is a word."""
    found = _WORD.findall(text)
    if len(_hashes) > MAX_HASHED_WORDS:
        _hashes.clear()
    return np.fromiter(map(_hashes.__getitem__, found), dtype=np.uint64, count=len(found))


def signature(text: str) -> np.ndarray:
    """Returns the MinHash signature of the text's word 5-grams, uint32 (NUM_HASHES,).

    The share of equal places of two signatures estimates the Jaccard similarity of their sets of
    5-grams. Case and punctuation do not count. A text of fewer than five words is one gram.
    """
    words = hash_words(text.lower())
    if not len(words):
        # A text of punctuation alone is one gram of all its characters.
        words = np.array([zlib.crc32(text.encode())], dtype=np.uint64)

    grams = np.zeros(max(1, len(words) - WORDS_PER_GRAM + 1), dtype=np.uint64)
    for n in range(min(WORDS_PER_GRAM, len(words))):
        grams = splitmix64(grams * np.uint64(31) + words[n : n + len(grams)])
    grams = np.unique(grams)

    # The least hash of all grams for each hash function; in blocks, so that memory stays small.
    least = np.full(NUM_HASHES, np.iinfo(np.uint32).max, dtype=np.uint32)
    for start in range(0, len(grams), BLOCK_GRAMS):
        block = grams[start : start + BLOCK_GRAMS, None]
        hashed = (block * _FACTORS + _OFFSETS) >> np.uint64(32)
        np.minimum(least, hashed.min(axis=0).astype(np.uint32), out=least)
    return least


def least_estimate(similarity: float) -> float:
    """What the estimate of two texts of this similarity (0-1) is at least: three standard errors
    less, which is wrong for one of 700. Two documents that are a little less alike then share a
    split, which costs nothing."""
    return max(0.01, similarity - 3 * math.sqrt(similarity * (1 - similarity) / NUM_HASHES))


class Signatures:
    """The signatures of documents, in a file that is gone at the end."""

    def __init__(self, scratch: Path | None = None) -> None:
        """`scratch` is the folder of the file; None: the system's."""
        self.scratch = scratch
        self._file = tempfile.TemporaryFile(dir=scratch)  # noqa: SIM115 - gone with this object
        self._num = 0

    def __len__(self) -> int:
        return self._num

    def add(self, signatures: Iterable[np.ndarray]) -> None:
        """Appends signatures, uint32 (NUM_HASHES,) each."""
        for own in signatures:
            self._file.write(own.astype("<u4").tobytes())
            self._num += 1

    def rows(self, places: np.ndarray) -> np.ndarray:
        """The signatures of these documents, uint32 (places, NUM_HASHES)."""
        self._file.flush()
        table = np.memmap(self._file, "<u4", mode="r", shape=(self._num, NUM_HASHES))
        return np.asarray(table[places])

    def blocks(self) -> Iterator[np.ndarray]:
        """All signatures in order, BLOCK_SIGNATURES at a time."""
        self._file.seek(0)
        while data := self._file.read(4 * NUM_HASHES * BLOCK_SIGNATURES):
            yield np.frombuffer(data, "<u4").reshape(-1, NUM_HASHES)

    def save(self, path: Path, number: int) -> None:
        """Writes the first `number` signatures as a .npy file."""
        header = {"descr": "<u4", "fortran_order": False, "shape": (number, NUM_HASHES)}
        self._file.seek(0)
        with path.open("wb") as out:
            np.lib.format.write_array_header_1_0(out, header)
            shutil.copyfileobj(self._file, out)
            out.truncate(out.tell() - 4 * NUM_HASHES * (self._num - number))


def groups(signatures: Signatures, similarity: float) -> np.ndarray:
    """Returns for each signature the lowest index of its group.

    Two signatures are linked where at least `similarity` (0 to 1) of their places are equal. A
    group is everything linked over any number of steps. A signature without links has its own
    index.
    """
    num = len(signatures)
    lowest = np.arange(num)
    for keys in _band_keys(signatures, similarity):
        links: list[np.ndarray] = []
        for members in equal_keys(keys):
            # Members that are one group already need no comparison.
            if (lowest[members] != lowest[members[0]]).any():
                links += _links(signatures.rows(members), members, similarity)
        if not links:
            continue
        # Most collections have no link, and importing scipy takes longer than all else here.
        from scipy.sparse import coo_array
        from scipy.sparse.csgraph import connected_components

        # Join the new links with the groups so far, and number the groups by their lowest index.
        edges = np.concatenate([*links, np.column_stack((np.arange(num), lowest))])
        graph = coo_array((np.ones(len(edges), dtype=bool), edges.T), shape=(num, num))
        _, group = connected_components(graph, directed=False)
        _, first = np.unique(group, return_index=True)
        lowest = first[group]
    return lowest


def _band_keys(signatures: Signatures, similarity: float) -> Iterator[np.ndarray]:
    """Yields for each band a hash of the places of each signature that are in it, uint64. They are
    computed in one pass over the signatures, and wait in a file."""
    places = bands(similarity)
    with tempfile.TemporaryFile(dir=signatures.scratch) as file:
        sizes = []
        for block in signatures.blocks():
            sizes.append(len(block))
            for own in places:
                keys = (block[:, own] * _FACTORS[: len(own)]).sum(axis=1)
                file.write(keys.tobytes())
        for band in range(len(places)):
            found, start = [np.zeros(0, np.uint64)], 0
            for size in sizes:
                file.seek(8 * (start + band * size))
                found.append(np.frombuffer(file.read(8 * size), np.uint64))
                start += len(places) * size
            yield np.concatenate(found)


def bands(similarity: float) -> list[np.ndarray]:
    """Returns sets of places, for locality-sensitive hashing.

    Two signatures with `similarity` of all places equal agree in every place of at least one set,
    with a probability of 1 - MAX_MISSED. The sets are as large as MAX_BANDS allows: the larger a
    set, the fewer less similar signatures are compared. That matters for documents made from one
    template, where all pairs are a little too dissimilar.
    """
    agreeing = math.ceil(similarity * NUM_HASHES)
    for size in range(agreeing, 1, -1):
        # The chance that `size` places drawn at random all lie among the agreeing ones.
        chance = math.comb(agreeing, size) / math.comb(NUM_HASHES, size)
        number = 1 if chance == 1 else math.ceil(math.log(MAX_MISSED) / math.log1p(-chance))
        if number <= MAX_BANDS:
            draw = np.random.default_rng(0)
            return [draw.permutation(NUM_HASHES)[:size] for _ in range(number)]
    return list(np.arange(NUM_HASHES)[:, None])


def equal_keys(keys: np.ndarray) -> Iterator[np.ndarray]:
    """Yields the ascending indices of equal keys, for each key that repeats.

    Keys are hashes of 64 bits, so different signatures are very rarely called equal.
    """
    order = np.argsort(keys, kind="stable")
    edges = np.flatnonzero(np.diff(keys[order])) + 1
    starts, ends = np.append(0, edges), np.append(edges, len(keys))
    for n in np.flatnonzero(ends - starts > 1):
        yield order[starts[n] : ends[n]]


def _links(rows: np.ndarray, members: np.ndarray, similarity: float) -> Iterator[np.ndarray]:
    """Yields pairs (m, 2) of similar members, enough of them to connect each group. `rows` are
    their signatures."""
    while len(members) > 1:
        head, members = members[0], members[1:]
        near = np.count_nonzero(rows[1:] == rows[0], axis=1) >= similarity * NUM_HASHES
        rows = rows[1:]
        if near.any():
            # A member linked to the head needs no links of its own.
            yield np.column_stack((np.full(near.sum(), head), members[near]))
            rows, members = rows[~near], members[~near]
