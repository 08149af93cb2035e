"""Tunes a cross-encoder: its rows, its training, and what it brings on dev questions.

The folder holds rows.jsonl, the weights, and reranker/ as it would be served. Each is made once: a
killed run continues with the first one that is missing.
"""

from __future__ import annotations

import logging
import os
import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from sentence_transformers.cross_encoder.losses import ListNetLoss
from transformers import set_seed

from rag_ft.config import AUTO
from rag_ft.hardware import trains_in_bfloat16
from rag_ft.model_hub import resolve
from rag_ft.prompts.answer_prompt import chunk_text
from rag_ft.retrieval.reranker import Reranker, load_cross_encoder
from rag_ft.schema import Chunk, QAPair, Reject
from rag_ft.session import Session
from rag_ft.storage import read_rows, write_jsonl
from rag_ft.training.distributed import Processes
from rag_ft.training.leakage import check_chunks_allowed
from rag_ft.training.reranker.dataset import mine_mistakes, to_lists
from rag_ft.training.retriever.dataset import (
    Pairs,
    TrainingRow,
    read_training_rows,
    scored_rows,
    with_positive,
    without_row,
)
from rag_ft.training.retriever.fusion_choice import RANK_DEPTH, rank_score
from rag_ft.training.retriever.lm_supervision import choose_temperature, score_retrieved
from rag_ft.training.retriever.rerank_choice import Asked, RerankChoice, choose_reranking
from rag_ft.training.retriever.trainable_encoder import (
    TrainableEncoder,
    add_lora,
    write_model,
)
from rag_ft.training.retriever.trainer import RerankerTrainer, Schedule, fit

if TYPE_CHECKING:
    from sentence_transformers import CrossEncoder

logger = logging.getLogger(__name__)
MINI_BATCH = 16  # texts of one forward pass


@dataclass
class RerankerTraining:
    """What the training needs. `rejects` grow by the train pairs that are not trained on."""

    session: Session
    pairs: Pairs
    processes: Processes
    rejects: list[Reject] = field(default_factory=list)

    @property
    def folder(self) -> Path:
        """Where the files of the training are kept until the stage is done."""
        return self.session.run_dir.checkpoints("train_reranker")

    @property
    def built(self) -> Path:
        """The tuned reranker before it is moved to its place."""
        return self.folder / "reranker"

    @property
    def states(self) -> dict[str, tuple[str, ...]]:
        """{name: tuned components} of the retrievers that a reranker may follow."""
        tuned = {"tuned": ("retriever",)} if self.session.serves_tuned_retriever else {}
        return {"base": (), **tuned}

    def text_of(self, chunk: Chunk) -> str:
        """What the reranker reads of a chunk."""
        return chunk_text(chunk, self.session.config.retrieval.context)

    def rows(self) -> list[TrainingRow]:
        """A row for each pair with a known gold chunk: that one first, then mistakes of the base
        and the tuned retriever. The first process makes rows.jsonl where it is missing.

        Raises:
            DataError: a chunk of a test document is among them.
        """
        path, chunks = self.folder / "rows.jsonl", self.pairs.chunks
        located = with_positive(self.pairs.train, chunks)
        self.processes.first(lambda: path.exists() or write_jsonl(path, self.make_rows(located)))
        rows = read_training_rows(path)
        trained = (chunk.id for row in rows for chunk in row.chunks)
        test = self.session.chunks.of_splits({"test"})
        check_chunks_allowed(trained, test, "chunks of train_reranker")
        unlocated = [pair for pair in self.pairs.train if pair.chunk_id not in chunks]
        self.rejects += without_row(unlocated, rows, "its gold chunk is unknown")
        self.rejects += without_row(located, rows, "the retrievers find no other chunk for it")
        return rows

    def make_rows(self, located: Sequence[QAPair]) -> list[TrainingRow]:
        """The rows of these pairs; with the language model's scores where the labels need them."""
        session, chunks = self.session, self.pairs.chunks
        config, run_dir = session.config, session.run_dir
        settings = config.train_reranker.advanced
        negatives = mine_mistakes(
            located,
            [session.retriever(tuned) for tuned in self.states.values()],
            config.retrieval.mode,
            chunks,
            settings.num_negatives,
            config.run.seed,
        )
        session.close_retrievers()
        pairs = [pair for pair in located if negatives[pair.id]]
        shown = {pair.id: [pair.chunk_id or "", *negatives[pair.id]] for pair in pairs}
        if settings.labels == "evidence":
            return scored_rows(pairs, shown, None, chunks, self.text_of)
        # Chunks that the retriever's training had scored are not scored again.
        cache = run_dir.reranker_lm_scores
        if run_dir.lm_scores.exists() and not cache.exists():
            write_jsonl(cache, read_rows(run_dir.lm_scores))
        with session.language_model("train_reranker") as model:
            scores = score_retrieved(
                pairs, shown, chunks, session.prompts, model, self.text_of, cache
            )
        return scored_rows(pairs, shown, scores, chunks, self.text_of)


def teacher_temperature(rows: Sequence[TrainingRow]) -> tuple[float, str | None]:
    """(temperature of the language model's scores, why they must not be learned from or None)."""
    # Questions with fewer chunks than the others say nothing of the temperature.
    most = max(len(row.chunks) for row in rows)
    full = [[chunk.score for chunk in row.chunks] for row in rows if len(row.chunks) == most]
    teacher = choose_temperature(torch.tensor(full))
    return teacher.tau, teacher.refusal


def open_cross_encoder(session: Session) -> CrossEncoder:
    """The model that the training starts from, in float32: the configured one, one that another
    training tuned, or the encoder with a head of random weights.

    Raises:
        ConfigError: it cannot be loaded, or has several scores.
    """
    config = session.config
    auto = config.reranker.model == AUTO
    model = config.encoder.model if auto else str(config.reranker.untuned)
    folder = config.train_reranker.advanced.start
    folder = folder or resolve(model, "encoder" if auto else "reranker")
    set_seed(config.run.seed)
    most = config.reranker.advanced.max_tokens
    return load_cross_encoder(folder, most, "float32", "cpu", whole=not auto)


def make_reranker_trainable(
    model: CrossEncoder, method: Literal["lora", "full"], rank: int, seed: int
) -> TrainableEncoder:
    """Prepares a float32 CrossEncoder for training.

    With "lora", what stands outside the backbone (the head) is trained whole: it may be new.

    Raises:
        ConfigError: the architecture takes no LoRA.
    """
    set_seed(seed)
    model.train()
    transformer = model.transformers_model
    if method == "lora" and transformer is not None:
        backbone = {id(parameter) for parameter in transformer.base_model.parameters()}
        # A causal reranker reads its score from the output layer, which is as large as the table.
        new_head = transformer.get_output_embeddings() is None
        head = [p for p in model.parameters() if id(p) not in backbone and new_head]
        add_lora(model, rank, "SEQ_CLS", "train_reranker")
        for parameter in head:
            parameter.requires_grad_(True)
    return TrainableEncoder(model, method, {})


def train_reranker(
    training: RerankerTraining, rows: Sequence[TrainingRow], tau: float
) -> list[dict[str, float]]:
    """Trains on the rows, and writes the reranker as it would be served. Returns [{step, loss}]."""
    config, processes = training.session.config, training.processes
    settings = config.train_reranker.advanced
    trainable = make_reranker_trainable(
        open_cross_encoder(training.session), settings.method, settings.rank, config.run.seed
    )
    size = max(min(settings.batch_size, len(rows)) // processes.count, 1) * processes.count
    schedule = Schedule(
        size,
        settings.learning_rate,
        epochs=settings.epochs,
        seed=config.run.seed,
        bfloat16=trains_in_bfloat16(config.reranker.dtype),
    )
    logger.info("train_reranker: %d rows, batches of %d", len(rows), size)
    dataset = to_lists(rows, settings.labels, tau)
    loss = ListNetLoss(trainable.model, mini_batch_size=MINI_BATCH)
    folder = training.folder / "train_reranker"
    history = fit(trainable, dataset, loss, schedule, folder, RerankerTrainer)

    def build() -> None:
        if training.built.exists():
            return
        unfinished = training.folder / "reranker.tmp"
        shutil.rmtree(unfinished, ignore_errors=True)
        write_model(trainable.merged(), unfinished)
        os.replace(unfinished, training.built)

    processes.first(build)
    return history


def choose(training: RerankerTraining, tuned: Sequence[str]) -> tuple[RerankChoice, float]:
    """(how the tuned reranker is served after the retriever with these tuned components, its
    milliseconds for a question with as many chunks as it may score).

    Dev questions choose, which it did not see. What is served now is what it must beat; where that
    is ordered by a feature ranker, which learned from these questions, it looks better than it is.
    """
    session, pairs = training.session, training.pairs
    retriever, dev = session.retriever(tuned), training.pairs.dev
    if pairs.clozed or not dev:
        return replace(RerankChoice(), encoder=retriever.encoder.fingerprint), 0.0
    reranker: Reranker = session.open_reranker(training.built)
    questions, filters = [pair.question for pair in dev], [pair.filters for pair in dev]
    depth, row_of = max(reranker.depth, RANK_DEPTH), retriever.row_of
    # An untuned reranker would be replaced by the tuned one.
    plain = retriever.reranked_by(None, 0.0, 0)
    rankings = [one.search(questions, depth, filters=filters) for one in (plain, retriever)]
    asked = []
    for pair, before, served in zip(dev, *rankings, strict=True):
        gold = frozenset(row_of[i] for i in pairs.gold[pair.id] if i in row_of)
        order = (
            np.array([row_of[i] for i, _ in before], dtype=np.int64),
            np.array([score for _, score in before]),
        )
        now = rank_score(np.array([row_of[i] for i, _ in served], dtype=np.int64), gold)
        asked.append(Asked(pair.question, order, gold, pair.document_id or pair.id, now))
    clock = time.perf_counter()
    choice = choose_reranking(reranker, retriever.chunk_ids, asked)
    seconds = (time.perf_counter() - clock) / max(1, choice.num_questions)
    return replace(choice, encoder=retriever.encoder.fingerprint), round(1000 * seconds, 1)
