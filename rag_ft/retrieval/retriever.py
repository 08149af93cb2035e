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
from rag_ft.retrieval.metadata_filter import DocumentTable, Filter, Filters, group_by_filter
from rag_ft.retrieval.vector_store import VectorStore, open_store
from rag_ft.run_dir import RunDir
from rag_ft.storage import file_sha256

Mode = Literal["dense", "lexical", "hybrid"]
Hits = list[tuple[str, float]]  # (chunk id, score), best first


class Searcher(Protocol):
    """What finds chunks for questions."""

    def search(
        self,
        questions: Sequence[str],
        k: int,
        mode: str | None = None,
        filters: Sequence[Filters] | None = None,
    ) -> list[Hits]:
        """For every question at most `k` (chunk id, score), best first. `filters` has one for
        each question, which says from which documents its chunks may come."""
        ...


class Retriever:
    """An encoder with its index. Chunk vectors and ids are in the order of chunks.jsonl."""

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        encoder: Encoder,
        config: RetrievalConfig,
        documents: DocumentTable | None = None,
    ) -> None:
        """Reads the chunk ids; vectors and indices are opened by the first search that needs them.
        Only with `documents` it can search with filters.

        Raises:
            DataError: chunk_ids.json is missing, damaged, or does not fit the manifest.
        """
        self.folder, self.manifest, self.encoder = folder, manifest, encoder
        self._config, self._documents = config, documents
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

    def search(
        self,
        questions: Sequence[str],
        k: int,
        mode: str | None = None,
        filters: Sequence[Filters] | None = None,
    ) -> list[Hits]:
        """For every question at most `k` (chunk id, score), best first, ties in chunk order.

        `mode` is dense, lexical or hybrid, by default retrieval.mode. Scores: cosine -1..1, BM25
        above 0 (a chunk that shares no word with the question is not found), fused 0..1.

        `filters` has one for each question (see metadata_filter.py). Chunks of other documents are
        left out before they are ranked, so dense and hybrid find `k` chunks wherever there are so
        many allowed ones.

        Raises:
            DataError: a filter is malformed, or the documents that it needs cannot be read.
        """
        chosen = mode or self._config.mode
        return self.search_modes(questions, k, [chosen], filters)[chosen]

    def search_modes(
        self,
        questions: Sequence[str],
        k: int,
        modes: Sequence[str],
        filters: Sequence[Filters] | None = None,
    ) -> dict[str, list[Hits]]:
        """{mode: as `search` returns}. Questions are encoded once, and each index is searched
        once for each distinct filter."""
        if not questions:
            return {mode: [] for mode in modes}
        if filters is not None and len(filters) != len(questions):
            raise ValueError(f"{len(filters)} filters for {len(questions)} questions")
        groups = group_by_filter(filters or [{}] * len(questions))
        vectors = None
        if "hybrid" in modes or "dense" in modes:
            vectors = self.encoder.encode_queries(list(questions))

        hits: dict[str, list[Hits]] = {mode: [[]] * len(questions) for mode in modes}
        for wanted, places in groups.items():
            rankings = self._rank(
                [questions[place] for place in places],
                None if vectors is None else vectors[places],
                k,
                modes,
                None if wanted is None else self.allowed(wanted),
            )
            # Rows of the index become chunk ids.
            for mode in modes:
                for place, (rows, scores) in zip(places, rankings[mode], strict=True):
                    best = zip(rows[:k], scores[:k], strict=True)
                    hits[mode][place] = [(self.chunk_ids[row], float(score)) for row, score in best]
        return hits

    def _rank(
        self,
        questions: list[str],
        vectors: np.ndarray | None,
        k: int,
        modes: Sequence[str],
        allowed: np.ndarray | None,
    ) -> dict[str, list[Ranking]]:
        """{mode: a ranking of at least the best `k` allowed rows for each question}."""
        hybrid, advanced = "hybrid" in modes, self._config.advanced
        depth = max(k, advanced.candidates) if hybrid else k
        rankings: dict[str, list[Ranking]] = {}
        if vectors is not None:
            rankings["dense"] = self._store.search(vectors, depth, allowed)
        if hybrid or "lexical" in modes:
            rankings["lexical"] = self._lexical.search(questions, depth, allowed)
        if hybrid:
            both = zip(rankings["dense"], rankings["lexical"], strict=True)
            rankings["hybrid"] = [fuse(*pair, advanced.lexical_weight) for pair in both]
        return rankings

    def allowed(self, wanted: Filter) -> np.ndarray:
        """A boolean for each row of `vectors`: whether the filter allows the chunk.

        Raises:
            DataError: the documents cannot be read, or do not fit the index.
        """
        if self._documents is None:
            raise DataError(f"the index in {self.folder} was opened without documents to filter by")
        rows = self._documents.allowed(wanted)
        if len(rows) != self.manifest.num_chunks:
            raise DataError(
                f"the index in {self.folder} was made from other chunks: run `rag-ft index CONFIG "
                "--force`"
            )
        return rows

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
    documents_of: RunDir | None = None,
) -> Retriever:
    """The base retriever of a run, or the tuned one.

    `encoder` is loaded here where it is a section of the configuration; an `Encoder` is used as it
    is, with the tuned index where `tuned`. `documents_of` is the run whose documents and chunks
    filters look at, where it is another one.

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
    source = documents_of or run_dir
    documents = DocumentTable(source.documents, source.chunks)
    return Retriever(folder, manifest, loaded, retrieval, documents)


def served_tuned(run_dir: RunDir) -> bool:
    """Whether train_retriever kept a tuned encoder: it and its index are complete."""
    encoder, index = run_dir.retriever / "modules.json", run_dir.retriever_index / "manifest.json"
    return encoder.exists() and index.exists()
