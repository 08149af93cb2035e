"""What the retriever is trained on: pairs, clozes, and rows whose scores stay with their chunks."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import pytest
import torch
from retriever_run import MakeRun, prepare
from sentence_transformers import SentenceTransformer

from rag_ft.chunk_store import ChunkStore
from rag_ft.schema import Chunk, QAPair, Reject
from rag_ft.storage import read_jsonl, write_jsonl
from rag_ft.training.retriever.dataset import (
    Pairs,
    cloze_rows,
    contrastive_rows,
    make_clozes,
    read_training_rows,
    scored_rows,
    select_pairs,
    to_dataset,
    with_cloze_dev,
)
from rag_ft.training.retriever.trainer import FrozenChunksCollator


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


def test_a_dev_chunk_is_searched_without_the_sentence_that_asks_for_it() -> None:
    chunk = Chunk(
        "d#0",
        "d",
        "",
        "The first sentence is long enough. So is the second one of them.",
        0,
        65,
        14,
        "dev",
    )
    found = with_cloze_dev(Pairs([], [], {}, {}, {"d#0": chunk}), seed=0)
    (pair,) = found.dev
    assert pair.question in chunk.text and pair.question not in found.clozed["d#0"].text
    assert found.gold == {pair.id: {"d#0"}} and pair.split == "dev"
    assert with_cloze_dev(found, seed=0) is found, "where there are dev questions they decide"


def test_a_pair_with_too_few_negatives_does_not_cost_the_other_rows_theirs() -> None:
    pairs = [pair(0, "a"), pair(1, "b"), pair(2, "c")]
    negatives = {"q0": ("b", "c"), "q1": ("a",), "q2": ("a", "b")}
    rows = contrastive_rows(pairs, negatives, CHUNKS, lambda c: c.text)
    assert [r.id for r in rows] == ["q0", "q2"]
    assert to_dataset(rows, "", "").column_names == ["question", "chunk_0", "chunk_1", "chunk_2"]
    without = contrastive_rows(pairs, dict.fromkeys(negatives, ()), CHUNKS, lambda c: c.text)
    assert [len(r.chunks) for r in without] == [1, 1, 1]


def test_rows_with_different_numbers_of_chunks_are_an_error_that_names_them() -> None:
    rows = contrastive_rows([pair(0, "a")], {"q0": ("b",)}, CHUNKS, lambda c: c.text)
    rows += contrastive_rows([pair(1, "a")], {"q1": ()}, CHUNKS, lambda c: c.text)
    with pytest.raises(ValueError, match="q1 has 1 chunks, q0 2"):
        to_dataset(rows, "", "")


def test_a_dev_pair_without_a_gold_chunk_gets_a_reject(make_run: MakeRun) -> None:
    _, run_dir = prepare(make_run)
    pairs = list(read_jsonl(run_dir.qa, QAPair))
    lost = next(p for p in pairs if p.split == "dev")
    unknown = dataclasses.replace(lost, id="lost", chunk_id=None, evidence=None)
    write_jsonl(run_dir.qa, [*pairs, unknown])
    found = select_pairs(run_dir, ChunkStore(run_dir.chunks), 0.8)
    assert found.rejects == [Reject("lost", "dev pair without a gold chunk", lost.question)]
    assert found.dev and "lost" not in {p.id for p in found.dev}
