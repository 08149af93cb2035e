"""The training of a reranker: its rows, its weights, and whether it is served."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from reranker_run import knows_gold, mine_rows, with_reranker
from retriever_run import MakeRun, plant, prepare

from rag_ft import pipeline, run_status
from rag_ft.commands.explain import explain
from rag_ft.config import Config, RerankerConfig
from rag_ft.errors import ConfigError, DataError
from rag_ft.evaluation.components import left_out_stages
from rag_ft.evaluation.metrics.retrieval import score_ranking
from rag_ft.freshness import plan_stage
from rag_ft.retrieval.reranker import Reranker
from rag_ft.run_dir import RunDir
from rag_ft.schema import Chunk, Hit, QAPair
from rag_ft.session import Session
from rag_ft.stage_table import find_stage
from rag_ft.stages import evaluate, train_reranker, train_retriever
from rag_ft.storage import read_jsonl, read_rows, write_jsonl
from rag_ft.training.distributed import join_processes
from rag_ft.training.reranker import training as reranker_training
from rag_ft.training.reranker.dataset import mine_mistakes, target, to_lists
from rag_ft.training.reranker.training import RerankerTraining
from rag_ft.training.reranker.training import train_reranker as train
from rag_ft.training.retriever.dataset import (
    RowChunk,
    TrainingRow,
    read_training_rows,
    select_pairs,
)

DENSE = {"advanced__lexical_weight": 0.0}
Prepared = tuple[Config, RunDir]


@pytest.fixture
def prepared(make_run: MakeRun) -> Prepared:
    """A run whose encoder was not tuned, and ranks alone: it leaves much to gain."""
    config, run_dir = prepare(make_run, enabled=False, retrieval=DENSE)
    train_retriever.run(Session(config, run_dir))
    return config, run_dir


# What it is trained on.


class Finds:
    """A retriever that finds the same chunks for every question."""

    def __init__(self, *chunk_ids: str) -> None:
        self.chunk_ids = chunk_ids

    def search(self, questions: Sequence[str], *_: object) -> list[list[tuple[str, float]]]:
        return [[(chunk_id, 1.0) for chunk_id in self.chunk_ids] for _ in questions]


def test_negatives_are_mistakes_of_both_retrievers() -> None:
    chunks = {n: Chunk(n, n, n, f"text {n}", 0, 6, 2, "train") for n in "abcdefgh"}
    chunks["h"] = dataclasses.replace(chunks["h"], text="the answer is 1852")
    pair = QAPair("q", "When?", ("1852",), "a", "a", None, "factoid", "train", "imported")
    base, tuned = Finds("a", "b", "c", "x", "h"), Finds("a", "e", "f", "g", "b")
    found = mine_mistakes([pair], [base, tuned], "hybrid", chunks, 4, seed=0)["q"]
    # Neither the gold chunk, nor one with the answer, nor one that may not be trained on.
    assert len(found) == len(set(found)) == 4 and set(found) < {"b", "c", "e", "f", "g"}
    assert len({"b", "c"} & set(found)) >= 2 and {"e", "f", "g"} & set(found)
    assert found == mine_mistakes([pair], [base, tuned], "hybrid", chunks, 4, seed=0)["q"]
    assert mine_mistakes([pair], [Finds("a", "x")], "hybrid", chunks, 4, seed=0) == {"q": ()}


def test_labels_say_which_chunk_should_score_high() -> None:
    row = TrainingRow("q", "who", "a", (RowChunk("a", "A", -2.0), RowChunk("b", "B", -1.0)))
    liked = np.exp([-4.0, -2.0]) / np.exp([-4.0, -2.0]).sum()
    np.testing.assert_allclose(target(row, "evidence", 0.5), [1, 0])
    np.testing.assert_allclose(target(row, "lm", 0.5), liked)
    np.testing.assert_allclose(target(row, "both", 0.5), (np.array([1, 0]) + liked) / 2)
    written = to_lists([row], "both", 0.5)
    assert written["chunks"] == [["A", "B"]] and written["question"] == ["who"]
    label = np.exp(written["label"][0])
    np.testing.assert_allclose(label / label.sum(), target(row, "both", 0.5), atol=1e-6)


def test_the_language_model_labels_chunks_and_its_known_scores_are_used(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run_dir = prepared
    config = with_reranker(config, labels="lm", epochs=1)
    model, _ = plant(run_dir, monkeypatch)
    texts = {chunk.id: chunk.text for chunk in read_jsonl(run_dir.chunks, Chunk)}
    pairs = read_jsonl(run_dir.qa, QAPair)
    model.liked = {pair.question: texts[pair.chunk_id or ""] for pair in pairs}
    rows = mine_rows(config, run_dir)
    assert model.asked == sum(len(row.chunks) for row in rows) > 0
    scores = {round(chunk.score or 0, 3) for row in rows for chunk in row.chunks}
    assert scores <= {-2.0, -0.1}
    counts = train_reranker.run(Session(config, run_dir))
    assert counts["num_rows"] == len(rows)
    # What the retriever's training had scored is not asked again.
    write_jsonl(run_dir.lm_scores, list(read_rows(run_dir.reranker_lm_scores)))
    run_dir.reranker_lm_scores.unlink()
    asked = model.asked
    train_reranker.run(Session(config, run_dir))
    assert model.asked == asked


def test_scores_of_the_language_model_that_are_all_alike_train_nothing(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run_dir = prepared
    model, _ = plant(run_dir, monkeypatch)
    model.liked = {}
    counts = train_reranker.run(Session(with_reranker(config, labels="both"), run_dir))
    assert "alike" in str(counts["reason"]) and not run_dir.reranker.exists()


def test_nothing_of_a_test_document_is_trained_on(prepared: Prepared) -> None:
    config, run_dir = prepared
    config = with_reranker(config)
    rows = mine_rows(config, run_dir)
    splits = {chunk.id: chunk.split for chunk in read_jsonl(run_dir.chunks, Chunk)}
    assert rows and {splits[c.id] for row in rows for c in row.chunks} == {"train"}
    path = run_dir.checkpoints("train_reranker") / "rows.jsonl"
    test = next(chunk_id for chunk_id, split in splits.items() if split == "test")
    first = read_training_rows(path)[0]
    leaking = dataclasses.replace(first, chunks=(*first.chunks, RowChunk(test, "leak")))
    write_jsonl(path, [leaking])
    with pytest.raises(DataError, match="test documents"):
        train_reranker.run(Session(config, run_dir))


# What becomes of its weights.


def test_it_learns_which_chunk_answers_and_loads_without_our_code(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    from sentence_transformers import CrossEncoder

    config, run_dir = prepared
    config = with_reranker(config, epochs=12)
    rows = mine_rows(config, run_dir)
    with monkeypatch.context() as patch:
        knows_gold(patch, run_dir)  # so that it is kept
        counts = train_reranker.run(Session(config, run_dir))
    log = [row["loss"] for row in read_rows(run_dir.training_log("train_reranker"))]
    assert len(log) == counts["num_steps"]
    assert np.mean(log[-9:]) < 0.95 * np.mean(log[:9])

    model = CrossEncoder(str(run_dir.reranker), device="cpu", local_files_only=True)
    first = [
        int(np.argmax(model.predict([(row.question, c.text) for c in row.chunks]))) for row in rows
    ]
    assert np.mean([place == 0 for place in first]) > 0.4  # by chance 0.25
    ours = Session(config, run_dir).tuned_reranker
    assert ours is not None
    scores = ours.scores(rows[0].question, [chunk.id for chunk in rows[0].chunks])
    # Two chunks may have the same score, and bfloat16 has three digits.
    assert scores[first[0]] == pytest.approx(max(scores), abs=0.01)


@pytest.mark.slow
def test_lora_changes_the_layers_and_leaves_no_adapter(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    from safetensors.numpy import load_file
    from sentence_transformers import CrossEncoder

    config, run_dir = prepared
    config = with_reranker(config, method="lora", epochs=2, learning_rate=1e-2)
    knows_gold(monkeypatch, run_dir)
    train_reranker.run(Session(config, run_dir))
    assert not list(run_dir.reranker.glob("*adapter*"))
    CrossEncoder(str(run_dir.reranker), device="cpu", local_files_only=True)
    start = reranker_training.open_cross_encoder(Session(config, run_dir))
    start.save_pretrained(str(run_dir.path / "start"))
    before = load_file(run_dir.path / "start" / "model.safetensors")
    after = load_file(run_dir.reranker / "model.safetensors")
    assert before.keys() == after.keys()
    changed = {name for name in before if not np.allclose(before[name], after[name], atol=1e-6)}
    assert "classifier.weight" in changed
    assert any("attention" in name for name in changed)
    assert not any("LayerNorm" in name or "embeddings" in name for name in changed)


@pytest.mark.parametrize("method", ["full", pytest.param("lora", marks=pytest.mark.slow)])
def test_a_causal_reranker_is_tuned_too(
    prepared: Prepared, tiny_lm_dir: Path, tmp_path: Path, method: str
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    # It scores by the difference of the words yes and no.
    tokenizer = AutoTokenizer.from_pretrained(tiny_lm_dir)
    tokenizer.add_tokens(["yes", "no"])
    model = AutoModelForCausalLM.from_pretrained(tiny_lm_dir)
    model.resize_token_embeddings(len(tokenizer))
    # transformers gives new words nearly the same row, and LoRA does not change it.
    rows = torch.randn(2, model.config.hidden_size, generator=torch.Generator().manual_seed(0))
    model.get_output_embeddings().weight.data[-2:] = rows
    folder = tmp_path / "causal"
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    config, run_dir = prepared
    config = with_reranker(config, method=method, epochs=1)
    config = config.model_copy(update={"reranker": RerankerConfig(model=str(folder))})
    session = Session(config, run_dir)
    assert session.reranker is not None
    chunk_ids = [chunk.id for chunk in read_jsonl(run_dir.chunks, Chunk)][:3]
    before = session.reranker.scores("what is in box 1", chunk_ids)
    rows = mine_rows(config, run_dir)
    training = RerankerTraining(
        session, select_pairs(run_dir, session.chunks, 0.8), join_processes()
    )
    train(training, rows, 1.0)
    after = session.open_reranker(training.built).scores("what is in box 1", chunk_ids)
    assert before.shape == after.shape == (3,) and not np.allclose(before, after, atol=1e-4)


# Whether it is served.


def test_it_is_served_where_dev_questions_show_a_gain(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run_dir = prepared
    config = with_reranker(config, epochs=1)
    gold = knows_gold(monkeypatch, run_dir)
    counts = train_reranker.run(Session(config, run_dir))
    row = json.loads(run_dir.reranking.read_text())["base"]
    assert counts["shipped"] == 1 and row["weight"] > 0 and row["ci95"][0] > 0
    assert not run_dir.checkpoints("train_reranker").exists()

    session = Session(config, run_dir)
    assert session.tuned_components == {"reranker"}
    plain, reranked = session.retriever(), session.retriever(session.tuned_components)
    assert plain.reranker is None and reranked.reranker is not None
    assert session.retriever({"reranker"}) is reranked
    recall = [
        np.mean([score_ranking([i for i, _ in h], [gold[q]])["recall@1"] for q, h in found])
        for found in (
            zip(gold, one.search(list(gold), 10), strict=True) for one in (plain, reranked)
        )
    ]
    assert recall[1] > recall[0]
    text = explain(config, next(iter(gold)))
    assert "the tuned reranker's score weighs" in text
    # Without a reranker in the configuration nothing is reranked.
    off = config.model_copy(update={"reranker": RerankerConfig(model="none")})
    assert Session(off, run_dir).tuned_components == set()


def test_it_is_left_out_where_no_gain_is_certain(
    prepared: Prepared, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run_dir = prepared
    config = with_reranker(config, epochs=1)
    knows_gold(monkeypatch, run_dir)
    train_reranker.run(Session(config, run_dir))
    assert run_dir.reranker.exists()

    def blind(self: Reranker, question: str, ids: Sequence[str]) -> np.ndarray:
        return np.full(len(ids), 0.5)

    monkeypatch.setattr(Reranker, "scores", blind)
    counts = train_reranker.run(Session(config, run_dir))
    assert counts["shipped"] == 0 and "no share" in str(counts["reason"])
    assert not run_dir.reranker.exists()
    assert Session(config, run_dir).tuned_components == set()


@pytest.mark.slow
def test_the_evaluation_has_a_row_for_each_tuned_component(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run_dir = prepare(make_run, epochs=1, retrieval=DENSE)
    train_retriever.run(Session(config, run_dir))
    config = with_reranker(config, epochs=1)
    gold = knows_gold(monkeypatch, run_dir)
    train_reranker.run(Session(config, run_dir))
    settings = config.evaluate.model_copy(update={"answers": False})
    config = config.model_copy(update={"evaluate": settings})
    counts = evaluate.run(Session(config, run_dir))
    assert (counts["retriever_tuned"], counts["reranker_tuned"]) == (1, 1)
    ids = {pair.id: pair.question for pair in read_jsonl(run_dir.qa, QAPair)}
    first = {}
    for name in ("base", "tuned_retriever", "tuned_reranker", "tuned", "dense_tuned"):
        hits = [hit for hit in read_jsonl(run_dir.hits(name), Hit) if hit.rank == 1]
        first[name] = np.mean([hit.chunk_id == gold[ids[hit.question_id]] for hit in hits])
    assert first["tuned_reranker"] > first["base"]
    assert first["tuned"] >= first["tuned_retriever"]


# Whether it runs at all.


def test_without_a_reranker_the_stage_is_not_used(prepared: Prepared) -> None:
    config, run_dir = prepared
    states = {name: (state, why) for name, state, why in run_status.status(config)}
    assert states["train_reranker"] == ("unused", "reranker.model is none")
    left_out = left_out_stages(config.evaluate, config.reranker)
    assert "train_reranker" not in pipeline.stages_until("report", left_out)
    assert train_reranker.run(Session(config, run_dir))["shipped"] == 0
    assert not run_dir.reranking.exists()
    # Added to a finished run, it leaves the other trainings as they are.
    on = with_reranker(config)
    for stage in ("train_retriever", "train_generator"):
        plans = [
            plan_stage(stage, find_stage(stage).sections, [], c, run_dir) for c in (config, on)
        ]
        assert plans[0]["fingerprint"] == plans[1]["fingerprint"]
    sections = find_stage("evaluate").sections
    plans = [plan_stage("evaluate", sections, [], c, run_dir) for c in (config, on)]
    assert plans[0]["fingerprint"] != plans[1]["fingerprint"]
    left_out = left_out_stages(on.evaluate, on.reranker)
    assert "train_reranker" in pipeline.stages_until("train_generator", left_out)
    assert "train_reranker" not in pipeline.stages_with_llm(on)
    assert "train_reranker" in pipeline.stages_with_llm(with_reranker(config, labels="both"))


def test_a_model_with_several_scores_and_a_missing_one_are_errors(
    prepared: Prepared, tiny_encoder_dir: Path, tmp_path: Path
) -> None:
    from sentence_transformers import CrossEncoder

    config, run_dir = prepared
    folder = tmp_path / "three-scores"
    CrossEncoder(str(tiny_encoder_dir), num_labels=3, device="cpu").save_pretrained(str(folder))
    for model, words in ((str(folder), "3 scores"), (str(tmp_path / "none-there"), "reranker")):
        named = with_reranker(config).model_copy(update={"reranker": RerankerConfig(model=model)})
        with pytest.raises(ConfigError, match=words):
            reranker_training.open_cross_encoder(Session(named, run_dir))
