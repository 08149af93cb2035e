"""Segments: what an index is made of, so that it can grow without being made anew.

A segment is a folder that is written once and never changed: vectors.npy, keys.npy (a hash of the
text of each vector, and whether the encoder read only a part of it), the vector store's files, and
segment.json, written last. `rows.npy` of the index names the vector of each chunk. A vector that no
chunk needs any more is deleted: it stays in its segment and is never found.
"""

from __future__ import annotations

import functools
import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rag_ft.errors import DataError
from rag_ft.retrieval.fusion import Ranking, best_first
from rag_ft.retrieval.vector_store import STORES, StoreData, VectorStore, open_store
from rag_ft.storage import write_json

KEYS = np.dtype([("key", "<u8"), ("cut", "?")])


def keys_table(keys: np.ndarray, cut: np.ndarray) -> np.ndarray:
    """The content of keys.npy: the key of each text, and whether the encoder reads only its
    beginning."""
    table = np.zeros(len(keys), dtype=KEYS)
    table["key"], table["cut"] = keys, cut
    return table


@dataclass(frozen=True)
class MadeBy:
    """What the files of a segment depend on besides its texts: the fingerprint of the encoder, the
    vector store and its kind, and the seed of its random choices."""

    encoder: str
    store: str
    kind: str
    seed: int


@dataclass(frozen=True)
class Segment:
    """A finished segment; `data` is what its store needs to open its files."""

    folder: Path
    num_rows: int
    data: StoreData

    def entry(self) -> dict[str, Any]:
        """What manifest.json says of it."""
        return {"name": self.folder.name, "num_rows": self.num_rows, "data": self.data}

    @functools.cached_property
    def keys(self) -> np.ndarray:
        """(key, cut) of each vector."""
        keys: np.ndarray = np.load(self.folder / "keys.npy", allow_pickle=False)
        return keys

    @functools.cached_property
    def vectors(self) -> np.ndarray:
        """Memory-mapped float32 (num_rows, dim), unit norm.

        Raises:
            DataError: the file is missing or damaged.
        """
        path = self.folder / "vectors.npy"
        try:
            found: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError) as error:
            raise DataError(
                f"{path} is missing or damaged: run `rag-ft index CONFIG --force`"
            ) from error
        return found


def find_segments(folder: Path, made_by: MadeBy) -> list[Segment]:
    """The finished segments in `folder` that were made in this way, the largest one first."""
    found = []
    for path in sorted(folder.iterdir()) if folder.exists() else ():
        try:
            row = json.loads((path / "segment.json").read_text(encoding="utf-8"))
            fits = row["made_by"] == vars(made_by)
        except (OSError, ValueError, LookupError, TypeError):
            fits = False
        if fits:
            found.append(Segment(path, row["num_rows"], row["data"]))
    return sorted(found, key=lambda segment: -segment.num_rows)


def write_segment(
    folder: Path,
    keys: np.ndarray,
    made_by: MadeBy,
    write: Callable[[Path], object],
    queries: Callable[[], np.ndarray],
) -> Segment:
    """Writes a segment to a folder in `folder` that is named after its content.

    `write` writes vectors.npy to a path, in the order of `keys`; `queries` gives vectors to tune
    the store on.
    """
    name = hashlib.sha256(json.dumps(vars(made_by)).encode() + keys.tobytes()).hexdigest()[:16]
    place = folder / name
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    write(place / "vectors.npy")
    np.save(place / "keys.npy", keys)
    build_store, _ = STORES[made_by.store]
    vectors = Segment(place, len(keys), {}).vectors
    data = build_store(vectors, queries, made_by.kind, place, made_by.seed)
    row = {"made_by": vars(made_by), "num_rows": len(keys), "data": data}
    write_json(place / "segment.json", row)
    return Segment(place, len(keys), data)


def remove_others(folder: Path, kept: Sequence[Segment]) -> None:
    """Removes all segments in `folder` but these."""
    names = {segment.folder.name for segment in kept}
    for path in folder.iterdir() if folder.exists() else ():
        if path.name not in names:
            shutil.rmtree(path)


class TextKeys:
    """A key for each text. The n-th occurrence of the same text has a key of its own, so that every
    chunk has its own vector."""

    def __init__(self) -> None:
        self._seen: dict[int, int] = {}

    def of(self, texts: Sequence[str]) -> np.ndarray:
        """uint64 (texts,). Among 100 million texts two share a key with a probability of .0003."""
        keys = np.empty(len(texts), dtype=np.uint64)
        for n, text in enumerate(texts):
            digest = hashlib.blake2b(text.encode("utf-8", "replace"), digest_size=8).digest()
            key = int.from_bytes(digest, "little")
            times = self._seen.get(key, 0)
            self._seen[key] = times + 1
            keys[n] = (key + times) % 2**64
        return keys


class KnownRows:
    """Finds the vector of a key among the vectors of all segments, numbered through."""

    def __init__(self, segments: Sequence[Segment]) -> None:
        keys = [segment.keys["key"] for segment in segments]
        every = np.concatenate([*keys, np.empty(0, np.uint64)])
        self._order = np.argsort(every, kind="stable")
        self._sorted = every[self._order]

    def __len__(self) -> int:
        return len(self._order)

    def rows(self, keys: np.ndarray) -> np.ndarray:
        """int64 (keys,): the number of the vector, -1 where there is none."""
        found = np.full(len(keys), -1, dtype=np.int64)
        if len(self._sorted):
            place = np.searchsorted(self._sorted, keys).clip(max=len(self._sorted) - 1)
            same = self._sorted[place] == keys
            found[same] = self._order[place[same]]
        return found


class ChunkVectors:
    """The vectors of an index in the order of its chunks, read from its segments when asked for."""

    def __init__(self, parts: Sequence[np.ndarray], rows: np.ndarray) -> None:
        """`rows` names the vector of each chunk, numbered through all `parts`."""
        self._parts, self._rows = parts, rows
        self._starts = np.cumsum([0, *(len(part) for part in parts)])
        self.shape = (len(rows), parts[0].shape[1])

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, places: Any) -> np.ndarray:
        """float32 (places, dim) of a slice or of an array or list of places."""
        rows = self._rows[places]
        if len(self._parts) == 1:
            return np.asarray(self._parts[0][rows])
        found = np.empty((len(rows), self.shape[1]), dtype=np.float32)
        part_of = np.searchsorted(self._starts, rows, side="right") - 1
        for number, part in enumerate(self._parts):
            mine = part_of == number
            found[mine] = part[rows[mine] - self._starts[number]]
        return found


class SegmentStore:
    """A VectorStore over the stores of several segments, whose rows are the chunks."""

    def __init__(self, store: str, segments: Sequence[Segment], rows: np.ndarray) -> None:
        """`rows` as in ChunkVectors. Raises what `open_store` raises."""
        self._stores = [open_store(store, one.folder, one.data) for one in segments]
        # The chunk of each vector of a segment; -1: it is deleted.
        chunk_of = np.full(sum(one.num_rows for one in segments), -1, dtype=np.int64)
        chunk_of[rows] = np.arange(len(rows))
        ends = np.cumsum([one.num_rows for one in segments])
        self._chunks = np.split(chunk_of, ends[:-1])
        self._live = [chunks >= 0 for chunks in self._chunks]
        self._whole = [bool(live.all()) for live in self._live]

    def search(
        self, vectors: np.ndarray, k: int, allowed: np.ndarray | None = None
    ) -> list[Ranking]:
        """See VectorStore.search."""
        found: list[list[Ranking]] = [[] for _ in vectors]
        for store, chunks, live, whole in zip(
            self._stores, self._chunks, self._live, self._whole, strict=True
        ):
            mask = None if whole else live
            if allowed is not None:
                mask = allowed[chunks] & live
            for place, (rows, scores) in enumerate(store.search(vectors, k, mask)):
                found[place].append((chunks[rows], scores))
        best = []
        for rankings in found:
            rows, scores = best_first(*map(np.concatenate, zip(*rankings, strict=True)))
            best.append((rows[:k], scores[:k]))
        return best


def open_segments(store: str, segments: Sequence[Segment], rows: np.ndarray) -> VectorStore:
    """The vector store of an index, whose rows are its chunks. Raises what `open_store` raises."""
    if len(segments) == 1 and np.array_equal(rows, np.arange(segments[0].num_rows)):
        return open_store(store, segments[0].folder, segments[0].data)
    return SegmentStore(store, segments, rows)
