"""Questions -> chunks, by the encoder, by BM25, or by a mixture of both."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from rag_ft.config import EncoderConfig, RetrievalConfig
from rag_ft.errors import ConfigError, DataError
from rag_ft.retrieval.encoder import Encoder, load_encoder
from rag_ft.retrieval.fusion import Ranking, fuse
from rag_ft.retrieval.index_builder import Manifest, open_vectors, read_manifest
from rag_ft.retrieval.lexical import LexicalIndex
from rag_ft.retrieval.vector_store import VectorStore, open_store
from rag_ft.run_dir import RunDir
from rag_ft.storage import file_sha256

Mode = Literal["dense", "lexical", "hybrid"]
Hits = list[tuple[str, float]]  # (chunk id, score), best first


class Searcher(Protocol):
    """What finds chunks for questions."""

    def search(self, questions: Sequence[str], k: int, mode: str | None = None) -> list[Hits]:
        """For every question at most `k` (chunk id, score), best first."""
        ...


class Retriever:
    """An encoder with its index. Chunk vectors and ids are in the order of chunks.jsonl."""

    def __init__(
        self, folder: Path, manifest: Manifest, encoder: Encoder, config: RetrievalConfig
    ) -> None:
        """Reads the chunk ids; vectors and indices are opened by the first search that needs them.

        Raises:
            DataError: chunk_ids.json is missing, damaged, or does not fit the manifest.
        """
        self.folder, self.manifest, self.encoder = folder, manifest, encoder
        self._config = config
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
        self.chunk_ids = ids

    @functools.cached_property
    def vectors(self) -> np.ndarray:
        """Memory-mapped float32 (num_chunks, dim), unit norm."""
        return open_vectors(self.folder)

    @functools.cached_property
    def row_of(self) -> dict[str, int]:
        """Chunk id -> its row in `vectors`."""
        return {chunk_id: row for row, chunk_id in enumerate(self.chunk_ids)}

    def search(self, questions: Sequence[str], k: int, mode: str | None = None) -> list[Hits]:
        """For every question at most `k` (chunk id, score), best first, ties in chunk order.

        `mode` is dense, lexical or hybrid, by default retrieval.mode. Scores: cosine -1..1, BM25
        above 0 (a chunk that shares no word with the question is not found), fused 0..1.
        """
        chosen = mode or self._config.mode
        return self.search_modes(questions, k, [chosen])[chosen]

    def search_modes(
        self, questions: Sequence[str], k: int, modes: Sequence[str]
    ) -> dict[str, list[Hits]]:
        """{mode: as `search` returns}; a mode may be named more than once. Questions are encoded
        once, and each index is searched once."""
        if not questions:
            return {mode: [] for mode in modes}
        hybrid, advanced = "hybrid" in modes, self._config.advanced
        depth = max(k, advanced.candidates) if hybrid else k

        rankings: dict[str, list[Ranking]] = {}
        if hybrid or "dense" in modes:
            vectors = self.encoder.encode_queries(list(questions))
            rankings["dense"] = self._store.search(vectors, depth)
        if hybrid or "lexical" in modes:
            rankings["lexical"] = self._lexical.search(list(questions), depth)
        if hybrid:
            both = zip(rankings["dense"], rankings["lexical"], strict=True)
            rankings["hybrid"] = [fuse(*pair, advanced.lexical_weight) for pair in both]

        # Rows of the index become chunk ids.
        hits: dict[str, list[Hits]] = {mode: [] for mode in modes}
        for mode in hits:
            for rows, scores in rankings[mode]:
                best = zip(rows[:k], scores[:k], strict=True)
                hits[mode].append([(self.chunk_ids[row], float(score)) for row, score in best])
        return hits

    @functools.cached_property
    def _store(self) -> VectorStore:
        return open_store(self.manifest.store, self.folder, self.manifest.store_data)

    @functools.cached_property
    def _lexical(self) -> LexicalIndex:
        return LexicalIndex(self.folder / "lexical")


def open_retriever(
    run_dir: RunDir,
    retrieval: RetrievalConfig,
    encoder: EncoderConfig | Encoder,
    tuned: bool = False,
) -> Retriever:
    """The base retriever of a run, or the tuned one.

    `encoder` is loaded here where it is a section of the configuration; an `Encoder` is used as it
    is, with the tuned index where `tuned`.

    Raises:
        DataError: there is no finished index, or no tuned encoder.
        ConfigError: the index was made by another encoder, from other chunks, or with other titles.
    """
    if tuned and not served_tuned(run_dir):
        raise DataError(
            f"{run_dir.path} has no tuned retriever: run train_retriever; if it has run, its log "
            "says why the base encoder was kept"
        )
    folder = run_dir.retriever_index if tuned else run_dir.index
    manifest = read_manifest(folder)
    place = run_dir.retriever if tuned else None
    loaded = encoder if isinstance(encoder, Encoder) else load_encoder(encoder, place)

    # An index that does not fit gives wrong chunks without an error, so it is checked here.
    stage = "train_retriever" if tuned else "index"
    remedy = f"run `rag-ft {stage} CONFIG --force`"
    if manifest.encoder != loaded.fingerprint:
        raise ConfigError(f"the index in {folder} was made by another encoder: {remedy}")
    if manifest.with_title != retrieval.advanced.with_title:
        raise ConfigError(
            f"the index in {folder} was made with "
            f"retrieval.advanced.with_title={manifest.with_title}: {remedy}"
        )
    if run_dir.chunks.exists() and manifest.chunks != file_sha256(run_dir.chunks):
        raise ConfigError(
            f"the index in {folder} was made from other chunks than {run_dir.chunks}: {remedy}"
        )
    return Retriever(folder, manifest, loaded, retrieval)


def served_tuned(run_dir: RunDir) -> bool:
    """Whether train_retriever kept a tuned encoder: it and its index are complete."""
    encoder, index = run_dir.retriever / "modules.json", run_dir.retriever_index / "manifest.json"
    return encoder.exists() and index.exists()
