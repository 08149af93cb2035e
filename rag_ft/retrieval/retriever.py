"""Questions -> chunks: dense and BM25, their scores min-max normalised for each question and averaged."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from rag_ft.config import Config, RetrievalConfig
from rag_ft.errors import ConfigError, DataError
from rag_ft.model_hub import file_sha256
from rag_ft.prompts.answer_prompt import chunk_text
from rag_ft.retrieval.encoder import Encoder, load_encoder
from rag_ft.retrieval.index_builder import (
    Manifest,
    adopt_index,
    build_index,
    open_vectors,
    read_manifest,
)
from rag_ft.retrieval.lexical import LexicalIndex
from rag_ft.retrieval.stores.faiss_store import FaissIndex, FaissKind
from rag_ft.run_dir import RunDir

__all__ = [
    "Retriever",
    "adopt_index",
    "build_index",
    "chunk_text",
    "fuse",
    "open_retriever",
    "served_tuned",
]

Ranking = tuple[np.ndarray, np.ndarray]  # rows of chunks and their scores, best first
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
        self.encoder, self.manifest, self.folder = encoder, manifest, folder
        self.chunk_ids: list[str] = _read_ids(folder, manifest)
        self._config = config

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

        `mode` is dense, lexical or hybrid, by default retrieval.mode. Scores: cosine -1..1, BM25 above 0 (chunks that
        share no word with the question are not found), fused 0..1.
        """
        chosen = mode or self._config.mode
        return self.search_modes(questions, k, [chosen])[chosen]

    def search_modes(
        self, questions: Sequence[str], k: int, modes: Sequence[str]
    ) -> dict[str, list[Hits]]:
        """{mode: as `search` returns}. Questions are encoded once, and each index is searched once."""
        if not questions:
            return {mode: [] for mode in modes}
        fused = "hybrid" in modes
        depth = max(k, self._config.advanced.candidates) if fused else k
        dense = self._dense(list(questions), depth) if fused or "dense" in modes else []
        lexical = (
            self._lexical.search(list(questions), depth) if fused or "lexical" in modes else []
        )
        rankings = {"dense": dense, "lexical": lexical}
        if fused:
            weight = self._config.advanced.lexical_weight
            rankings["hybrid"] = [fuse(*both, weight) for both in zip(dense, lexical, strict=True)]
        return {mode: [self._hits(ranking, k) for ranking in rankings[mode]] for mode in modes}

    def _hits(self, ranking: Ranking, k: int) -> Hits:
        rows, scores = ranking
        return [
            (self.chunk_ids[row], float(score))
            for row, score in zip(rows[:k], scores[:k], strict=True)
        ]

    def _dense(self, questions: list[str], k: int) -> list[Ranking]:
        return self._faiss.search(self.encoder.encode_queries(questions), k)

    @functools.cached_property
    def _faiss(self) -> FaissIndex:
        made = FaissKind(self.manifest.faiss, self.manifest.nprobe, self.manifest.recall)  # type: ignore[arg-type]
        return FaissIndex(self.folder / "index.faiss", made)

    @functools.cached_property
    def _lexical(self) -> LexicalIndex:
        return LexicalIndex(self.folder / "lexical")


def fuse(dense: Ranking, lexical: Ranking, lexical_weight: float) -> Ranking:
    """Both rankings' union, by (1 - w) x dense + w x lexical, each min-max normalised over its own ranking to 0..1;
    a chunk that one side did not return has 0 there. Best first, ties by row."""
    rows = np.union1d(dense[0], lexical[0])
    scores = np.zeros(len(rows))
    for (found, values), weight in ((dense, 1 - lexical_weight), (lexical, lexical_weight)):
        scores[np.searchsorted(rows, found)] += weight * _min_max(values)
    order = np.lexsort((rows, -scores))
    return rows[order], scores[order]


def open_retriever(
    config: Config, run_dir: RunDir, tuned: bool = False, encoder: Encoder | None = None
) -> Retriever:
    """The base retriever of a run, or the tuned one; loads the encoder unless it is given.

    Raises:
        DataError: there is no finished index, or no tuned encoder.
        ConfigError: the index was made by another encoder, from other chunks, or with other titles.
    """
    folder = run_dir.retriever_index if tuned else run_dir.index
    if tuned and not served_tuned(run_dir):
        raise DataError(
            f"{run_dir.path} has no tuned retriever: run train_retriever, or see in its log why it was refused"
        )
    manifest = read_manifest(folder)
    encoder = encoder or load_encoder(config.encoder, run_dir.retriever if tuned else None)
    remedy = (
        "run `rag-ft train_retriever CONFIG --force`"
        if tuned
        else "run `rag-ft index CONFIG --force`"
    )
    if manifest.encoder != encoder.fingerprint:
        raise ConfigError(f"the index in {folder} was made by another encoder: {remedy}")
    if manifest.with_title != config.retrieval.advanced.with_title:
        raise ConfigError(
            f"the index in {folder} was made with retrieval.advanced.with_title={manifest.with_title}: {remedy}"
        )
    if run_dir.chunks.exists() and manifest.chunks != file_sha256(run_dir.chunks):
        raise ConfigError(
            f"the index in {folder} was made from other chunks than {run_dir.chunks}: {remedy}"
        )
    return Retriever(folder, manifest, encoder, config.retrieval)


def served_tuned(run_dir: RunDir) -> bool:
    """Whether train_retriever's gate shipped a tuned encoder: it and its index are complete."""
    return (run_dir.retriever / "modules.json").exists() and (
        run_dir.retriever_index / "manifest.json"
    ).exists()


def _min_max(values: np.ndarray) -> np.ndarray:
    if len(values) == 0:
        return values
    low, high = float(values.min()), float(values.max())
    return np.ones(len(values)) if high == low else (values.astype(np.float64) - low) / (high - low)


def _read_ids(folder: Path, manifest: Manifest) -> list[str]:
    try:
        ids: list[str] = json.loads((folder / "chunk_ids.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{folder}/chunk_ids.json is missing or damaged: run `rag-ft index CONFIG --force`"
        ) from error
    if len(ids) != manifest.num_chunks:
        raise DataError(
            f"{folder} is not of one piece ({len(ids)} ids, {manifest.num_chunks} chunks): index again"
        )
    return ids
