"""Buckets: the chunks of a run in parts of about 8,192, which processes encode on their own.

A chunk's bucket follows from its text, and the number of buckets from the number of chunks. A batch
never crosses a bucket, and a worker computes with one thread. So the vectors are the same bytes
whatever the number of workers, machines and interruptions. A bucket is a folder with vectors.npy
and keys.npy (see segments.py). It is written to another name and renamed: where it is, it is whole.
"""

from __future__ import annotations

import hashlib
import math
import multiprocessing
import os
import shutil
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from rag_ft.chunk_store import ChunkStore
from rag_ft.config import EncoderConfig, RetrievalConfig
from rag_ft.errors import RagFtError
from rag_ft.prompts.answer_prompt import chunk_text
from rag_ft.retrieval.encoder import Encoder, load_encoder
from rag_ft.retrieval.segments import KEYS, KnownRows, MadeBy, Segment, TextKeys, find_segments
from rag_ft.schema import ChunkContext
from rag_ft.storage import batched

BUCKETS = "buckets"
CHUNKS_PER_BUCKET = 8192
# How often the buckets of a process that died are given to another one.
MAX_TRIES = 3


def open_buckets(folder: Path, fingerprint: str) -> list[Segment]:
    """The finished buckets that the encoder with this fingerprint wrote to `folder`."""
    found = []
    for path in sorted(folder.glob(f"{fingerprint}-*")):
        bucket = Segment(path, 0, {})
        found.append(Segment(path, len(bucket.keys), {}))
    return found


def encode_shard(
    index: Path,
    chunks: ChunkStore,
    encoder: Encoder,
    retrieval: RetrievalConfig,
    seed: int,
    shard: tuple[int, int],
) -> int:
    """Encodes the buckets b with b mod n = i, for a shard (i, n), into the index folder. Buckets
    that are there are left, and so are texts of which the index has the vectors. Returns the number
    of buckets that were encoded.

    `retrieval` and `seed` are those of the index; see build_index.
    """
    import torch

    torch.set_num_threads(1)
    made_by = MadeBy(encoder.fingerprint, "faiss", retrieval.advanced.faiss, seed)
    known = KnownRows(find_segments(index / "segments", made_by))
    number, of = shard
    buckets = _lines_of_buckets(chunks, retrieval.context, known)
    wanted = [bucket for bucket in buckets if bucket[0] % of == number]
    made = 0
    with tqdm(desc="encode buckets", total=len(wanted), unit=" buckets") as bar:
        for bucket, lines, keys in wanted:
            content = hashlib.sha256(keys.tobytes()).hexdigest()[:16]
            name = f"{encoder.fingerprint}-{bucket:06}-{content}"
            if not (index / BUCKETS / name).exists():
                texts = (chunk_text(chunk, retrieval.context) for chunk in chunks.at(lines))
                _write_bucket(index / BUCKETS / name, texts, keys, encoder)
                made += 1
            bar.update()
    return made


def encode_in_processes(
    index: Path,
    chunks: ChunkStore,
    encoder: EncoderConfig,
    retrieval: RetrievalConfig,
    seed: int,
    num_workers: int,
) -> None:
    """Encodes all buckets in so many processes; see encode_shard. What a process leaves when it
    dies is done by the next ones.

    Raises:
        RagFtError: processes died again and again.
    """
    context = multiprocessing.get_context("spawn")
    for _ in range(MAX_TRIES):
        workers = []
        for n in range(num_workers):
            work = (index, chunks.path, encoder, retrieval, seed, (n, num_workers))
            workers.append(context.Process(target=_work, args=work))
            workers[-1].start()
        for worker in workers:
            worker.join()
        codes = [worker.exitcode for worker in workers if worker.exitcode]
        if not codes:
            return
    raise RagFtError(
        f"processes that encode chunks ended with exit code {codes[0]}, {MAX_TRIES} times: lower "
        "engine.advanced.num_workers if memory is short, and run the same command again"
    )


def _work(index: Path, chunks: Path, encoder: EncoderConfig, *others: Any) -> None:
    encode_shard(index, ChunkStore(chunks), load_encoder(encoder), *others)


def _lines_of_buckets(
    chunks: ChunkStore, context: ChunkContext, known: KnownRows
) -> Iterator[tuple[int, list[int], np.ndarray]]:
    """(bucket, lines of its chunks, their keys) of every bucket with texts that `known` lacks."""
    num_buckets = math.ceil(len(chunks) / CHUNKS_PER_BUCKET)
    lines: dict[int, list[int]] = defaultdict(list)
    text_keys, every, line = TextKeys(), list[np.ndarray](), 0
    for block in batched(chunks, 1024):
        keys = text_keys.of([chunk_text(chunk, context) for chunk in block])
        for place in np.flatnonzero(known.rows(keys) < 0):
            lines[int(keys[place]) % num_buckets].append(line + int(place))
        line += len(block)
        every.append(keys)
    for bucket in sorted(lines):
        yield bucket, lines[bucket], np.concatenate(every)[lines[bucket]]


def _write_bucket(path: Path, texts: Iterator[str], keys: np.ndarray, encoder: Encoder) -> None:
    rows = np.zeros(len(keys), dtype=KEYS)
    rows["key"], vectors, cut = keys, list[np.ndarray](), list[bool]()
    for block in batched(texts, encoder.block_size):
        cut += [number > encoder.max_tokens for number in encoder.count_tokens(block)]
        vectors.append(encoder.encode_chunks(block))
    rows["cut"] = cut
    # Two processes may write the same bucket: the names differ, and the first one stays.
    temporary = path.with_name(f"tmp-{os.getpid()}-{path.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    np.save(temporary / "vectors.npy", np.concatenate(vectors))
    np.save(temporary / "keys.npy", rows)
    try:
        os.rename(temporary, path)
    except OSError:
        shutil.rmtree(temporary)
