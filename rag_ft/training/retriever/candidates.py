"""An encoder as it would be served: how it is built, and what it finds for dev questions.

Its folder holds retriever/, retriever_index/ and dev.json. Each is made once.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from rag_ft.chunk_store import ChunkStore
from rag_ft.config import Config
from rag_ft.prompts.answer_prompt import chunk_text
from rag_ft.retrieval.encoder import load_encoder, load_sentence_transformer
from rag_ft.retrieval.fusion import Fusion, fuse
from rag_ft.retrieval.index_builder import adopt_index, build_index
from rag_ft.retrieval.index_files import read_manifest
from rag_ft.retrieval.reranker import Reranker
from rag_ft.retrieval.retriever import Retriever, open_retriever, served_tuned
from rag_ft.run_dir import RunDir
from rag_ft.schema import Chunk, QAPair, Reject
from rag_ft.session import Session
from rag_ft.storage import write_jsonl, write_text
from rag_ft.training.distributed import Processes
from rag_ft.training.leakage import check_chunks_allowed
from rag_ft.training.retriever.dataset import Pairs, TrainingRow, read_training_rows
from rag_ft.training.retriever.fusion_choice import FusionChoice, Ranked, deciding
from rag_ft.training.retriever.loss_settings import MakeLoss
from rag_ft.training.retriever.losses import find_loss
from rag_ft.training.retriever.ranker_choice import RankerChoice, choose_fusion, rank_train
from rag_ft.training.retriever.ship_gate import DevScores, measure, measure_ranked, with_ranker
from rag_ft.training.retriever.trainable_encoder import State, TrainableEncoder, make_trainable

CLOZE_INDEX = "cloze_index"
RANKER = "ranker.txt"
DEV_ARRAYS = ("served", "dense", "served_mrr")


@dataclass(frozen=True)
class Candidate:
    """An encoder as it would be served: the result of a phase, or the base.

    `folder` holds encoder and index; that of the base is the run's own. `state` are the trainable
    weights, `history` rows of {step, loss}, `notes` further values for the training log.
    """

    name: str
    folder: RunDir
    state: State
    scores: DevScores
    history: list[dict[str, float]]
    notes: dict[str, Any]


@dataclass(frozen=True)
class LeftOut:
    """A phase whose weights are not used, and why; `scores` is None where nothing was trained."""

    name: str
    reason: str
    scores: DevScores | None = None


@dataclass
class RetrieverTraining:
    """What every phase needs.

    `folder` holds the folders of the phases. `loss` makes the loss of cloze and contrastive phases.
    Phases add to `rejects` the train pairs that they do not train on. `halves`: encoders tuned on
    half of the train documents each, with the train pairs of the other half.
    """

    config: Config
    run_dir: RunDir
    folder: Path
    pairs: Pairs
    encoder: TrainableEncoder
    processes: Processes
    chunks: ChunkStore
    loss: MakeLoss
    rejects: list[Reject] = field(default_factory=list)
    halves: list[tuple[Candidate, list[QAPair]]] = field(default_factory=list)
    reranker: Reranker | None = None

    @property
    def frozen_chunks(self) -> bool:
        """Whether only questions are encoded anew, so that chunk vectors and index stay."""
        return self.config.train_retriever.advanced.sides == "query"

    @functools.cached_property
    def base_questions(self) -> list[Ranked]:
        """The train questions as the base encoder ranks them."""
        retrieval, pairs = self.config.retrieval, self.pairs
        return rank_train(self.retriever_in(self.run_dir), retrieval, pairs, pairs.train)

    @functools.cached_property
    def unseen_questions(self) -> list[Ranked]:
        """The train questions as tuned encoders rank them that were trained on others."""
        retrieval, found = self.config.retrieval, list[Ranked]()
        for candidate, asked in self.halves:
            found += rank_train(self.retriever_in(candidate.folder), retrieval, self.pairs, asked)
        return found

    @property
    def judges(self) -> list[QAPair]:
        """The pairs that the gate judges by: dev pairs, or where these train too those that decide
        of all, each as an encoder ranks it that was not trained on it."""
        if not self.pairs.pooled:
            return self.pairs.dev
        pair_of = {pair.id: pair for pair in self.pairs.train}
        return [pair_of[question.id] for question in deciding(self.base_questions)]

    def text_of(self, chunk: Chunk) -> str:
        """What the encoder reads of a chunk, without its prompt."""
        return chunk_text(chunk, self.config.retrieval.context)

    def retriever_in(self, served: RunDir) -> Retriever:
        """The encoder and index of a candidate's folder, in the run's own that of the base, with
        the mixture that holds before any choice."""
        tuned, config = served is not self.run_dir, self.config
        return open_retriever(
            served,
            config.retrieval,
            config.encoder,
            tuned,
            chosen=False,
            documents_of=self.run_dir,
        )

    def rows(self, phase: str, make: Callable[[], Iterable[TrainingRow]]) -> list[TrainingRow]:
        """The phase's rows.jsonl; the first process makes it where it is missing.

        Raises:
            DataError: a chunk of a test document is among them.
        """
        path = self.folder / phase / "rows.jsonl"
        self.processes.first(lambda: path.exists() or write_jsonl(path, make()))
        rows = read_training_rows(path)
        trained = (chunk.id for row in rows for chunk in row.chunks)
        check_chunks_allowed(trained, self.chunks.of_splits({"test"}), f"chunks of {phase}")
        return rows


def open_training(session: Session, pairs: Pairs, processes: Processes) -> RetrieverTraining:
    """The encoder ready to be trained, and what the phases need. They keep their files in the run's
    checkpoints.

    Raises:
        ConfigError: there is no such loss; the encoder cannot be loaded or takes no adapter.
    """
    config, settings = session.config, session.config.train_retriever.advanced
    loss = find_loss(settings.loss)
    model = load_sentence_transformer(config.encoder)
    encoder = make_trainable(model, settings.method, settings.rank, config.run.seed)
    run_dir, chunks = session.run_dir, session.chunks
    folder = run_dir.checkpoints("train_retriever")
    return RetrieverTraining(
        config,
        run_dir,
        folder,
        pairs,
        encoder,
        processes,
        chunks,
        loss,
        reranker=session.reranker,
    )


def base_candidate(training: RetrieverTraining) -> Candidate:
    """The encoder before training."""
    scores = measure_candidate(training, training.run_dir, training.folder / "base")
    return Candidate("base", training.run_dir, training.encoder.state(), scores, [], {})


def first_weights(training: RetrieverTraining, base: Candidate) -> Candidate:
    """The base with the weights that the first phase starts from: its own, or those that another
    training tuned.

    Raises:
        ConfigError: these do not fit.
    """
    start = training.config.train_retriever.advanced.start
    return replace(base, state=training.encoder.state_of(start)) if start else base


def build_candidate(training: RetrieverTraining, folder: RunDir, interpolation: float = 1) -> None:
    """Writes the encoder as it would be served, with its index, unless they are there."""
    if served_tuned(folder):
        return
    training.encoder.save(folder.retriever, interpolation)
    encoder = load_encoder(training.config.encoder, folder.retriever)
    if training.frozen_chunks:
        adopt_index(training.run_dir.index, folder.retriever_index, encoder)
    else:
        retrieval, seed = training.config.retrieval, training.config.run.seed
        build_index(folder.retriever_index, training.chunks, encoder, retrieval, seed)


def measure_candidate(training: RetrieverTraining, served: RunDir, place: Path) -> DevScores:
    """Dev scores of the encoder and index in `served`; where that is the run's own, of the base.
    The first process measures them and keeps them in `place`/dev.json."""
    path, pairs, config = place / "dev.json", training.pairs, training.config

    def write_scores(scores: DevScores, choice: FusionChoice) -> None:
        arrays = {name: getattr(scores, name).tolist() for name in DEV_ARRAYS}
        write_text(path, json.dumps({**arrays, "fusion": choice.row()}))

    def write() -> None:
        if path.exists():
            return
        tuned = served is not training.run_dir
        retriever = training.retriever_in(served)
        # Train questions count as ranked by an encoder that was not trained on them.
        unseen, others = training.base_questions, list[Ranked]()
        if tuned:
            unseen = training.unseen_questions
            others = [] if unseen or not pairs.dev else training.base_questions
        choice, ranker = choose_fusion(
            retriever,
            config.retrieval,
            pairs,
            unseen,
            others,
            place / RANKER,
            config.run.seed,
            training.reranker,
        )
        if pairs.clozed:
            retriever = over_clozed_chunks(training, retriever, place / CLOZE_INDEX)
        if pairs.pooled:
            write_scores(measure_unseen(training, unseen, choice, ranker), choice)
            return
        # The gate judges what will be served: the mixture that was chosen for this encoder.
        own = place / RANKER if ranker.served else None
        retriever.fusion = Fusion(
            choice.lexical_weight, own, choice.rerank_weight, choice.rerank_depth, choice.reranker
        )
        retriever.reranker = training.reranker
        scores = measure(retriever, pairs.dev, pairs.gold)
        held_out = ranker.held_out or {}
        reordered = choice.rerank_weight > 0
        if ranker.served and not reordered and held_out.keys() >= {pair.id for pair in pairs.dev}:
            # Of the ranker that did not see the question: the one that is served saw all of them.
            scores = with_ranker(scores, [held_out[pair.id] for pair in pairs.dev])
        write_scores(scores, choice)

    training.processes.first(write)
    values = json.loads(path.read_text(encoding="utf-8"))
    choice = FusionChoice(**values.pop("fusion"))
    return DevScores(**{name: np.array(values[name]) for name in DEV_ARRAYS}, fusion=choice)


def over_clozed_chunks(training: RetrieverTraining, retriever: Retriever, index: Path) -> Retriever:
    """The encoder over an index in which each dev chunk lacks the sentence that asks for it. With
    frozen chunk vectors all encoders share the one made for the base."""
    config, encoder = training.config, retriever.encoder
    base_index = training.folder / "base" / CLOZE_INDEX
    if training.frozen_chunks and index != base_index:
        adopt_index(base_index, index, encoder)
    else:
        clozed = training.pairs.clozed
        searched = [clozed.get(chunk.id, chunk) for chunk in training.chunks]
        build_index(index, searched, encoder, config.retrieval, config.run.seed)
    return Retriever(index, read_manifest(index), encoder, config.retrieval)


def measure_unseen(
    training: RetrieverTraining,
    unseen: Sequence[Ranked],
    choice: FusionChoice,
    ranker: RankerChoice,
) -> DevScores:
    """Scores of `training.judges`, in their order, as they are served of `unseen`."""
    found = {question.id: question for question in unseen}
    asked = [found[pair.id] for pair in training.judges]
    if ranker.served and ranker.orders:
        orders = [ranker.orders[question.id][0] for question in asked]
    else:
        orders = [fuse(*question.candidates, choice.lexical_weight)[0] for question in asked]
    return measure_ranked(asked, orders)
