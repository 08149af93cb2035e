"""Batches without false negatives, full, equal for equal seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.sampler import NoDuplicatesBatchSampler

from rag_ft.training.retriever.batch_size import fitting_batch_size
from rag_ft.training.retriever.dataset import RowChunk, TrainingRow, to_dataset
from rag_ft.training.retriever.loss_settings import LossSettings
from rag_ft.training.retriever.losses import contrastive_loss
from rag_ft.training.retriever.trainer import EncoderTrainer, Schedule, training_arguments


def row(number: int, question: str, *texts: str) -> TrainingRow:
    chunks = tuple(RowChunk(f"id of {text}", text) for text in texts)
    return TrainingRow(f"q{number}", question, chunks[0].id, chunks)


# Every chunk is the positive of three rows and a negative of three others; some questions repeat.
ROWS = [row(n, f"question {n % 40}", f"chunk {n % 16}", f"chunk {(n + 5) % 16}") for n in range(48)]


@pytest.fixture
def batches_of(tiny_encoder_dir: Path, tmp_path: Path) -> Any:
    """batches_of(rows, schedule) -> the batches of the trainer's own loader, by epoch."""

    def make(rows: list[TrainingRow], schedule: Schedule) -> Any:
        model = SentenceTransformer(str(tiny_encoder_dir), device="cpu")
        trainer = EncoderTrainer(
            model=model,
            args=training_arguments(schedule, len(rows), tmp_path, EncoderTrainer.arguments),
            train_dataset=to_dataset(rows, "", ""),
            loss=contrastive_loss(model, LossSettings(0.05, schedule.batch_size)),
        )
        loader: Any = trainer.get_train_dataloader()

        def batches(epoch: int) -> list[list[int]]:
            loader.set_epoch(epoch)
            return [list(batch) for batch in loader.batch_sampler]

        return batches

    return make


def test_no_question_and_no_chunk_stands_twice_in_a_batch(batches_of: Any) -> None:
    batches = batches_of(ROWS, Schedule(4, 1e-3, seed=3, no_duplicates=True))(0)
    assert len(batches) == 12
    for batch in batches:
        rows = [ROWS[number] for number in batch]
        texts = [text for r in rows for text in (r.question, *(chunk.text for chunk in r.chunks))]
        assert len(texts) == len(set(texts)) == 12, texts


@pytest.mark.parametrize("no_duplicates", [True, False])
def test_an_epoch_sees_every_row_once_and_the_same_order_again_after_a_resume(
    batches_of: Any, no_duplicates: bool
) -> None:
    rows = [row(n, f"q{n}", f"p{n}", f"n{n}") for n in range(26)]
    schedule = Schedule(4, 1e-3, seed=1, no_duplicates=no_duplicates)
    batches = batches_of(rows, schedule)
    epochs = [batches(0), batches(1)]
    for epoch in epochs:
        seen = [number for batch in epoch for number in batch]
        assert len(epoch) == 6 and len(set(seen)) == 24, "what fills no batch is left out"
    assert epochs[0] != epochs[1]
    torch.manual_seed(99)
    resumed = batches_of(rows, schedule)
    assert [resumed(1), resumed(0)] == [epochs[1], epochs[0]]


def test_two_processes_share_the_batches_that_one_process_reads(
    batches_of: Any,
) -> None:
    schedule = Schedule(4, 1e-3, seed=3, no_duplicates=True)
    alone = batches_of(ROWS, schedule)(1)
    shares = []
    for rank in (0, 1):
        sampler = NoDuplicatesBatchSampler(
            to_dataset(ROWS, "", ""), 4, drop_last=True, generator=torch.Generator(), seed=3
        )
        shard = BatchSamplerShard(sampler, num_processes=2, process_index=rank, split_batches=True)
        sampler.set_epoch(1)
        shares.append(list(shard))
    assert [[*first, *second] for first, second in zip(*shares, strict=True)] == alone


def test_a_small_corpus_gets_a_batch_size_it_can_fill() -> None:
    distinct = to_dataset([row(n, f"q{n}", f"p{n}") for n in range(100)], "", "")
    assert fitting_batch_size(distinct, 16, 1, 0) == 16
    few_chunks = to_dataset(
        [row(n, f"q{n}", f"p{n % 6}", f"p{(n + 1) % 6}") for n in range(24)], "", ""
    )
    assert fitting_batch_size(few_chunks, 16, 1, 0) in (1, 2)
    assert fitting_batch_size(few_chunks, 16, 2, 0) == 2
    assert fitting_batch_size(to_dataset([row(0, "q", "p")], "", ""), 16, 2, 0) == 0
