"""Batches without false negatives, full, equal for equal seeds; scores stay with their row."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.data_loader import BatchSamplerShard
from sentence_transformers import SentenceTransformer
from sentence_transformers.base.sampler import NoDuplicatesBatchSampler

from rag_ft.schema import Chunk, QAPair
from rag_ft.storage import write_jsonl
from rag_ft.training.retriever.batch_sampler import fitting_batch_size
from rag_ft.training.retriever.inverse_cloze import make_clozes
from rag_ft.training.retriever.losses import LossSettings, contrastive_loss
from rag_ft.training.retriever.trainer import (
    FrozenChunksCollator,
    Schedule,
    _Trainer,
    training_arguments,
)
from rag_ft.training.retriever.training_rows import (
    RowChunk,
    TrainingRow,
    cloze_rows,
    contrastive_rows,
    read_training_rows,
    scored_rows,
    to_dataset,
)


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
        trainer = _Trainer(
            model=model,
            args=training_arguments(schedule, len(rows), tmp_path),
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


def test_two_processes_read_the_halves_of_the_batches_that_one_process_reads(
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


def chunk(name: str) -> Chunk:
    text = f"Text of {name} in one sentence here. And then another sentence of {name} follows it."
    return Chunk(name, name, "", text, 0, len(text), 9, "train")


CHUNKS = {name: chunk(name) for name in ("a", "b", "c")}


def pair(number: int, chunk_id: str | None) -> QAPair:
    return QAPair(
        f"q{number}",
        f"What of {number}?",
        ("x",),
        chunk_id,
        "d",
        None,
        "factoid",
        "train",
        "imported",
    )


def test_rows_name_pair_and_chunks_and_survive_their_file(tmp_path: Path) -> None:
    pairs = [pair(0, "a"), pair(1, "b")]
    rows = contrastive_rows(pairs, {"q0": ("b",), "q1": ("c",)}, CHUNKS, lambda c: c.text.upper())
    assert [(r.id, r.gold_chunk_id, [c.id for c in r.chunks]) for r in rows] == [
        ("q0", "a", ["a", "b"]),
        ("q1", "b", ["b", "c"]),
    ]
    assert rows[0].chunks[1].text == CHUNKS["b"].text.upper()
    write_jsonl(tmp_path / "rows.jsonl", rows)
    assert read_training_rows(tmp_path / "rows.jsonl") == rows
    assert to_dataset(rows, "query: ", "passage: ")[1] == {
        "question": "query: What of 1?",
        "chunk_0": "passage: " + CHUNKS["b"].text.upper(),
        "chunk_1": "passage: " + CHUNKS["c"].text.upper(),
    }


def test_a_cloze_asks_for_the_rest_of_its_chunk() -> None:
    clozes = list(make_clozes(CHUNKS.values(), 1, 0, kept_share=0))
    rows = cloze_rows(clozes, lambda c: c.text)
    assert [r.gold_chunk_id for r in rows] == ["a", "b", "c"]
    for r in rows:
        assert r.question in CHUNKS[r.gold_chunk_id or ""].text
        assert (
            r.question not in r.chunks[0].text and r.chunks[0].text in CHUNKS[r.chunks[0].id].text
        )


def test_scores_follow_their_row_and_chunk_in_whatever_order_rows_come(
    tiny_encoder_dir: Path,
) -> None:
    pairs = [pair(n, "a" if n % 2 else None) for n in range(6)]
    rng = random.Random(0)
    retrieved = {p.id: rng.sample(sorted(CHUNKS), 2) for p in pairs}
    scores = {(p.id, i): -float(10 * n + ord(i)) for n, p in enumerate(pairs) for i in CHUNKS}
    rows = scored_rows(pairs, retrieved, scores, CHUNKS, lambda c: c.text)
    dataset = to_dataset(rows, "", "", with_chunk_ids=True).shuffle(seed=4)
    vectors = {name: torch.full((8,), float(n)) for n, name in enumerate(CHUNKS)}
    collate = FrozenChunksCollator(
        SentenceTransformer(str(tiny_encoder_dir), device="cpu").preprocess,
        vectors_of=lambda ids: torch.stack([vectors[i] for i in ids]),
    )
    picked = [dataset[n] for n in (3, 0, 5)]
    batch = collate(picked)
    for place, read in enumerate(picked):
        pair_id = next(p.id for p in pairs if p.question == read["question"])
        ids = retrieved[pair_id]
        assert batch["label"][place].tolist() == [scores[pair_id, i] for i in ids]
        for n, chunk_id in enumerate(ids):
            assert torch.equal(batch[f"chunk_{n}_sentence_embedding"][place], vectors[chunk_id])
    assert "chunk_0_input_ids" not in batch, "frozen chunks are not tokenized"
