"""Chunks -> an index folder: vectors.npy, chunk_ids.json, lexical/, the vector store's files, and
manifest.json, written last.

Chunks are encoded block by block and the vectors appended to a file, so memory does not grow with
the corpus (BM25 keeps four bytes a word, the vector store what it needs). A killed build continues
after its last whole block and ends with the same bytes.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from tqdm import tqdm

from rag_ft.config import RetrievalConfig
from rag_ft.errors import ConfigError, DataError
from rag_ft.prompts.answer_prompt import chunk_text
from rag_ft.retrieval.encoder import Encoder
from rag_ft.retrieval.lexical import LexicalBuilder
from rag_ft.retrieval.vector_store import STORES
from rag_ft.schema import Chunk, ChunkContext
from rag_ft.storage import JsonlAppender, batched, content_hash, read_rows, to_json, write_text

_NUM_TUNING_QUERIES = 256


@dataclass(frozen=True)
class Manifest:
    """What an index was made of.

    `encoder` is the fingerprint of the encoder that its questions need, `chunks` the sha256 of the
    lines of chunks.jsonl. `store` is a name of vector_store.STORES, `store_data` what that store
    needs to open its files.
    """

    encoder: str
    dim: int
    num_chunks: int
    chunks: str
    context: ChunkContext
    store: str
    store_data: dict[str, Any]


def read_manifest(folder: Path) -> Manifest:
    """Raises DataError where `folder` holds no finished index, or one of an earlier version."""
    try:
        fields = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
        # Earlier versions kept the numbers of FAISS among the fields, and knew titles alone.
        if "nprobe" in fields or "with_title" in fields:
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
    write_text(folder / "manifest.json", json.dumps(asdict(manifest), indent=1) + "\n")


def build_index(
    folder: Path,
    chunks: Iterable[Chunk],
    encoder: Encoder,
    retrieval: RetrievalConfig,
    seed: int,
    total: int | None = None,
    store: str = "faiss",
) -> dict[str, int | float]:
    """Writes the index of `chunks` to `folder`; continues a killed build of the same chunks.

    `seed` is of the store's random choices, `total` for the progress bar alone. `store` names the
    vector store. Returns counts: num_chunks, dim, num_cut_chunks (longer than the encoder reads),
    faiss_recall (against exact search, 0..1; named after the store).

    Raises:
        DataError: there is no chunk.
        ConfigError: the library of the vector store is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").unlink(missing_ok=True)
    context = retrieval.context
    # BM25 always reads the titles: in no measurement was it better without.
    lexical_context: ChunkContext = "title" if context == "none" else context
    ids, digest, lexical, num_cut = [], hashlib.sha256(), LexicalBuilder(), 0

    # One pass over the chunks fills vectors, words, ids and the hash of their lines.
    with VectorFile(folder, encoder, total) as vectors:
        for block in batched(chunks, encoder.block_size):
            num_cut += vectors.add([chunk_text(chunk, context) for chunk in block])
            lexical.add([chunk_text(chunk, lexical_context) for chunk in block])
            ids += [chunk.id for chunk in block]
            digest.update("".join(to_json(chunk) + "\n" for chunk in block).encode())
    if not ids:
        raise DataError(
            f"no chunks to index in {folder.parent}: run ingest over documents that contain text"
        )
    write_text(folder / "chunk_ids.json", json.dumps(ids, ensure_ascii=False) + "\n")
    shutil.rmtree(folder / "lexical", ignore_errors=True)
    lexical.save(folder / "lexical")

    build_store, _ = STORES[store]
    kind = retrieval.advanced.faiss
    data = build_store(vectors.finish(), vectors.tuning_queries, kind, folder, seed)
    manifest = Manifest(
        encoder=encoder.fingerprint,
        dim=encoder.dim,
        num_chunks=len(ids),
        chunks=digest.hexdigest(),
        context=context,
        store=store,
        store_data=data,
    )
    write_manifest(folder, manifest)
    vectors.forget_progress()
    counts = {"num_chunks": len(ids), "dim": encoder.dim, "num_cut_chunks": num_cut}
    return {**counts, f"{store}_recall": data["recall"]}


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

    def link_or_copy(file: str, target: str) -> None:
        try:
            os.link(file, target)
        except OSError:
            shutil.copy2(file, target)

    shutil.rmtree(folder, ignore_errors=True)
    but_manifest = shutil.ignore_patterns("manifest.json")
    shutil.copytree(source, folder, copy_function=link_or_copy, ignore=but_manifest)
    write_manifest(folder, replace(manifest, encoder=encoder.fingerprint))


def open_vectors(folder: Path) -> np.ndarray:
    """vectors.npy memory-mapped: float32 (num_chunks, dim), unit norm.

    Raises:
        DataError: the file is missing or damaged.
    """
    try:
        vectors: np.ndarray = np.load(folder / "vectors.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{folder}/vectors.npy is missing or damaged: run `rag-ft index CONFIG --force`"
        ) from error
    return vectors


class VectorFile:
    """vectors.npy while it grows, as a context manager.

    The vectors stand in `vectors.npy.tmp`. `progress.jsonl` has a line {key, num_chunks, num_cut}
    for each whole block; `key` is a hash of the encoder and the texts.
    """

    def __init__(self, folder: Path, encoder: Encoder, total: int | None = None) -> None:
        """Takes over what a killed build left in `folder`; `total` is for the progress bar."""
        self._folder, self._encoder = folder, encoder
        self._temporary, self._progress_path = folder / "vectors.npy.tmp", folder / "progress.jsonl"
        self._known: list[dict[str, Any]] = []
        self._rows = self._block = 0
        self._samples, self._sample_step = list[str](), 1
        self._bar = tqdm(desc="encode chunks", total=total, unit=" chunks", smoothing=0.1)

        # A build that was killed after `finish` has its vectors under the final name already.
        finished = folder / "vectors.npy"
        if self._progress_path.exists() and finished.exists():
            os.replace(finished, self._temporary)
        if self._progress_path.exists() and self._temporary.exists():
            self._known = list(read_rows(self._progress_path))
        else:
            self._temporary.unlink(missing_ok=True)
            self._progress_path.unlink(missing_ok=True)

    def __enter__(self) -> VectorFile:
        self._progress = JsonlAppender(self._progress_path)
        self._out = self._temporary.open("r+b" if self._temporary.exists() else "w+b")
        _write_header(self._out, 0, self._encoder.dim)
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
        self._out.close()
        self._progress.__exit__()

    def add(self, texts: list[str]) -> int:
        """Appends the vectors of a block, which are encoded unless the killed build wrote them.
        Returns how many of the texts are longer than the encoder reads."""
        key = content_hash(self._encoder.fingerprint, texts)
        if self._block < len(self._known) and self._known[self._block]["key"] == key:
            num_cut = int(self._known[self._block]["num_cut"])
            self._out.seek(len(texts) * self._encoder.dim * 4, os.SEEK_CUR)
        else:
            if self._block < len(self._known):
                # The chunks differ from here on, so the killed build's later blocks are void.
                self._known = self._known[: self._block]
                self._progress.__exit__()
                kept = "".join(json.dumps(row) + "\n" for row in self._known)
                write_text(self._progress_path, kept)
                self._progress = JsonlAppender(self._progress_path)
            num_cut = sum(n > self._encoder.max_tokens for n in self._encoder.count_tokens(texts))
            # The vectors first: a block without its line is encoded again, never trusted.
            self._out.write(self._encoder.encode_chunks(texts).tobytes())
            self._out.flush()
            self._progress.write({"key": key, "num_chunks": len(texts), "num_cut": num_cut})
        # Every n-th text is a sample. n doubles as the corpus grows, so they spread evenly over it.
        self._samples += texts[-self._rows % self._sample_step :: self._sample_step]
        while len(self._samples) > 2 * _NUM_TUNING_QUERIES:
            self._samples = self._samples[::2]
            self._sample_step *= 2
        self._block += 1
        self._rows += len(texts)
        self._bar.update(len(texts))
        return num_cut

    def finish(self) -> np.ndarray:
        """Sets the number of rows, gives the file its name, and returns it memory-mapped."""
        with self._temporary.open("r+b") as out:
            _write_header(out, self._rows, self._encoder.dim)
            out.truncate(out.tell() + self._rows * self._encoder.dim * 4)
            os.fsync(out.fileno())
        os.replace(self._temporary, self._folder / "vectors.npy")
        return open_vectors(self._folder)

    def tuning_queries(self) -> np.ndarray:
        """Vectors like those of questions (m, dim), to tune a vector store on: the first sentences
        of at most 512 chunks, spread evenly over the corpus, encoded as questions."""
        step = max(1, len(self._samples) // _NUM_TUNING_QUERIES)
        sentences = []
        for text in self._samples[::step]:
            parts = re.split(r"(?<=[.?!。？！])\s*|\n", text.strip(), maxsplit=1)
            sentences.append(parts[0])
        return self._encoder.encode_queries(sentences or [""])

    def forget_progress(self) -> None:
        """Call it when the whole index is written: until then a killed build needs the progress."""
        self._progress_path.unlink()


def _write_header(out: BinaryIO, num_rows: int, dim: int) -> None:
    # numpy pads the header for a first axis that grows, so its length is the same for any rows.
    out.seek(0)
    header = {"descr": "<f4", "fortran_order": False, "shape": (num_rows, dim)}
    np.lib.format.write_array_header_1_0(out, header)
