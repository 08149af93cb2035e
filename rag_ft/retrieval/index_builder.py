"""Chunks -> an index folder: vectors.npy, chunk_ids.json, index.faiss, lexical/, and manifest.json, written last.

Chunks are encoded block by block and the vectors appended to a file, so memory does not grow with the corpus (BM25
keeps four bytes a word, FAISS what it needs), and a killed build goes on after its last whole block, to the same bytes.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from tqdm import tqdm

from rag_ft.config import Config
from rag_ft.errors import ConfigError, DataError
from rag_ft.prompts.answer_prompt import chunk_text
from rag_ft.retrieval.encoder import Encoder
from rag_ft.retrieval.lexical import LexicalBuilder
from rag_ft.retrieval.stores.faiss_store import build_faiss
from rag_ft.schema import Chunk
from rag_ft.storage import JsonlAppender, batched, content_hash, read_rows, to_json, write_text

_NUM_TUNING_QUERIES = 256


@dataclass(frozen=True)
class Manifest:
    """What an index was made of. `encoder` is the fingerprint of the encoder whose questions it takes, `chunks` the
    sha256 of the chunk lines; `nprobe` and `recall` are FAISS's, see FaissKind."""

    encoder: str
    dim: int
    num_chunks: int
    chunks: str
    faiss: str
    nprobe: int
    recall: float
    with_title: bool


def read_manifest(folder: Path) -> Manifest:
    """Raises DataError where there is no finished index."""
    try:
        return Manifest(**json.loads((folder / "manifest.json").read_text(encoding="utf-8")))
    except FileNotFoundError as error:
        raise DataError(
            f"there is no finished index in {folder}: run `rag-ft index CONFIG`"
        ) from error
    except (ValueError, TypeError) as error:
        raise DataError(
            f"{folder}/manifest.json is damaged: run `rag-ft index CONFIG --force`"
        ) from error


def write_manifest(folder: Path, manifest: Manifest) -> None:
    write_text(folder / "manifest.json", json.dumps(asdict(manifest), indent=1) + "\n")


def build_index(
    config: Config,
    folder: Path,
    chunks: Iterable[Chunk],
    encoder: Encoder,
    total: int | None = None,
) -> dict[str, int | float]:
    """Writes the index of `chunks` to `folder`, going on where a killed build of the same chunks stopped.

    `total` is for the progress bar only. Returns counts: num_chunks, dim, num_cut_chunks (longer than the encoder
    reads), faiss_recall (1 where it is exact).

    Raises:
        DataError: there is no chunk.
        ConfigError: FAISS is not installed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "manifest.json").unlink(missing_ok=True)
    with_title = config.retrieval.advanced.with_title
    ids, digest, lexical, num_cut = [], hashlib.sha256(), LexicalBuilder(), 0
    with VectorFile(folder, encoder, total) as vectors:
        for block in batched(chunks, encoder.block_size):
            texts = [chunk_text(chunk, with_title) for chunk in block]
            num_cut += vectors.add(texts)
            lexical.add(
                [chunk_text(chunk, True) for chunk in block]
            )  # measured: never worse with titles
            ids += [chunk.id for chunk in block]
            digest.update("".join(to_json(chunk) + "\n" for chunk in block).encode())
    if not ids:
        raise DataError(
            f"no chunks to index in {folder.parent}: run ingest over documents that hold text"
        )
    write_text(folder / "chunk_ids.json", json.dumps(ids, ensure_ascii=False) + "\n")
    shutil.rmtree(folder / "lexical", ignore_errors=True)
    lexical.save(folder / "lexical")
    stored = vectors.finish()
    queries = functools.partial(_tuning_queries, encoder, vectors.samples)
    made = build_faiss(
        stored, queries, config.retrieval.advanced.faiss, folder / "index.faiss", config.run.seed
    )
    manifest = Manifest(
        encoder=encoder.fingerprint,
        dim=encoder.dim,
        num_chunks=len(ids),
        chunks=digest.hexdigest(),
        faiss=made.kind,
        nprobe=made.nprobe,
        recall=made.recall,
        with_title=with_title,
    )
    write_manifest(folder, manifest)
    vectors.forget_progress()
    return {
        "num_chunks": len(ids),
        "dim": encoder.dim,
        "num_cut_chunks": num_cut,
        "faiss_recall": made.recall,
    }


def adopt_index(source: Path, folder: Path, encoder: Encoder) -> None:
    """Makes `folder` the index of another question encoder over the same chunk vectors: hard links (copies where the
    file system has none) and a manifest with the encoder's fingerprint. For an encoder tuned on the question side only.

    Raises:
        DataError: `source` holds no finished index.
        ConfigError: the encoder's vectors are of another length.
    """
    manifest = read_manifest(source)
    if manifest.dim != encoder.dim:
        raise ConfigError(
            f"{source} holds vectors of {manifest.dim} numbers, the encoder makes {encoder.dim}: index again"
        )
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(
        source, folder, copy_function=_link, ignore=shutil.ignore_patterns("manifest.json")
    )
    write_manifest(folder, Manifest(**{**asdict(manifest), "encoder": encoder.fingerprint}))


class VectorFile:
    """vectors.npy as it grows: `vectors.npy.tmp` with a header for rows to come, and `progress.jsonl` with one line
    {key, num_chunks, num_cut} a whole block, the key being the hash of encoder and texts."""

    def __init__(self, folder: Path, encoder: Encoder, total: int | None = None) -> None:
        self._folder, self._encoder = folder, encoder
        self._temporary, self._progress_path = folder / "vectors.npy.tmp", folder / "progress.jsonl"
        self._known = self._read_progress()
        self._rows = self._block = 0
        self._bar = tqdm(desc="encode chunks", total=total, unit=" chunks", smoothing=0.1)
        self.samples: list[str] = []

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
        """Encodes a block, unless it was written before a kill; returns how many of its texts were cut."""
        key = content_hash(self._encoder.fingerprint, texts)
        if self._block < len(self._known) and self._known[self._block]["key"] == key:
            num_cut = int(self._known[self._block]["num_cut"])
            self._out.seek(len(texts) * self._encoder.dim * 4, os.SEEK_CUR)
        else:
            self._forget_rest()
            num_cut = sum(n > self._encoder.max_tokens for n in self._encoder.count_tokens(texts))
            self._out.write(self._encoder.encode_chunks(texts).tobytes())
            self._out.flush()
            self._progress.write({"key": key, "num_chunks": len(texts), "num_cut": num_cut})
        self._block += 1
        self._rows += len(texts)
        self.samples = _thin([*self.samples, *texts])
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

    def forget_progress(self) -> None:
        """To be called when the whole index stands: until then a killed build takes the vectors up again."""
        self._progress_path.unlink()

    def _read_progress(self) -> list[dict[str, int | str]]:
        finished = self._folder / "vectors.npy"
        if self._progress_path.exists() and finished.exists():
            os.replace(finished, self._temporary)
        if self._progress_path.exists() and self._temporary.exists():
            return list(read_rows(self._progress_path))
        self._temporary.unlink(missing_ok=True)
        self._progress_path.unlink(missing_ok=True)
        return []

    def _forget_rest(self) -> None:
        """From the first block that is not as before on, nothing of before counts."""
        if self._block >= len(self._known):
            return
        self._progress.__exit__()
        kept = "".join(json.dumps(row) + "\n" for row in self._known[: self._block])
        write_text(self._progress_path, kept)
        self._known = self._known[: self._block]
        self._progress = JsonlAppender(self._progress_path)


def open_vectors(folder: Path) -> np.ndarray:
    """vectors.npy memory-mapped, float32 (num_chunks, dim). Raises DataError where it is missing or damaged."""
    try:
        vectors: np.ndarray = np.load(folder / "vectors.npy", mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{folder}/vectors.npy is missing or damaged: run `rag-ft index CONFIG --force`"
        ) from error
    return vectors


def _write_header(out: BinaryIO, num_rows: int, dim: int) -> None:
    """numpy leaves room in the header for a first axis that grows, so its length does not depend on the rows."""
    out.seek(0)
    header = {"descr": "<f4", "fortran_order": False, "shape": (num_rows, dim)}
    np.lib.format.write_array_header_1_0(out, header)


def _thin(texts: list[str]) -> list[str]:
    """Keeps at most twice as many as needed, evenly spread over what came so far."""
    return texts[::2] if len(texts) > 2 * _NUM_TUNING_QUERIES else texts


def _tuning_queries(encoder: Encoder, samples: list[str]) -> np.ndarray:
    """Vectors like those of questions: first sentences of chunks, read as questions."""
    step = max(1, len(samples) // _NUM_TUNING_QUERIES)
    sentences = [
        re.split(r"(?<=[.?!。？！])\s*|\n", text.strip(), maxsplit=1)[0] for text in samples[::step]
    ]
    return encoder.encode_queries(sentences or [""])


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
