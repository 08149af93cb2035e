"""The vectors of new chunks while they are encoded; a killed build continues where it was."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from tqdm import tqdm

from rag_ft.retrieval.encoder import Encoder
from rag_ft.storage import JsonlAppender, content_hash, read_rows, write_text


class VectorFile:
    """A file of vectors that grows, as a context manager.

    The vectors stand in `vectors.npy.tmp`. `progress.jsonl` has a line {key, num_chunks, cut} for
    each whole block; `key` is a hash of the encoder and the texts, and `cut` lists the texts that
    are longer than the encoder reads.
    """

    def __init__(self, folder: Path, encoder: Encoder, total: int | None = None) -> None:
        """Takes over what a killed build left in `folder`; `total` is for the progress bar."""
        self.path, self._progress_path = folder / "vectors.npy.tmp", folder / "progress.jsonl"
        self._encoder = encoder
        self._known: list[dict[str, Any]] = []
        self._waiting, self._cut, self._block = list[str](), list[int](), 0
        self.num_rows = 0
        self._bar = tqdm(desc="encode chunks", total=total, unit=" chunks", smoothing=0.1)
        if self._can_continue():
            self._known = list(read_rows(self._progress_path))
        else:
            self.remove()

    def __enter__(self) -> VectorFile:
        self._progress = JsonlAppender(self._progress_path)
        self._out = self.path.open("r+b" if self.path.exists() else "w+b")
        _write_header(self._out, 0, self._encoder.dim)
        return self

    def __exit__(self, error: object, *_: object) -> None:
        try:
            if error is None:
                self._finish()
        finally:
            self._bar.close()
            self._out.close()
            self._progress.__exit__()

    def add(self, texts: list[str], num_kept: int = 0) -> None:
        """Appends the vectors of texts. They are encoded in blocks, unless the killed build wrote
        them. `num_kept` further texts have their vectors: they count for the progress bar."""
        self._waiting += texts
        self._bar.update(num_kept)
        size = self._encoder.block_size
        while len(self._waiting) >= size:
            self._add_block(self._waiting[:size])
            del self._waiting[:size]

    @property
    def vectors(self) -> np.ndarray:
        """All vectors, memory-mapped, after the context has been left."""
        if not self.num_rows:  # an empty file cannot be mapped
            return np.empty((0, self._encoder.dim), np.float32)
        found: np.ndarray = np.load(self.path, mmap_mode="r", allow_pickle=False)
        return found

    @property
    def cut(self) -> np.ndarray:
        """A boolean for each vector: whether its text is longer than the encoder reads."""
        cut = np.zeros(self.num_rows, dtype=bool)
        cut[self._cut] = True
        return cut

    def remove(self) -> None:
        """Call it when the whole index is written: until then a killed build needs the files."""
        self.path.unlink(missing_ok=True)
        self._progress_path.unlink(missing_ok=True)

    def _can_continue(self) -> bool:
        """Whether a killed build left its vectors. With a second link they are those of a segment,
        which was finished and must not change."""
        try:
            return self._progress_path.exists() and self.path.stat().st_nlink == 1
        except FileNotFoundError:
            return False

    def _finish(self) -> None:
        if self._waiting:
            self._add_block(self._waiting)
        _write_header(self._out, self.num_rows, self._encoder.dim)
        self._out.truncate(self._out.tell() + self.num_rows * self._encoder.dim * 4)
        self._out.flush()
        os.fsync(self._out.fileno())

    def _add_block(self, texts: list[str]) -> None:
        key = content_hash(self._encoder.fingerprint, texts)
        if self._block < len(self._known) and self._known[self._block]["key"] == key:
            cut = self._known[self._block]["cut"]
            self._out.seek(len(texts) * self._encoder.dim * 4, os.SEEK_CUR)
        else:
            if self._block < len(self._known):
                # The texts differ from here on, so the killed build's later blocks are void.
                self._known = self._known[: self._block]
                self._progress.__exit__()
                kept = "".join(json.dumps(row) + "\n" for row in self._known)
                write_text(self._progress_path, kept)
                self._progress = JsonlAppender(self._progress_path)
            lengths = self._encoder.count_tokens(texts)
            cut = [n for n, length in enumerate(lengths) if length > self._encoder.max_tokens]
            # The vectors first: a block without its line is encoded again, never trusted.
            self._out.write(self._encoder.encode_chunks(texts).tobytes())
            self._out.flush()
            self._progress.write({"key": key, "num_chunks": len(texts), "cut": cut})
        self._cut += [self.num_rows + n for n in cut]
        self._block += 1
        self.num_rows += len(texts)
        self._bar.update(len(texts))


def write_vectors(
    path: Path, vectors: Any, positions: np.ndarray, block_rows: int = 65_536
) -> None:
    """Writes the vectors at `positions` of `vectors` (n, dim) as a .npy file, block by block."""
    with path.open("wb") as out:
        _write_header(out, len(positions), vectors.shape[1])
        for start in range(0, len(positions), block_rows):
            block = vectors[positions[start : start + block_rows]]
            out.write(np.ascontiguousarray(block, dtype=np.float32).tobytes())
        out.flush()
        os.fsync(out.fileno())


def _write_header(out: BinaryIO, num_rows: int, dim: int) -> None:
    # numpy pads the header for a first axis that grows, so its length is the same for any rows.
    out.seek(0)
    header = {"descr": "<f4", "fortran_order": False, "shape": (num_rows, dim)}
    np.lib.format.write_array_header_1_0(out, header)
