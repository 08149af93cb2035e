"""Chunks -> an index folder: chunk_ids.json, rows.npy, segments/, lexical/, and manifest.json,
written last.

Vectors are kept by the content of their texts: a build over an older index encodes only texts that
are new. They stand in at most two segments, a large one and one of recent vectors; where a tenth of
all is recent or deleted, both become one (`compact`). The result finds what a new index would find.

Memory does not grow with the corpus, but for some 400 bytes a chunk, the vocabulary, and what the
vector store needs.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from rag_ft.config import RetrievalConfig
from rag_ft.errors import ConfigError, DataError
from rag_ft.retrieval.buckets import BUCKETS, open_buckets
from rag_ft.retrieval.chunk_files import ChunkFiles
from rag_ft.retrieval.encoder import Encoder
from rag_ft.retrieval.index_files import (
    SENTENCES,
    Manifest,
    read_manifest,
    write_manifest,
    write_rows,
)
from rag_ft.retrieval.segments import (
    ChunkVectors,
    KnownRows,
    MadeBy,
    Segment,
    find_segments,
    keys_table,
    remove_others,
    write_segment,
)
from rag_ft.retrieval.sentences import sentences_of
from rag_ft.retrieval.vector_file import VectorFile, write_vectors
from rag_ft.schema import Chunk, ChunkContext
from rag_ft.storage import batched, link_or_copy

_NUM_TUNING_QUERIES = 256
# Above this share of recent and deleted vectors an index is made of one segment again.
MAX_RECENT_SHARE = 0.1


def build_index(
    folder: Path,
    chunks: Iterable[Chunk],
    encoder: Encoder,
    retrieval: RetrievalConfig,
    seed: int,
    total: int | None = None,
    store: str = "faiss",
    compact: bool = False,
) -> dict[str, int | float]:
    """Writes the index of `chunks` to `folder`. Continues a killed build, takes vectors from
    finished buckets (see buckets.py), and keeps those of an older index there whose texts are
    unchanged.

    `seed` is of the store's random choices, `total` for the progress bar alone. `store` names the
    vector store. `compact` writes one segment without deleted vectors, as a new build does. Returns
    counts: num_chunks, num_encoded, num_segments, dim, num_cut_chunks (longer than the encoder
    reads), faiss_recall (against exact search, 0..1; named after the store).

    Raises:
        DataError: there is no chunk.
        ConfigError: the library of the vector store is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").unlink(missing_ok=True)
    made_by = MadeBy(encoder.fingerprint, store, retrieval.advanced.faiss, seed)
    segments = find_segments(folder / "segments", made_by)
    remove_others(folder / "segments", segments)
    parts = [*segments, *open_buckets(folder / BUCKETS, encoder.fingerprint)]
    new = VectorFile(folder, encoder, total)
    read = _read_chunks(folder, chunks, encoder, retrieval.context, parts, new)

    kept, moved = _arrange(segments, read.rows, compact)
    if len(moved):
        keys = keys_table(read.keys[moved], read.cut[moved])
        write = partial(_write_moved, moved=moved, rows=read.rows, parts=parts, new=new)
        queries = partial(read.queries, encoder)
        kept.append(write_segment(folder / "segments", keys, made_by, write, queries))
        read.rows[moved] = sum(s.num_rows for s in kept[:-1]) + np.arange(len(moved))

    write_rows(folder, kept, read.rows)
    manifest = Manifest(
        encoder=encoder.fingerprint,
        dim=encoder.dim,
        num_chunks=len(read.rows),
        chunks=read.digest,
        context=retrieval.context,
        store=store,
        segments=[segment.entry() for segment in kept],
        sentences=_build_sentences(folder, chunks, encoder, retrieval, seed, store),
    )
    write_manifest(folder, manifest)
    remove_others(folder / "segments", kept)
    shutil.rmtree(folder / BUCKETS, ignore_errors=True)
    new.remove()
    counts: dict[str, int | float] = {"num_chunks": len(read.rows), "num_encoded": read.num_new}
    counts |= {"num_segments": len(kept), "dim": encoder.dim, "num_cut_chunks": int(read.cut.sum())}
    return counts | {f"{store}_recall": min(segment.data["recall"] for segment in kept)}


def _build_sentences(
    folder: Path,
    chunks: Iterable[Chunk],
    encoder: Encoder,
    retrieval: RetrievalConfig,
    seed: int,
    store: str,
) -> bool:
    """Writes the index of the chunks' sentences where `retrieval` asks for it, for which `chunks`
    are gone through once more; returns whether there is one."""
    if not retrieval.advanced.sentences or next(sentences_of(chunks), None) is None:
        shutil.rmtree(folder / SENTENCES, ignore_errors=True)
        return False
    advanced = retrieval.advanced.model_copy(update={"sentences": False})
    alone = retrieval.model_copy(update={"advanced": advanced})
    build_index(folder / SENTENCES, sentences_of(chunks), encoder, alone, seed, store=store)
    return True


def _write_moved(
    path: Path, moved: np.ndarray, rows: np.ndarray, parts: Sequence[Segment], new: VectorFile
) -> None:
    """Writes the vectors of the chunks `moved` to a file; `rows` names the vector of each chunk."""
    num_old = sum(part.num_rows for part in parts)
    if np.array_equal(rows[moved], num_old + np.arange(new.num_rows)):
        link_or_copy(new.path, path)  # all that were encoded, in their order
    else:
        vectors = [*(part.vectors for part in parts), new.vectors]
        write_vectors(path, ChunkVectors(vectors, rows), moved)


@dataclass(frozen=True)
class _Read:
    """What one pass over the chunks found: the sha256 of their lines, the key of each text, the
    vector of each chunk (numbered through the segments, then the `num_new` new ones), whether it is
    `cut` (longer than the encoder reads), and some texts from all over the corpus."""

    digest: str
    keys: np.ndarray
    rows: np.ndarray
    cut: np.ndarray
    num_new: int
    samples: list[str]

    def queries(self, encoder: Encoder) -> np.ndarray:
        """Vectors like those of questions (m, dim), to tune a vector store on: the first sentences
        of at most 512 chunks, spread evenly over the corpus, encoded as questions."""
        sentences = []
        for text in self.samples[:: max(1, len(self.samples) // _NUM_TUNING_QUERIES)]:
            parts = re.split(r"(?<=[.?!。？！])\s*|\n", text.strip(), maxsplit=1)
            sentences.append(parts[0])
        return encoder.encode_queries(sentences or [""])


def _read_chunks(
    folder: Path,
    chunks: Iterable[Chunk],
    encoder: Encoder,
    context: ChunkContext,
    parts: Sequence[Segment],
    new: VectorFile,
) -> _Read:
    """Encodes the texts that `parts` lack into `new`; writes chunk_ids.json and lexical/."""
    known = KnownRows(parts)
    files, samples, step = ChunkFiles(folder, context), list[str](), 1
    keys, found_rows, num_new = list[np.ndarray](), list[np.ndarray](), 0
    with new:
        for block in batched(chunks, encoder.block_size):
            num_seen = len(files.ids)
            texts, block_keys = files.add(block)
            keys.append(block_keys)
            found = known.rows(block_keys)
            missing = np.flatnonzero(found < 0)
            found[missing] = len(known) + num_new + np.arange(len(missing))
            num_new += len(missing)
            new.add([texts[place] for place in missing], len(texts) - len(missing))
            found_rows.append(found)

            # Every n-th text is a sample. n doubles as the corpus grows, so they spread evenly.
            samples += texts[-num_seen % step :: step]
            while len(samples) > 2 * _NUM_TUNING_QUERIES:
                samples, step = samples[::2], 2 * step
    if not files.ids:
        raise DataError(
            f"no chunks to index in {folder.parent}: run ingest over documents that contain text"
        )
    files.save()
    rows = np.concatenate(found_rows)
    cut = np.concatenate([*(part.keys["cut"] for part in parts), new.cut])[rows]
    return _Read(files.digest, np.concatenate(keys), rows, cut, num_new, samples)


def _arrange(
    segments: Sequence[Segment], row_of: np.ndarray, compact: bool
) -> tuple[list[Segment], np.ndarray]:
    """Which segments stay as they are, and the chunks whose vectors a new segment takes. `row_of`
    numbers the vectors through the segments; what is above is new."""
    everything = np.arange(len(row_of))
    if not segments:
        return [], everything
    # The largest segment comes first.
    main = segments[0]
    others = np.flatnonzero(row_of >= main.num_rows)
    num_deleted = main.num_rows - (len(row_of) - len(others))
    if not len(others) and not num_deleted:
        in_order = bool((row_of == everything).all())
        return ([], everything) if compact and not in_order else ([main], others)
    if compact or len(others) + num_deleted > MAX_RECENT_SHARE * len(row_of):
        return [], everything
    recent = segments[1] if len(segments) > 1 else None
    if recent and np.array_equal(row_of[others], main.num_rows + np.arange(recent.num_rows)):
        return [main, recent], others[:0]
    return [main], others


def adopt_index(source: Path, folder: Path, encoder: Encoder) -> None:
    """Makes `folder` the index of another question encoder over the chunk vectors of `source`.

    Meant for an encoder that was tuned on questions alone. Files are hard links, or copies where
    the file system has no links; the manifest is new.

    Raises:
        DataError: `source` holds no finished index.
        ConfigError: the encoder's vectors have another length.
    """
    manifest = read_manifest(source)
    if manifest.dim != encoder.dim:
        raise ConfigError(
            f"the vectors in {source} have {manifest.dim} numbers, those of the encoder "
            f"{encoder.dim}: run `rag-ft index CONFIG --force`"
        )

    shutil.rmtree(folder, ignore_errors=True)
    but_manifest = shutil.ignore_patterns("manifest.json")
    shutil.copytree(source, folder, copy_function=link_or_copy, ignore=but_manifest)
    if manifest.sentences:
        adopt_index(source / SENTENCES, folder / SENTENCES, encoder)
    write_manifest(folder, replace(manifest, encoder=encoder.fingerprint))
