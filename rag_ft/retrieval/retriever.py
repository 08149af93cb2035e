"""Questions -> chunks, by the encoder, by BM25, or by a mixture of both."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, Protocol, get_args

import numpy as np

from rag_ft.config import EncoderConfig, RetrievalConfig
from rag_ft.done_files import chunks_hash
from rag_ft.errors import ConfigError, DataError
from rag_ft.retrieval.encoder import Encoder, load_encoder
from rag_ft.retrieval.feature_ranker import ChunkPlaces, FeatureRanker, features
from rag_ft.retrieval.fusion import Candidates, Fusion, Ranking, fuse, read_choice, set_fusion
from rag_ft.retrieval.index_files import Manifest, open_parts, read_ids, read_manifest
from rag_ft.retrieval.lexical import LexicalIndex
from rag_ft.retrieval.metadata_filter import DocumentTable, Filter, Filters, group_by_filter
from rag_ft.retrieval.reranker import Reranker, rerank
from rag_ft.retrieval.segments import ChunkVectors, Segment, open_segments
from rag_ft.retrieval.sentences import Closeness
from rag_ft.retrieval.vector_store import VectorStore
from rag_ft.run_dir import RunDir

Mode = Literal["dense", "lexical", "hybrid"]
AS_SERVED = "served"  # retrieval.mode, in the order that users get
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
        fusion: Fusion | None = None,
        documents: DocumentTable | None = None,
    ) -> None:
        """Reads the chunk ids; vectors and indices are opened by the first search that needs them.
        Only with `documents` it can search with filters.

        `fusion` says how mode hybrid mixes; None: as the configuration sets it, or half and half.

        Raises:
            DataError: chunk_ids.json is missing, damaged, or does not fit the manifest.
        """
        self.folder, self.manifest, self.encoder = folder, manifest, encoder
        self._config, self._documents = config, documents
        self.fusion = fusion or set_fusion(config)
        self._reranker: Reranker | None = None
        self.chunk_ids = read_ids(folder, manifest)

    @functools.cached_property
    def vectors(self) -> ChunkVectors:
        """float32 (num_chunks, dim), unit norm, read from memory-mapped files when asked for."""
        segments, rows = self._parts
        return ChunkVectors([segment.vectors for segment in segments], rows)

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

        `mode` is dense, lexical, hybrid or served, by default served: retrieval.mode, ordered by
        the feature ranker where there is one. Scores: cosine -1..1, BM25 above 0 (a chunk that
        shares no word with the question is not found), others 0..1.

        `filters` has one for each question (see metadata_filter.py). Chunks of other documents are
        left out before they are ranked, so dense and hybrid find `k` chunks wherever there are so
        many allowed ones.

        Raises:
            DataError: a filter is malformed, or the documents that it needs cannot be read.
        """
        chosen = mode or AS_SERVED
        return self.search_modes(questions, k, [chosen], filters)[chosen]

    def search_modes(
        self,
        questions: Sequence[str],
        k: int,
        modes: Sequence[str],
        filters: Sequence[Filters] | None = None,
    ) -> dict[str, list[Hits]]:
        """{mode: as `search` returns}; a mode may be named more than once. Questions are encoded
        once, and each index is searched once for each distinct filter."""
        if not questions:
            return {mode: [] for mode in modes}
        if filters is not None and len(filters) != len(questions):
            raise ValueError(f"{len(filters)} filters for {len(questions)} questions")
        groups = group_by_filter(filters or [{}] * len(questions))
        vectors = None
        if {"hybrid", "dense"} & {self._mode_of(mode) for mode in modes}:
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

    def _mode_of(self, mode: str) -> str:
        return self._config.mode if mode == AS_SERVED else mode

    def _rank(
        self,
        questions: list[str],
        vectors: np.ndarray | None,
        k: int,
        modes: Sequence[str],
        allowed: np.ndarray | None,
    ) -> dict[str, list[Ranking]]:
        """{mode: a ranking of at least the best `k` allowed rows for each question}."""
        wanted = {self._mode_of(mode) for mode in modes}
        hybrid = "hybrid" in wanted
        deep = hybrid or self.manifest.sentences
        depth = max(k, self._config.advanced.candidates) if deep else k
        if AS_SERVED in modes and self.reranker:
            depth = max(depth, self.fusion.rerank_depth)
        rankings: dict[str, list[Ranking]] = {}
        if vectors is not None:
            found = self._store.search(vectors, depth, allowed)
            rankings["dense"] = self._closeness.ranked(vectors, found)
        if hybrid or "lexical" in wanted:
            rankings["lexical"] = self._lexical.search(questions, depth, allowed)
        if hybrid:
            both = list(map(Candidates, rankings["dense"], rankings["lexical"]))
            rankings["hybrid"] = [fuse(*found, self.fusion.lexical_weight) for found in both]
        if AS_SERVED in modes:
            rankings[AS_SERVED] = rankings[self._config.mode]
            if hybrid and vectors is not None and (ranker := self._ranker):
                rankings[AS_SERVED] = [
                    ranker.rank(*self.features(question, vector, found))
                    for question, vector, found in zip(questions, vectors, both, strict=True)
                ]
            if self.reranker:
                rankings[AS_SERVED] = list(map(self._rerank, questions, rankings[AS_SERVED]))
        return rankings

    @property
    def reranker(self) -> Reranker | None:
        """What scores the first served chunks again; None where that is not served."""
        return self._reranker if self.fusion.rerank_weight else None

    @reranker.setter
    def reranker(self, reranker: Reranker | None) -> None:
        # The share was chosen for one model, known by its name: another one is not served by it.
        chosen, given = self.fusion.reranker, reranker.name if reranker else ""
        self._reranker = reranker if chosen and Path(given).name == Path(chosen).name else None

    def reranked_by(self, reranker: Reranker | None, weight: float, depth: int) -> Retriever:
        """The same retriever, over the same index in memory, with another reranker or without."""
        # Opened now, so that both share them.
        _ = self._store, self._lexical
        twin = copy.copy(self)
        name = reranker.name if reranker else None
        twin.fusion = dataclasses.replace(
            self.fusion, rerank_weight=weight, rerank_depth=depth, reranker=name
        )
        twin.reranker = reranker
        return twin

    def _rerank(self, question: str, ranking: Ranking) -> Ranking:
        assert self.reranker is not None
        first = ranking[0][: self.fusion.rerank_depth]
        scores = self.reranker.scores(question, [self.chunk_ids[row] for row in first])
        return rerank(ranking, scores, self.fusion.rerank_weight)

    def explain(self, question: str, k: int) -> dict[str, dict[str, tuple[int, float]]]:
        """{chunk id: {mode: (rank from 1, score)}} of the `k` chunks that are served, best first.
        The modes: dense, lexical, hybrid and served; one that does not find the chunk among its
        candidates is left out. "reranker" is its score where one is served, ranked among these."""
        modes = [*get_args(Mode), AS_SERVED]
        depth = max(k, self._config.advanced.candidates)
        found: dict[str, dict[str, tuple[int, float]]] = {}
        for mode, [hits] in self.search_modes([question], 2 * depth, modes).items():
            for rank, (chunk_id, score) in enumerate(hits, 1):
                found.setdefault(chunk_id, {})[mode] = (rank, score)
        served = {i: ranks for i, ranks in found.items() if ranks.get(AS_SERVED, (k + 1,))[0] <= k}
        if self.reranker:
            scores = self.reranker.scores(question, list(served))
            for rank, place in enumerate(np.argsort(-scores), 1):
                served[list(served)[place]]["reranker"] = (rank, float(scores[place]))
        return dict(sorted(served.items(), key=lambda item: item[1][AS_SERVED][0]))

    def candidates(
        self, questions: Sequence[str], filters: Sequence[Filters]
    ) -> tuple[np.ndarray, list[Candidates]]:
        """The vectors of the questions, and what both indexes find for each, as its filters allow:
        as many chunks as retrieval.advanced.candidates says. Rows are those of `chunk_ids`."""
        vectors, depth = self.encoder.encode_queries(list(questions)), 1
        none = (np.empty(0, dtype=np.int64), np.empty(0))
        found = [Candidates(none, none)] * len(questions)
        for wanted, places in group_by_filter(filters).items():
            allowed = None if wanted is None else self.allowed(wanted)
            asked = [questions[place] for place in places]
            ranked = self._rank(asked, vectors[places], depth, ["hybrid"], allowed)
            both = map(Candidates, ranked["dense"], ranked["lexical"])
            for place, candidates in zip(places, both, strict=True):
                found[place] = candidates
        return vectors, found

    def features(
        self, question: str, vector: np.ndarray, found: Candidates
    ) -> tuple[np.ndarray, np.ndarray]:
        """The rows that either index found, and what a feature ranker looks at (see
        feature_ranker.py)."""
        close = functools.partial(self._closeness.of, vector=vector)
        return features(question, close, found, self._lexical, self._places)

    @functools.cached_property
    def _closeness(self) -> Closeness:
        return Closeness(self.folder, self.chunk_ids, self.vectors)

    @functools.cached_property
    def _ranker(self) -> FeatureRanker | None:
        return FeatureRanker(self.fusion.ranker) if self.fusion.ranker else None

    @functools.cached_property
    def _places(self) -> ChunkPlaces:
        return ChunkPlaces(self.chunk_ids)

    @functools.cached_property
    def _store(self) -> VectorStore:
        return open_segments(self.manifest.store, *self._parts)

    @functools.cached_property
    def _parts(self) -> tuple[list[Segment], np.ndarray]:
        return open_parts(self.folder, self.manifest)

    @functools.cached_property
    def _lexical(self) -> LexicalIndex:
        return LexicalIndex(self.folder / "lexical")


def open_retriever(
    run_dir: RunDir,
    retrieval: RetrievalConfig,
    encoder: EncoderConfig | Encoder,
    tuned: bool = False,
    chosen: bool = True,
    documents_of: RunDir | None = None,
) -> Retriever:
    """The base retriever of a run, or the tuned one.

    `encoder` is loaded here where it is a section of the configuration; an `Encoder` is used as it
    is, with the tuned index where `tuned`. `chosen` mixes as fusion.json of the run says, where
    train_retriever wrote it; otherwise as before any choice. `documents_of` is the run whose
    documents and chunks filters look at, where it is another one.

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
    if manifest.context != retrieval.context:
        raise ConfigError(
            f"the index in {folder} was made with retrieval.context={manifest.context}: {remedy}"
        )
    if manifest.sentences and not retrieval.advanced.sentences:
        raise ConfigError(f"the index in {folder} holds sentences: {remedy}")
    if run_dir.chunks.exists() and manifest.chunks != chunks_hash(run_dir):
        raise ConfigError(
            f"the index in {folder} was made from other chunks than {run_dir.chunks}: {remedy}"
        )
    row = {}
    if chosen:
        row = read_choice(run_dir.fusion, loaded.fingerprint, "lexical_weight", "train_retriever")
    fusion = set_fusion(retrieval, row, run_dir.path)
    source = documents_of or run_dir
    documents = DocumentTable(source.documents, source.chunks)
    return Retriever(folder, manifest, loaded, retrieval, fusion, documents)


def served_tuned(run_dir: RunDir) -> bool:
    """Whether train_retriever kept a tuned encoder: it and its index are complete."""
    encoder, index = run_dir.retriever / "modules.json", run_dir.retriever_index / "manifest.json"
    return encoder.exists() and index.exists()
