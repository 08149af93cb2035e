"""An index without some of its chunks, made of its own files: no model is loaded."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from rag_ft.errors import DataError
from rag_ft.retrieval.chunk_files import ChunkFiles
from rag_ft.retrieval.index_files import (
    SENTENCES,
    open_parts,
    read_ids,
    read_manifest,
    write_manifest,
    write_rows,
)
from rag_ft.retrieval.segments import ChunkVectors, MadeBy, keys_table, write_segment
from rag_ft.retrieval.sentences import sentences_of
from rag_ft.retrieval.vector_file import write_vectors
from rag_ft.schema import Chunk
from rag_ft.storage import batched

_BLOCK = 1024
_NUM_QUERIES = 256  # vectors of chunks that stand in for those of questions


def prune_index(folder: Path, chunks: Callable[[], Iterable[Chunk]]) -> int:
    """Makes an index that holds nothing but these chunks: one segment, with their vectors as they
    were, and BM25 over them. Returns how many vectors are gone.

    `chunks` gives all chunks that stay, in their order. The index is made beside the old one and
    takes its place by a rename. A folder that holds no finished index is removed.

    Raises:
        DataError: the index lacks one of the chunks.
    """
    new, old = (folder.with_name(f"{folder.name}.{word}") for word in ("pruned", "old"))
    if not folder.exists() and (new / "manifest.json").exists():
        new.rename(folder)  # a killed call was between its two renames
    for leftover in (new, old):
        shutil.rmtree(leftover, ignore_errors=True)
    if not (folder / "manifest.json").exists():
        shutil.rmtree(folder, ignore_errors=True)
        return 0

    manifest = read_manifest(folder)
    segments, rows = open_parts(folder, manifest)
    place_of = {chunk_id: n for n, chunk_id in enumerate(read_ids(folder, manifest))}
    new.mkdir()
    files = ChunkFiles(new, manifest.context)
    keys = np.concatenate([files.add(block)[1] for block in batched(chunks(), _BLOCK)])
    files.save()
    if missing := [chunk_id for chunk_id in files.ids if chunk_id not in place_of]:
        raise DataError(f"the index in {folder} has no chunk {missing[0]}: index the run first")
    kept = rows[[place_of[chunk_id] for chunk_id in files.ids]]

    # The vectors that stay, in the order of the chunks, as one segment.
    vectors = ChunkVectors([segment.vectors for segment in segments], kept)
    cut = np.concatenate([segment.keys["cut"] for segment in segments])[kept]
    about = json.loads((segments[0].folder / "segment.json").read_text(encoding="utf-8"))
    every = np.arange(len(kept))
    segment = write_segment(
        new / "segments",
        keys_table(keys, cut),
        MadeBy(**about["made_by"]),
        partial(write_vectors, vectors=vectors, positions=every),
        lambda: np.asarray(vectors[every[:: max(1, len(every) // _NUM_QUERIES)]]),
    )
    write_rows(new, [segment], every)
    has_sentences = manifest.sentences and next(iter(sentences_of(chunks())), None) is not None
    if has_sentences:
        shutil.copytree(folder / SENTENCES, new / SENTENCES)
        prune_index(new / SENTENCES, lambda: sentences_of(chunks()))
    rest = replace(manifest, num_chunks=len(kept), chunks=files.digest, segments=[segment.entry()])
    rest = replace(rest, sentences=has_sentences)
    write_manifest(new, rest)

    folder.rename(old)
    new.rename(folder)
    shutil.rmtree(old)
    return sum(each.num_rows for each in segments) - len(kept)
