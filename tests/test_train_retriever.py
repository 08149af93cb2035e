"""The stage that tunes the encoder: what it learns, what stops it, what it ships."""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from retriever_run import COLOURS, MakeRun, prepare, record_training_rows, share_first

from rag_ft.chunk_store import ChunkStore
from rag_ft.errors import ConfigError, DataError
from rag_ft.retrieval.retriever import Retriever, open_retriever, served_tuned
from rag_ft.schema import Chunk, QAPair, Reject
from rag_ft.session import Session
from rag_ft.stages import index, ingest, train_retriever
from rag_ft.storage import read_jsonl, read_rows, write_jsonl
from rag_ft.training.retriever import candidates, losses, phases
from rag_ft.training.retriever.dataset import select_pairs


@pytest.fixture
def prepared(make_run: MakeRun) -> MakeRun:
    """prepared(key=value, ...) -> a run that is ready for the stage; keys are train_retriever's."""
    return functools.partial(prepare, make_run)


def test_contrastive_training_finds_more_and_ships_an_encoder_that_loads_alone(
    prepared: MakeRun,
) -> None:
    from peft import PeftModel
    from sentence_transformers import SentenceTransformer

    config, run_dir = prepared(epochs=15, learning_rate=2e-2, num_negatives=0)
    counts = train_retriever.run(Session(config, run_dir))
    train = {p.question: p.chunk_id for p in read_jsonl(run_dir.qa, QAPair) if p.split == "train"}
    assert (
        share_first(config, run_dir, train, True)
        > share_first(config, run_dir, train, False) + 0.05
    )
    assert counts["shipped"] == 1
    alone = SentenceTransformer(str(run_dir.retriever), device="cpu")
    retriever = open_retriever(run_dir, config.retrieval, config.encoder, tuned=True)
    texts = [c.text for c in read_jsonl(run_dir.chunks, Chunk)]
    np.testing.assert_allclose(alone.encode_document(texts), retriever.vectors, atol=1e-5)
    base = SentenceTransformer(config.encoder.model, device="cpu")
    base[0].auto_model = PeftModel.from_pretrained(
        base[0].auto_model, run_dir.retriever / "adapter"
    ).merge_and_unload()
    np.testing.assert_allclose(base.encode_document(texts), retriever.vectors, atol=1e-5)
    # PEFT holds the names of layers as a set, whose order differs from process to process.
    adapter = json.loads((run_dir.retriever / "adapter/adapter_config.json").read_text())
    assert adapter["target_modules"] == sorted(adapter["target_modules"])
    assert not run_dir.checkpoints("train_retriever").exists()
    log = list(read_rows(run_dir.training_log("train_retriever")))
    losses = [row["loss"] for row in log if "loss" in row]
    assert np.mean(losses[-20:]) < 0.9 * np.mean(losses[:20])
    assert log[-1]["stage"] == "gate"


@pytest.mark.slow
def test_the_question_side_alone_keeps_every_chunk_vector(prepared: MakeRun) -> None:
    config, run_dir = prepared(sides="query")
    train_retriever.run(Session(config, run_dir))
    tuned, base = (
        open_retriever(run_dir, config.retrieval, config.encoder, tuned=True),
        open_retriever(run_dir, config.retrieval, config.encoder),
    )
    assert np.array_equal(tuned.vectors, base.vectors)
    question = ["what is in box 3"]
    assert not np.allclose(
        tuned.encoder.encode_queries(question), base.encoder.encode_queries(question), atol=1e-3
    )


@pytest.mark.parametrize("sides", ["both", pytest.param("query", marks=pytest.mark.slow)])
def test_documents_without_questions_are_learned_and_measured_by_inverse_cloze(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, sides: str
) -> None:
    texts = [
        f"Box {n} is {c}. It stands in room {n * 7} by the door. Nobody opened it since day {n}."
        for n, c in enumerate(COLOURS)
    ]
    rows = [
        {"id": f"d{n}", "title": "", "text": t, "split": "train" if n < 8 else "dev"}
        for n, t in enumerate(texts)
    ]
    config, run_dir = make_run(
        rows,
        train_retriever__advanced__self_supervised=True,
        train_retriever__batch_size=4,
        train_retriever__advanced__sides=sides,
    )
    ingest.run(Session(config, run_dir))
    index.run(Session(config, run_dir))
    write_jsonl(run_dir.qa, [])
    measured: list[str] = []
    measure = candidates.measure

    def noting(retriever: Retriever, dev: Sequence[QAPair], gold: Any) -> Any:
        measured.append(Path(retriever.folder).name)
        return measure(retriever, dev, gold)

    monkeypatch.setattr(candidates, "measure", noting)
    counts = train_retriever.run(Session(config, run_dir))
    assert counts["phases"] == "cloze"
    assert f"on {len(COLOURS) - 8} questions" in str(counts["reason"])
    assert train_retriever.SELECTED_BY_CLOZES in str(counts["reason"])
    assert len(measured) > 1 and set(measured) == {candidates.CLOZE_INDEX}


def test_too_few_questions_are_a_reason_and_no_error(prepared: MakeRun) -> None:
    config, run_dir = prepared()
    write_jsonl(run_dir.qa, [])
    counts = train_retriever.run(Session(config, run_dir))
    assert counts["shipped"] == 0
    assert "generate more" in counts["reason"]
    assert not served_tuned(run_dir)


def test_a_pair_of_a_test_document_stops_the_stage_before_it_trains(prepared: MakeRun) -> None:
    config, run_dir = prepared()
    pairs = list(read_jsonl(run_dir.qa, QAPair))
    leaking = [
        p if p.split != "test" else QAPair(**{**p.__dict__, "split": "train"}) for p in pairs
    ]
    write_jsonl(run_dir.qa, leaking)
    with pytest.raises(DataError, match="training pairs leak from the test documents"):
        train_retriever.run(Session(config, run_dir))
    assert not run_dir.retriever.exists()


def test_nothing_of_dev_and_test_documents_is_trained_on(
    prepared: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = record_training_rows(monkeypatch)
    config, run_dir = prepared(num_negatives=3)
    train_retriever.run(Session(config, run_dir))
    texts = {text for rows in seen for name in rows.column_names for text in rows[name]}
    heldout = {c.text for c in read_jsonl(run_dir.chunks, Chunk) if c.split != "train"}
    asked = {p.question for p in read_jsonl(run_dir.qa, QAPair) if p.split != "train"}
    assert seen[0].column_names == ["question", "chunk_0", "chunk_1", "chunk_2", "chunk_3"]
    assert not texts & heldout
    assert not texts & asked


def test_an_encoder_that_got_worse_is_not_shipped_and_the_log_says_why(
    prepared: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run_dir = prepared(mode="dense", gate=True, epochs=1)
    spoil_trained_weights(monkeypatch)
    counts = train_retriever.run(Session(config, run_dir))
    assert (counts["shipped"], counts["alpha"]) == (0, 0.0)
    assert "the base stays" in counts["reason"]
    assert counts["dev_recall_tuned"] == counts["dev_recall_base"]
    assert not served_tuned(run_dir)
    assert (
        list(read_rows(run_dir.training_log("train_retriever")))[-1]["reason"] == counts["reason"]
    )


def spoil_trained_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training that ends with an encoder for which all texts are nearly the same."""
    import torch

    real = phases.fit

    def harm(encoder: Any, dataset: Any, loss: Any, schedule: Any, folder: Path, *rest: Any) -> Any:
        history = real(encoder, dataset, loss, schedule, folder, *rest)
        with torch.no_grad():
            for name, parameter in encoder.model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(0, 5, generator=torch.Generator().manual_seed(1))
        from safetensors.torch import save_file

        save_file(encoder.state(), folder / phases.WEIGHTS)
        return history

    monkeypatch.setattr(phases, "fit", harm)


def test_sharding_the_encoder_is_refused_before_any_work(
    prepared: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run_dir = prepared()
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ConfigError, match=r"configs/accelerate/ddp\.yaml"):
        train_retriever.run(Session(config, run_dir))


def test_pairs_that_are_not_trained_on_get_a_reject_and_cost_no_other_pair_its_negatives(
    prepared: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = record_training_rows(monkeypatch)
    config, run_dir = prepared(num_negatives=2, epochs=1)
    pairs = list(read_jsonl(run_dir.qa, QAPair))
    dev = select_pairs(run_dir, ChunkStore(run_dir.chunks), 0.8).dev_chunks
    pair = next(p for p in pairs if p.split == "train" and p.chunk_id not in dev)
    # Every chunk contains "number"; the second pair's place is unknown.
    everywhere = dataclasses.replace(pair, id="everywhere", answers=("number",))
    unlocated = dataclasses.replace(pair, id="unlocated", chunk_id=None, evidence=None)
    write_jsonl(run_dir.qa, [*pairs, everywhere, unlocated])
    train_retriever.run(Session(config, run_dir))
    assert seen[0].column_names == ["question", "chunk_0", "chunk_1", "chunk_2"]
    rejects = list(read_jsonl(run_dir.rejects("train_retriever"), Reject))
    name = "round-0-contrastive"
    assert [(r.item, r.reason, r.detail) for r in rejects] == [
        ("unlocated", "no training row", f"{name}: its gold chunk is unknown"),
        ("everywhere", "no training row", f"{name}: fewer negatives than the other pairs"),
    ]


def test_the_loss_is_the_one_that_its_setting_names(
    prepared: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[float] = []

    def own_loss(model: Any, settings: losses.LossSettings) -> Any:
        used.append(settings.temperature)
        return losses.contrastive_loss(model, settings)

    monkeypatch.setitem(losses.LOSSES, "own", own_loss)
    config, run_dir = prepared(advanced__loss="own", epochs=1)
    train_retriever.run(Session(config, run_dir))
    assert used == [config.train_retriever.advanced.temperature]


def test_an_unknown_loss_is_an_error_that_names_the_known_ones(prepared: MakeRun) -> None:
    config, run_dir = prepared(advanced__loss="contrastiv")
    with pytest.raises(
        ConfigError,
        match=r"no train_retriever.advanced.loss=contrastiv: choose one of: contrastive",
    ):
        train_retriever.run(Session(config, run_dir))
