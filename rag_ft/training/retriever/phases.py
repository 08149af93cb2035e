"""The phases of tuning a retriever: inverse cloze, contrastive, LM-supervised.

Each phase makes rows, trains, indexes, and measures on dev. Its folder holds rows.jsonl, the
weights encoder.safetensors, retriever/ and retriever_index/ as they would be served, and dev.json.
Each file is made once: a killed run continues with the first one that is missing. With several
processes, the first one makes the files and all of them train.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from rag_ft.config import RetrievalConfig
from rag_ft.engine.language_model import Opening, open_shared_model
from rag_ft.hardware import trains_in_bfloat16
from rag_ft.prompts.prompt_set import load_prompts
from rag_ft.run_dir import RunDir
from rag_ft.schema import QAPair
from rag_ft.storage import content_hash
from rag_ft.training.dev_split import ENOUGH_QUESTIONS, enough, train_groups
from rag_ft.training.retriever.batch_size import fitting_batch_size
from rag_ft.training.retriever.candidates import (
    Candidate,
    LeftOut,
    RetrieverTraining,
    build_candidate,
    measure_candidate,
)
from rag_ft.training.retriever.dataset import (
    Pairs,
    TrainingRow,
    cloze_rows,
    contrastive_rows,
    make_clozes,
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
from rag_ft.training.retriever.losses import lm_supervised_loss
from rag_ft.training.retriever.trainer import (
    WEIGHTS,
    EncoderTrainer,
    Schedule,
    fit,
    frozen_vectors,
)

logger = logging.getLogger(__name__)
# Searched for each of the k wanted chunks: chunks of dev and test documents are passed over.
SEARCHED_FOR_EACH = 4


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


def train_halves(
    training: RetrieverTraining, base: Candidate
) -> list[tuple[Candidate, list[QAPair]]]:
    """Two encoders, each tuned by a contrastive phase on half of the train documents, with the
    train pairs of the other half, which it never saw.

    They say how a tuned encoder ranks questions that it did not see, where dev questions or their
    documents are too few, or where it is asked for; none otherwise.
    """
    config, pairs = training.config, training.pairs
    settings, retrieval = config.train_retriever, config.retrieval
    few = not pairs.clozed and not enough([pair.document_id or pair.id for pair in pairs.dev])
    wanted = {"auto": few, "always": True, "never": False}[settings.advanced.crossfit]
    if not (wanted and chooses(retrieval) and settings.epochs):
        return []
    similarity = config.ingest.advanced.near_duplicate_similarity
    halves, found = split_halves(pairs, training.run_dir, similarity), []
    for number, own in enumerate(halves):
        half = dataclasses.replace(
            training,
            folder=training.folder / f"half-{number}",
            pairs=dataclasses.replace(pairs, train=own, dev=[], gold={}, pooled=False),
            rejects=[],
        )
        found.append((contrastive_phase(half, 0, base), halves[1 - number]))
    return found


def chooses(retrieval: RetrievalConfig) -> bool:
    """Whether anything is chosen about the ranking that is served."""
    fixed = retrieval.advanced.lexical_weight is not None and retrieval.ranker == "none"
    return retrieval.mode == "hybrid" and not fixed


def split_halves(pairs: Pairs, run_dir: RunDir, similarity: float) -> list[list[QAPair]]:
    """The train pairs in two halves by document; none where one of them has too few questions.
    Documents that are near-duplicates from `similarity` (0-1) on stay together: one half would
    learn what the other one is asked."""
    group_of = train_groups(run_dir, similarity)
    group = {pair.id: group_of.get(pair.document_id or "", pair.id) for pair in pairs.train}
    names = sorted(set(group.values()), key=lambda name: content_hash("half", name))
    first = set(names[::2])
    halves = [
        [pair for pair in pairs.train if (group[pair.id] in first) == own] for own in (True, False)
    ]
    few = ENOUGH_QUESTIONS // 2
    return halves if min(len(with_positive(h, pairs.chunks)) for h in halves) >= few else []


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
        opening = Opening(config.llm, config.run.seed, {})
        log_path, buckets = training.run_dir.vllm_log, training.folder / f"{name}-buckets"
        with open_shared_model(opening, log_path, config.engine, buckets) as model:
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
    return train_phase(
        training, name, before, rows, lm_supervised_loss, schedule, notes, teacher.tau
    )


def train_phase(
    training: RetrieverTraining,
    name: str,
    before: Candidate,
    rows: Sequence[TrainingRow],
    loss: MakeLoss,
    schedule: Schedule,
    notes: dict[str, Any] | None = None,
    lm_temperature: float = 1.0,
) -> Candidate:
    """Trains from the weights of `before`, builds the index, measures on dev.

    Args:
        training: the encoder and what is common to the phases.
        name: of the phase and its folder.
        before: the candidate whose weights the phase starts from.
        rows: what it trains on.
        loss: makes the loss of the encoder.
        schedule: batch size is lowered where the rows do not fill it; precision is set here.
        notes: for the training log.
        lm_temperature: of the language model's scores, where the loss reads them.
    """
    config, settings = training.config, training.config.train_retriever
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
    bfloat16 = trains_in_bfloat16(config.encoder.dtype)
    schedule = dataclasses.replace(schedule, batch_size=size, bfloat16=bfloat16)

    loss_settings = LossSettings(
        temperature=settings.advanced.temperature,
        batch_size=size,
        frozen_chunks=training.frozen_chunks,
        gather=count > 1,
        lm_temperature=lm_temperature,
    )
    vectors_of = frozen_vectors(training.run_dir.index) if training.frozen_chunks else None
    logger.info("%s: %d rows, batches of %d", name, len(rows), size)
    folder = training.folder / name
    module = loss(encoder.model, loss_settings)
    history = fit(encoder, dataset, module, schedule, folder, EncoderTrainer, vectors_of)

    # The encoder and index as they would be served, and their dev scores.
    served = RunDir(folder)
    training.processes.first(lambda: build_candidate(training, served))
    scores = measure_candidate(training, served, folder)
    logger.info("%s: %s", name, scores.summary)
    return Candidate(name, served, load_file(folder / WEIGHTS), scores, history, notes or {})
