"""The chunks of a run in buckets of about 8,192, which workers encode on their own.

A chunk's bucket follows from its text; see engine/work.py. The result of a bucket is a folder
with vectors.npy and keys.npy (see segments.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from rag_ft.chunk_store import ChunkStore
from rag_ft.config import EncoderConfig, EngineConfig, RetrievalConfig
from rag_ft.engine.shards import run_buckets
from rag_ft.engine.work import (
    check_alike,
    number_of_buckets,
    plan_buckets,
    planned_rows,
    result_of,
    whole_folder,
)
from rag_ft.hardware import choose_device, choose_dtype
from rag_ft.prompts.answer_prompt import chunk_text
from rag_ft.retrieval.encoder import Encoder, load_encoder
from rag_ft.retrieval.segments import KEYS, KnownRows, MadeBy, Segment, TextKeys, find_segments
from rag_ft.schema import ChunkContext
from rag_ft.storage import batched

BUCKETS = "buckets"
CHUNKS_PER_BUCKET = 8192


def open_buckets(folder: Path, fingerprint: str) -> list[Segment]:
    """The finished buckets that the encoder with this fingerprint wrote to `folder`."""
    found = []
    for path in sorted((folder / fingerprint / "done").glob("[0-9]*")):
        bucket = Segment(path, 0, {})
        found.append(Segment(path, len(bucket.keys), {}))
    return found


def encode_in_buckets(
    index: Path,
    chunks: ChunkStore,
    encoder: EncoderConfig,
    retrieval: RetrievalConfig,
    seed: int,
    fingerprint: str,
    engine: EngineConfig,
) -> None:
    """Encodes the chunks into buckets of the index folder, by the workers of the engine. Texts of
    which the index has the vectors are left out.

    `retrieval` and `seed` are those of the index (see build_index), `fingerprint` that of the
    encoder.

    Raises:
        RagFtError, ShardDone: see run_buckets.
    """
    made_by = MadeBy(fingerprint, "faiss", retrieval.advanced.faiss, seed)
    known = KnownRows(find_segments(index / "segments", made_by))
    folder = index / BUCKETS / fingerprint
    names = plan_buckets(folder, _rows(chunks, retrieval.context, known))
    dtype = choose_dtype(encoder.dtype, choose_device())
    work = EncodeWork(folder, chunks.path, encoder, f"{fingerprint} {dtype}", retrieval.context)
    run_buckets(work, names, engine, "index: encode chunks")


def _rows(
    chunks: ChunkStore, context: ChunkContext, known: KnownRows
) -> Iterator[tuple[int, dict[str, Any]]]:
    """(bucket, {line, key}) of every chunk whose text `known` lacks; `key` is of the text."""
    num_buckets = number_of_buckets(len(chunks), CHUNKS_PER_BUCKET)
    text_keys, line = TextKeys(), 0
    for block in batched(chunks, 1024):
        keys = text_keys.of([chunk_text(chunk, context) for chunk in block])
        for place in np.flatnonzero(known.rows(keys) < 0):
            key = int(keys[place])
            yield key % num_buckets, {"line": line + int(place), "key": key}
        line += len(block)


@dataclass
class EncodeWork:
    """Encodes a bucket; see engine/work.Work. `identity` is the encoder's fingerprint and type."""

    folder: Path
    chunks: Path
    encoder: EncoderConfig
    identity: str
    context: ChunkContext
    has_processes: bool = False
    _opened: list[Encoder] = field(default_factory=list)

    def do(self, name: str) -> None:
        """Writes the vectors of a bucket.

        Raises:
            ConfigError: this machine computes other vectors than the one that planned.
        """
        if not self._opened:
            model = load_encoder(self.encoder)
            dtype = choose_dtype(self.encoder.dtype, choose_device())
            check_alike(f"{model.fingerprint} {dtype}", self.identity, "encoder")
            self._opened.append(model)
        model, planned = self._opened[0], list(planned_rows(self.folder, name))
        rows = np.zeros(len(planned), dtype=KEYS)
        rows["key"] = np.array([row["key"] for row in planned], dtype=np.uint64)
        lines, vectors, cut = [row["line"] for row in planned], list[np.ndarray](), list[bool]()
        texts = (chunk_text(chunk, self.context) for chunk in ChunkStore(self.chunks).at(lines))
        for block in batched(texts, model.block_size):
            cut += [number > model.max_tokens for number in model.count_tokens(block)]
            vectors.append(model.encode_chunks(block))
        rows["cut"] = cut
        with whole_folder(result_of(self.folder, name)) as temporary:
            np.save(temporary / "vectors.npy", np.concatenate(vectors))
            np.save(temporary / "keys.npy", rows)

    def close(self) -> None:
        """Frees the encoder."""
        self._opened.clear()
