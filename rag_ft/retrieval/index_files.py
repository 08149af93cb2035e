"""What a finished index folder holds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rag_ft.errors import DataError
from rag_ft.retrieval.segments import ChunkVectors, Segment
from rag_ft.schema import ChunkContext
from rag_ft.storage import link_or_copy, write_json

SENTENCES = "sentences"  # folder of the index of the chunks' sentences
VECTORS = "vectors.npy"  # see write_rows


@dataclass(frozen=True)
class Manifest:
    """What an index was made of.

    `encoder` is the fingerprint of the encoder that its questions need, `chunks` the sha256 of the
    lines of chunks.jsonl. `store` is a name of vector_store.STORES. `segments` holds {name,
    num_rows, data} of each segment, where `data` is what the store needs to open its files.
    `sentences`: an index of them stands in the folder SENTENCES.
    """

    encoder: str
    dim: int
    num_chunks: int
    chunks: str
    context: ChunkContext
    store: str
    segments: list[dict[str, Any]]
    sentences: bool = False


def read_manifest(folder: Path) -> Manifest:
    """Raises DataError where `folder` holds no finished index, or one of an earlier version."""
    try:
        fields = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        # Earlier versions had no segments, and knew titles alone.
        if "nprobe" in fields or "store_data" in fields or "with_title" in fields:
            raise DataError(
                f"the index in {folder} was made by an earlier version: rebuild it with "
                "`rag-ft index CONFIG --force`"
            )
        return Manifest(**fields)
    except FileNotFoundError as error:
        raise DataError(
            f"there is no finished index in {folder}: run `rag-ft index CONFIG`"
        ) from error
    except (ValueError, TypeError) as error:
        raise DataError(
            f"{folder}/manifest.json is damaged: run `rag-ft index CONFIG --force`"
        ) from error


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Writes manifest.json, the mark of a finished index."""
    write_json(folder / "manifest.json", asdict(manifest), indent=1)


def read_ids(folder: Path, manifest: Manifest) -> list[str]:
    """The ids of the chunks, in their order.

    Raises:
        DataError: chunk_ids.json is missing, damaged, or does not fit the manifest.
    """
    try:
        ids: list[str] = json.loads((folder / "chunk_ids.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{folder}/chunk_ids.json is missing or damaged: run `rag-ft index CONFIG --force`"
        ) from error
    if len(ids) != manifest.num_chunks:
        raise DataError(
            f"the index in {folder} is inconsistent ({len(ids)} ids, {manifest.num_chunks} "
            "chunks): run `rag-ft index CONFIG --force`"
        )
    return ids


def open_parts(folder: Path, manifest: Manifest) -> tuple[list[Segment], np.ndarray]:
    """The segments of a finished index, and the vector of each chunk, numbered through them.

    Raises:
        DataError: rows.npy is missing, damaged, or does not fit the manifest.
    """
    segments = [
        Segment(folder / "segments" / one["name"], one["num_rows"], one["data"])
        for one in manifest.segments
    ]
    try:
        rows = np.load(folder / "rows.npy", allow_pickle=False)
        if len(rows) != manifest.num_chunks or rows.max() >= sum(s.num_rows for s in segments):
            raise ValueError("it names other vectors")
    except (OSError, ValueError) as error:
        raise DataError(
            f"{folder}/rows.npy is missing or damaged: run `rag-ft index CONFIG --force`"
        ) from error
    return segments, rows


def write_rows(folder: Path, segments: Sequence[Segment], rows: np.ndarray) -> None:
    """Writes rows.npy and, for scripts, vectors.npy: a vector a chunk in the order of
    chunk_ids.json. That is the file of the only segment under another name; it is missing where
    there are several."""
    # Another index may share the old files by hard links.
    (folder / "rows.npy").unlink(missing_ok=True)
    np.save(folder / "rows.npy", rows)
    (folder / VECTORS).unlink(missing_ok=True)
    if len(segments) == 1 and np.array_equal(rows, np.arange(segments[0].num_rows)):
        link_or_copy(segments[0].folder / VECTORS, folder / VECTORS)


def open_vectors(folder: Path) -> ChunkVectors:
    """The vectors of a finished index, in the order of its chunks: float32, unit norm.

    Raises:
        DataError: there is no finished index, or a file is missing or damaged.
    """
    segments, rows = open_parts(folder, read_manifest(folder))
    return ChunkVectors([segment.vectors for segment in segments], rows)


def copy_index(source: Path, target: Path) -> None:
    """Copies an index folder; links in it would become a second copy of the vectors. Raises
    DataError where `source` holds no finished index."""
    read_manifest(source)
    links = {str(source), str(source / SENTENCES)}
    shutil.copytree(source, target, ignore=lambda folder, _: [VECTORS] * (folder in links))
