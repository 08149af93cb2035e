"""The phases of tuning a retriever: inverse cloze, contrastive, LM-supervised.

Each phase makes rows, trains, indexes, and measures on dev. Its folder holds rows.jsonl, the
weights encoder.safetensors, retriever/ and retriever_index/ as they would be served, and dev.json.
Each file is made once: a killed run continues with the first one that is missing. With several
processes, the first one makes the files and all of them train.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from rag_ft.chunk_store import ChunkStore
from rag_ft.config import Config
from rag_ft.hardware import choose_dtype
from rag_ft.llm.factory import open_language_model
from rag_ft.prompts.answer_prompt import chunk_text
from rag_ft.prompts.prompt_set import load_prompts
from rag_ft.retrieval.encoder import load_encoder, load_sentence_transformer
from rag_ft.retrieval.index_builder import adopt_index, build_index, read_manifest
from rag_ft.retrieval.retriever import Retriever, open_retriever, served_tuned
from rag_ft.run_dir import RunDir
from rag_ft.schema import Chunk, Reject
from rag_ft.session import Session
from rag_ft.storage import write_jsonl, write_text
from rag_ft.training.distributed import Processes
from rag_ft.training.leakage import check_chunks_allowed
from rag_ft.training.retriever.batch_sampler import fitting_batch_size
from rag_ft.training.retriever.dataset import (
    Pairs,
    TrainingRow,
    cloze_rows,
    contrastive_rows,
    make_clozes,
    read_training_rows,
    scored_rows,
    to_dataset,
    with_positive,
    without_row,
)
from rag_ft.training.retriever.hard_negatives import DEPTH, mine_negatives
from rag_ft.training.retriever.lm_supervision import (
    choose_temperature,
    retrieved_chunks,
    score_retrieved,
)
from rag_ft.training.retriever.loss_settings import LossSettings, MakeLoss
from rag_ft.training.retriever.losses import find_loss, lm_supervised_loss
from rag_ft.training.retriever.ship_gate import DevScores, measure
from rag_ft.training.retriever.trainable_encoder import State, TrainableEncoder, make_trainable
from rag_ft.training.retriever.trainer import WEIGHTS, Schedule, fit, frozen_vectors

logger = logging.getLogger(__name__)
CLOZE_INDEX = "cloze_index"
# Searched for each of the k wanted chunks: chunks of dev and test documents are passed over.
SEARCHED_FOR_EACH = 4


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
    Phases add to `rejects` the train pairs that they do not train on.
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

    @property
    def frozen_chunks(self) -> bool:
        """Whether only questions are encoded anew, so that chunk vectors and index stay."""
        return self.config.train_retriever.advanced.sides == "query"

    def text_of(self, chunk: Chunk) -> str:
        """What the encoder reads of a chunk, without its prompt."""
        return chunk_text(chunk, self.config.retrieval.advanced.with_title)

    def retriever_in(self, served: RunDir) -> Retriever:
        """The encoder and index of a candidate's folder; in the run's own that of the base."""
        tuned, config = served is not self.run_dir, self.config
        return open_retriever(served, config.retrieval, config.encoder, tuned, self.run_dir)

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
    return RetrieverTraining(config, run_dir, folder, pairs, encoder, processes, chunks, loss)


def base_candidate(training: RetrieverTraining) -> Candidate:
    """The encoder before training."""
    scores = measure_candidate(training, training.run_dir, training.folder / "base")
    return Candidate("base", training.run_dir, training.encoder.state(), scores, [], {})


def cloze_phase(training: RetrieverTraining, before: Candidate) -> Candidate:
    """Inverse cloze over the chunks of train documents; needs no questions."""
    settings, seed = training.config.train_retriever, training.config.run.seed
    clozes = make_clozes(training.pairs.chunks.values(), 1, seed)
    rows = training.rows("cloze", lambda: cloze_rows(clozes, training.text_of))
    rate = settings.learning_rate
    schedule = Schedule(settings.batch_size, rate, epochs=1.0, seed=seed, no_duplicates=True)
    return train_phase(training, "cloze", before, rows, training.loss, schedule)


def contrastive_phase(training: RetrieverTraining, number: int, before: Candidate) -> Candidate:
    """Moves questions towards their gold chunks, and away from mined negatives and the other chunks
    of the batch. `number` is that of the round, from 0. Pairs without a known gold chunk or
    without enough negatives are left out, each with a Reject."""
    settings, chunks = training.config.train_retriever, training.pairs.chunks
    name, seed = f"round-{number}-contrastive", training.config.run.seed + number
    located = with_positive(training.pairs.train, chunks)

    def make_rows() -> list[TrainingRow]:
        # The encoder as it is now says which chunks are hard.
        retriever = training.retriever_in(before.folder)
        num, margin = settings.advanced.num_negatives, settings.advanced.negative_margin
        negatives = mine_negatives(located, retriever, chunks, num, margin, seed)
        return contrastive_rows(located, negatives, chunks, training.text_of)

    rows = training.rows(name, make_rows)
    unlocated = [pair for pair in training.pairs.train if pair.chunk_id not in chunks]
    few = f"{name}: fewer negatives than the other pairs"
    training.rejects += without_row(unlocated, rows, f"{name}: its gold chunk is unknown")
    training.rejects += without_row(located, rows, few)

    size, rate, epochs = settings.batch_size, settings.learning_rate, settings.epochs
    schedule = Schedule(size, rate, epochs=epochs, seed=seed, no_duplicates=True)
    return train_phase(training, name, before, rows, training.loss, schedule)


def lsr_phase(training: RetrieverTraining, number: int, before: Candidate) -> Candidate | LeftOut:
    """Moves the encoder towards the chunks, among the k closest of each question, that make the
    answer likely to the language model.

    The phase is left out where the LM's scores teach nothing. Pairs for which fewer than k chunks
    are found are left out, each with a Reject.
    """
    config, settings = training.config, training.config.train_retriever
    name, chunks = f"round-{number}-lsr", training.pairs.chunks
    k = min(settings.advanced.lsr_top_k, len(chunks))

    def make_rows() -> list[TrainingRow]:
        # The encoder as it is now proposes k chunks for each question.
        depth = max(DEPTH, SEARCHED_FOR_EACH * k)
        retriever = training.retriever_in(before.folder)
        retrieved = retrieved_chunks(training.pairs.train, retriever, chunks, k, depth)
        pairs = [pair for pair in training.pairs.train if pair.id in retrieved]
        if not pairs or k < 2:
            return []
        # The language model scores the answer given each of them.
        prompts = load_prompts(config.llm.prompts, config.llm.advanced.abstain)
        log_path = training.run_dir.vllm_log
        with open_language_model(config.llm, config.run.seed, log_path=log_path) as model:
            text_of, cache = training.text_of, training.run_dir.lm_scores
            scores = score_retrieved(pairs, retrieved, chunks, prompts, model, text_of, cache)
        return scored_rows(pairs, retrieved, scores, chunks, training.text_of)

    rows = training.rows(name, make_rows)
    if not rows:
        return LeftOut(name, "no question has two chunks to compare")
    few = f"{name}: fewer than {k} chunks were found"
    training.rejects += without_row(training.pairs.train, rows, few)

    # The temperature decides how sharp the targets are; targets that are all alike teach nothing.
    scores = torch.tensor([[chunk.score for chunk in row.chunks] for row in rows])
    teacher = choose_temperature(scores, settings.advanced.lsr_temperature)
    if teacher.refusal:
        return LeftOut(name, teacher.refusal)
    notes = dataclasses.asdict(teacher)

    # How often the LM likes the gold chunk best, where it is known. It is then the first one.
    with_gold = [[chunk.score or 0.0 for chunk in row.chunks] for row in rows if row.gold_chunk_id]
    if with_gold:
        agreement = float(np.mean([row[0] >= max(row) for row in with_gold]))
        notes["teacher_gold_share"] = round(agreement, 4)

    schedule = Schedule(
        settings.batch_size,
        settings.advanced.lsr_learning_rate,
        epochs=0,
        steps=settings.advanced.lsr_steps,
        seed=config.run.seed + number,
    )
    return train_phase(training, name, before, rows, lm_supervised_loss, schedule, notes)


def train_phase(
    training: RetrieverTraining,
    name: str,
    before: Candidate,
    rows: Sequence[TrainingRow],
    loss: MakeLoss,
    schedule: Schedule,
    notes: dict[str, Any] | None = None,
) -> Candidate:
    """Trains from the weights of `before`, builds the index, measures on dev.

    Args:
        training: the encoder and what is common to the phases.
        name: of the phase and its folder.
        before: the candidate whose weights the phase starts from.
        rows: what it trains on.
        loss: makes the loss of the encoder.
        schedule: batch size is lowered where the rows do not fill it; precision is set here.
        notes: for the training log; `tau` is the temperature of the language model's scores.
    """
    config, settings, notes = training.config, training.config.train_retriever, notes or {}
    encoder, count = training.encoder, training.processes.count
    encoder.load(before.state)
    # The rows with the prompts that the encoder reads them with.
    query_prompt = encoder.model.prompts.get("query") or ""
    chunk_prompt = encoder.model.prompts.get("document") or ""
    dataset = to_dataset(rows, query_prompt, chunk_prompt, training.frozen_chunks)

    # Batches of the configured size, smaller where rows would be false negatives of each other; the
    # size is a multiple of the processes.
    size = max(min(settings.batch_size, len(rows)) // count, 1) * count
    if schedule.no_duplicates:
        size = fitting_batch_size(dataset, settings.batch_size, count, schedule.seed) or count
    device = "cuda" if torch.cuda.is_available() else "cpu"
    bfloat16 = choose_dtype(config.encoder.dtype, device) == "bfloat16"
    schedule = dataclasses.replace(schedule, batch_size=size, bfloat16=bfloat16)

    loss_settings = LossSettings(
        temperature=settings.advanced.temperature,
        batch_size=size,
        frozen_chunks=training.frozen_chunks,
        gather=count > 1,
        lm_temperature=notes.get("tau", 1.0),
    )
    vectors_of = frozen_vectors(training.run_dir.index) if training.frozen_chunks else None
    logger.info("%s: %d rows, batches of %d", name, len(rows), size)
    folder = training.folder / name
    module = loss(encoder.model, loss_settings)
    history = fit(encoder, dataset, module, schedule, folder, vectors_of)

    # The encoder and index as they would be served, and their dev scores.
    served = RunDir(folder)
    training.processes.first(lambda: build_candidate(training, served))
    scores = measure_candidate(training, served, folder)
    logger.info("%s: %s", name, scores.summary)
    return Candidate(name, served, load_file(folder / WEIGHTS), scores, history, notes)


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

    def write() -> None:
        if path.exists():
            return
        retriever = training.retriever_in(served)
        if pairs.clozed:
            # An index in which each dev chunk lacks the sentence that asks for it. With frozen
            # chunk vectors all encoders share the one made for the base.
            index, base_index = place / CLOZE_INDEX, training.folder / "base" / CLOZE_INDEX
            if training.frozen_chunks and index != base_index:
                adopt_index(base_index, index, retriever.encoder)
            else:
                searched = (pairs.clozed.get(chunk.id, chunk) for chunk in training.chunks)
                build_index(index, searched, retriever.encoder, config.retrieval, config.run.seed)
            retriever = Retriever(index, read_manifest(index), retriever.encoder, config.retrieval)
        scores = dataclasses.asdict(measure(retriever, pairs.dev, pairs.gold))
        write_text(path, json.dumps({name: values.tolist() for name, values in scores.items()}))

    training.processes.first(write)
    values = json.loads(path.read_text(encoding="utf-8"))
    return DevScores(**{name: np.array(scores) for name, scores in values.items()})
