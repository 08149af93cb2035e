"""Which pairs the generator is trained on, and the examples made of them."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections import Counter
from pathlib import Path

import pytest
import torch
from generator_run import Make, prepare, with_copies
from sentence_transformers import SentenceTransformer

from rag_ft.chunk_store import ChunkStore
from rag_ft.retrieval.encoder import load_encoder
from rag_ft.retrieval.index_builder import build_index
from rag_ft.schema import Chunk, QAPair, Reject
from rag_ft.session import Session
from rag_ft.storage import read_jsonl, write_jsonl
from rag_ft.training.generator.dataset import build_training_set, read_training_set, select_pairs
from rag_ft.training.generator.lora import load_base
from rag_ft.training.generator.tokenization import load_chat_tokens
from rag_ft.training.generator.trainer import plan_schedule
from rag_ft.training.retriever.dataset import select_pairs as pairs_of_retriever


@pytest.fixture
def prepared(make_run: Make) -> Make:
    return functools.partial(prepare, make_run)


def test_each_pass_over_the_pairs_draws_anew_where_to_abstain(
    prepared: Make, tmp_path: Path
) -> None:
    config, run_dir = prepared(settings={"epochs": 2.5, "replay_share": 0.2, "batch_size": 4})
    tokens = load_chat_tokens(config.llm.required_model)
    build_training_set(Session(config, run_dir), tokens.encode, tmp_path / "set")
    train = read_training_set(tmp_path / "set").train
    passes = [[e for e in train if e.arrangement == number] for number in range(3)]
    assert sum(map(len, passes)) == len(train)
    answered = [{e.id for e in part if e.kind == "answer"} for part in passes]
    assert answered[0] == answered[1] == answered[2] != set()
    shown = [{e.id: e.chunk_ids for e in part if e.kind == "answer"} for part in passes]
    assert shown[0] == shown[1] == shown[2], "as they are served"
    abstained = [{e.id for e in part if e.kind == "abstain"} for part in passes]
    assert abstained[0] != abstained[1] != abstained[2]
    replayed = [[(e.id, e.answer) for e in part if e.kind == "replay"] for part in passes]
    assert replayed[0] == replayed[1] == replayed[2]
    used = {e.id for e in train}
    assert not used & {
        reject.item for reject in read_jsonl(run_dir.rejects("train_generator"), Reject)
    }
    schedule = plan_schedule(
        config.train_generator,
        config.llm.dtype,
        load_base(config.llm, config.train_generator),
        train,
        1,
    )
    assert schedule.epochs == pytest.approx(2.5 / 3)
    assert schedule.num_steps == math.ceil(2.5 / 3 * math.ceil(len(train) / 4))


def test_passes_show_by_turns_what_the_tuned_and_the_base_retriever_find(
    prepared: Make, tiny_encoder_dir: Path, tmp_path: Path
) -> None:
    settings = {"epochs": 2, "gold_share": 1.0}
    config, run_dir = prepared(settings=settings, retrieval__mode="dense")
    other = SentenceTransformer(str(tiny_encoder_dir))
    torch.manual_seed(7)
    for weight in other.parameters():
        torch.nn.init.normal_(weight)
    other.save(str(run_dir.retriever))
    encoder, chunks = load_encoder(config.encoder, run_dir.retriever), ChunkStore(run_dir.chunks)
    build_index(run_dir.retriever_index, chunks, encoder, config.retrieval, config.run.seed)

    session = Session(config, run_dir)
    tokens = load_chat_tokens(config.llm.required_model)
    build_training_set(session, tokens.encode, tmp_path / "set")
    train = read_training_set(tmp_path / "set").train
    questions = {pair.id: pair.question for pair in read_jsonl(run_dir.qa, QAPair)}
    differ = 0
    for number, tuned in enumerate((["retriever"], [])):
        of_pass = [e for e in train if e.arrangement == number and e.kind == "answer"]
        asked = [questions[example.id] for example in of_pass]
        for example, hits in zip(of_pass, session.retriever(tuned).search(asked, 10), strict=True):
            ids = [chunk_id for chunk_id, _ in hits]
            assert list(example.chunk_ids) == sorted(example.chunk_ids, key=ids.index)
            first = [e for e in train if e.id == example.id and e.arrangement == 0]
            differ += example.chunk_ids != first[0].chunk_ids
    assert differ


def test_dev_documents_are_taken_from_train_where_there_are_none(prepared: Make) -> None:
    _, run_dir = prepared()
    pairs = [p for p in read_jsonl(run_dir.qa, QAPair) if p.split != "dev"]
    write_jsonl(run_dir.qa, pairs)
    split = select_pairs(run_dir, ChunkStore(run_dir.chunks), 0.8)
    train, dev = split.train, split.dev
    assert dev and not {p.document_id for p in train} & {p.document_id for p in dev}
    assert {p.split for p in [*train, *dev]} == {"train"}


def test_near_duplicates_are_held_out_together(tmp_path: Path) -> None:
    run_dir = with_copies(tmp_path)
    split = select_pairs(run_dir, ChunkStore(run_dir.chunks), 0.8)
    train, dev = split.train, split.dev
    trained, held = (
        {(p.document_id or "").removesuffix("-copy") for p in pairs} for pairs in (train, dev)
    )
    assert held and not trained & held
    assert len(dev) == 6, "15 % of 40 documents"


@pytest.mark.parametrize("num_dev", [0, 1, 3])
def test_retriever_and_generator_hold_out_the_same_documents(tmp_path: Path, num_dev: int) -> None:
    """Without dev documents, with one that has too few questions, and with unanswerable ones."""
    run_dir = with_copies(tmp_path)
    of_dev = {f"d{n}" for n in range(num_dev)}
    chunks = [
        dataclasses.replace(c, split="dev") if c.document_id in of_dev else c
        for c in read_jsonl(run_dir.chunks, Chunk)
    ]
    split_of = {c.document_id: c.split for c in chunks}
    pairs = [
        dataclasses.replace(p, split=split_of[p.document_id or ""])
        for p in read_jsonl(run_dir.qa, QAPair)
    ]
    empty = [
        dataclasses.replace(p, id=f"u{p.id}", kind="unanswerable", chunk_id=None)
        for p in pairs[10:]
    ]
    write_jsonl(run_dir.chunks, chunks)
    write_jsonl(run_dir.qa, [*pairs, *empty])
    split = select_pairs(run_dir, ChunkStore(run_dir.chunks), 0.8)
    train, dev = split.train, split.dev
    of_retriever = pairs_of_retriever(run_dir, ChunkStore(run_dir.chunks), 0.8)
    held = {p.document_id for p in dev}
    assert held == {p.document_id for p in of_retriever.dev} and len(held) > num_dev
    assert {p.document_id for p in train} == {p.document_id for p in of_retriever.train}
    assert not held & {p.document_id for p in train}


def test_a_pass_uses_imported_pairs_more_often_than_generated_ones(
    prepared: Make, tmp_path: Path
) -> None:
    config, run_dir = prepared(settings={"epochs": 2, "human_weight": 3})
    pairs = list(read_jsonl(run_dir.qa, QAPair))
    by_people = {p.id for p in pairs if p.split == "train" and p.document_id in ("d1", "d2")}
    write_jsonl(
        run_dir.qa,
        [dataclasses.replace(p, origin="imported") if p.id in by_people else p for p in pairs],
    )
    encode = load_chat_tokens(config.llm.required_model).encode
    build_training_set(Session(config, run_dir), encode, tmp_path / "set")
    answered = [e for e in read_training_set(tmp_path / "set").train if e.kind == "answer"]
    times = Counter((e.id, e.arrangement) for e in answered)
    assert {times[i, n] for i in ("qd1", "qd2") for n in (0, 1)} == {3}
    assert {number for (i, _), number in times.items() if i not in by_people} == {1}
    # Of the unanswerable questions those of people are kept.
    abstained = [e.id for e in read_training_set(tmp_path / "set").train if e.kind == "abstain"]
    assert {"ud1", "ud2"} <= set(abstained)
