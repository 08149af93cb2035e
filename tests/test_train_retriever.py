"""The stage that tunes the encoder: what it learns, what it refuses, what it ships, and that a kill costs nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from generator_run import with_copies

from rag_ft.config import Config
from rag_ft.errors import DataError
from rag_ft.retrieval.retriever import Retriever, open_retriever, served_tuned
from rag_ft.run_dir import RunDir
from rag_ft.schema import Chunk, Evidence, QAPair
from rag_ft.session import Session
from rag_ft.stages import index, ingest, train_retriever
from rag_ft.storage import ChunkStore, read_jsonl, read_rows, write_jsonl, write_text
from rag_ft.training.dev_split import held_out
from rag_ft.training.retriever import phases
from rag_ft.training.retriever import trainer as fit
from rag_ft.training.retriever.dataset import Pairs, select_pairs, with_cloze_dev

MakeRun = Callable[..., tuple[Config, RunDir]]
RUN = """
import sys
from pathlib import Path
from rag_ft import train_retriever
from rag_ft.config_loader import load_config
from rag_ft.run_dir import RunDir
config = load_config(Path(sys.argv[1]))
train_retriever.run(Session(config, RunDir(config.run_path)))
"""
# On CPUs --multi_gpu is what makes accelerate start two processes (with --cpu it starts one); both take a free port.
LAUNCHERS = {
    "one": [],
    "torchrun": ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"],
    "accelerate": ["accelerate.commands.launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
                   "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0", "-m"],
}  # fmt: skip
COLOURS = [
    "red",
    "blue",
    "green",
    "grey",
    "white",
    "black",
    "pink",
    "brown",
    "amber",
    "violet",
    "teal",
    "coral",
]
THINGS = [
    "lamp",
    "boat",
    "harp",
    "clock",
    "kite",
    "drum",
    "vase",
    "sled",
    "loom",
    "oar",
    "bell",
    "cart",
]


def documents(num: int = 24) -> list[dict[str, Any]]:
    """One chunk each; the last third are test documents, the four before them dev documents."""
    rows = []
    for n in range(num):
        split = "test" if n >= num * 2 // 3 else ("dev" if n >= num * 2 // 3 - 4 else "train")
        text = (
            f"Box {n} holds a {COLOURS[n % 12]} {THINGS[(n * 5 + n // 12) % 12]} number {n * 37}."
        )
        rows.append({"id": f"d{n}", "title": "", "text": text, "split": split})
    return rows


def write_pairs(run_dir: RunDir, each: int = 6) -> None:
    """Questions about every chunk, evidence being the whole of it."""
    pairs = []
    for chunk in read_jsonl(run_dir.chunks, Chunk):
        words = chunk.text.rstrip(".").split()
        asked = [f"what is in box {words[1]}", f"who has the {words[4]} {words[5]}", f"where is number {words[7]}",
                 f"{words[4]} {words[5]}?", f"box {words[1]}?", f"which box has {words[7]}"][:each]  # fmt: skip
        evidence = Evidence(chunk.text, 0, len(chunk.text))
        place = (chunk.id, chunk.document_id, evidence, "factoid", chunk.split, "imported")
        pairs += [
            QAPair(f"{chunk.id}/{n}", question, (words[7],), *place)
            for n, question in enumerate(asked)
        ]
    write_jsonl(run_dir.qa, pairs)


@pytest.fixture
def prepared(make_run: MakeRun) -> Callable[..., tuple[Config, RunDir]]:
    """prepared(key=value, ...) -> a run that is ready for this stage; keys are train_retriever's."""

    def prepare(each: int = 6, mode: str = "hybrid", **knobs: Any) -> tuple[Config, RunDir]:
        values = {
            "batch_size": 8,
            "learning_rate": 5e-3,
            "epochs": 3,
            "rank": 4,
            "gate": False,
            **knobs,
        }
        config, run_dir = make_run(
            documents(),
            retrieval__advanced__with_title=False,
            retrieval__mode=mode,
            **{f"train_retriever__{k}": v for k, v in values.items()},
        )
        ingest.run(Session(config, run_dir))
        index.run(Session(config, run_dir))
        write_pairs(run_dir, each)
        return config, run_dir

    return prepare


class PlantedModel:
    """A language model to which every answer is likely after one chunk, and unlikely after any other."""

    name, window = "planted", 1

    def __init__(self, liked: dict[str, str]) -> None:
        self.liked, self.asked = liked, 0

    def answer_logprobs(self, jobs: Sequence[tuple[Any, str]]) -> list[np.ndarray]:
        self.asked += len(jobs)
        return [
            np.full(3, -0.1 if self._likes(messages[0]["content"]) else -2.0, np.float32)
            for messages, _ in jobs
        ]

    def _likes(self, prompt: str) -> bool:
        question = prompt.rpartition("Question: ")[2].strip()
        return self.liked.get(question, "?") in prompt

    def count_tokens(self, messages: Any) -> int:
        return 10

    def __enter__(self) -> PlantedModel:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def plant(run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> tuple[PlantedModel, dict[str, str]]:
    """Every train document's questions get a chunk of another train document that the model prefers."""
    from rag_ft.training.retriever import phases

    chunks = [c for c in read_jsonl(run_dir.chunks, Chunk) if c.split == "train"]
    preferred = {c.id: chunks[(n + 5) % len(chunks)] for n, c in enumerate(chunks)}
    pairs = [p for p in read_jsonl(run_dir.qa, QAPair) if p.split == "train"]
    model = PlantedModel({p.question: preferred[p.chunk_id or ""].text for p in pairs})
    monkeypatch.setattr(phases, "open_language_model", lambda *_, **__: model)
    return model, {p.question: preferred[p.chunk_id or ""].id for p in pairs}


def share_first(config: Config, run_dir: RunDir, wanted: dict[str, str], tuned: bool) -> float:
    """Share of the questions whose wanted chunk is the closest among train chunks."""
    retriever = open_retriever(run_dir, config.retrieval, config.encoder, tuned=tuned)
    train = {c.id for c in read_jsonl(run_dir.chunks, Chunk) if c.split == "train"}
    rankings = retriever.search(list(wanted), 24, "dense")
    first = [next(name for name, _ in ranking if name in train) for ranking in rankings]
    return float(np.mean([a == b for a, b in zip(first, wanted.values(), strict=True)]))


LSR_ALONE = {
    "epochs": 0,
    "lsr_steps": 80,
    "lsr_top_k": 12,
    "lsr_learning_rate": 1e-2,
    "method": "full",
}


@pytest.mark.parametrize("sides", ["both", "query"])
def test_lsr_teaches_a_random_encoder_what_the_language_model_prefers(
    prepared: MakeRun, monkeypatch: pytest.MonkeyPatch, sides: str
) -> None:
    config, run_dir = prepared(each=2, sides=sides, **LSR_ALONE)
    model, wanted = plant(run_dir, monkeypatch)
    counts = train_retriever.run(Session(config, run_dir))
    assert share_first(config, run_dir, wanted, tuned=False) < 0.3
    assert share_first(config, run_dir, wanted, tuned=True) > 0.7
    assert 0.3 <= counts["lsr_entropy"] <= 0.6
    rows = list(read_rows(run_dir.lm_scores))
    assert (
        model.asked == len(rows) == 20 * 10
    )  # two of the twelve train documents serve as dev: 8 questions are few
    assert {row["num_tokens"] for row in rows} == {3}
    assert all(not row["chunk_id"].startswith(("d16", "d23")) for row in rows), (
        "a test chunk was scored"
    )


def test_without_a_gradient_to_the_encoder_lsr_says_so_and_trains_nothing(
    prepared: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rag_ft.training.retriever import losses

    config, run_dir = prepared(each=2, **LSR_ALONE)
    plant(run_dir, monkeypatch)
    real = losses.lsr_loss

    def cut(similarities: Any, *rest: Any) -> Any:
        return real(similarities.detach().requires_grad_(True), *rest)  # a new leaf, as in the trap

    monkeypatch.setattr(losses, "lsr_loss", cut)
    with pytest.raises(ValueError, match="no gradient"):
        train_retriever.run(Session(config, run_dir))
    assert not served_tuned(run_dir)


def test_lsr_is_left_out_with_a_reason_when_the_model_tells_no_chunks_apart(
    prepared: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run_dir = prepared(each=2, **{**LSR_ALONE, "epochs": 1})
    model, _ = plant(run_dir, monkeypatch)
    model.liked = {}
    counts = train_retriever.run(Session(config, run_dir))
    assert counts["phases"] == "round-0-contrastive"
    assert counts["shipped"] == 1
    rows = [
        row
        for row in read_rows(run_dir.training_log("train_retriever"))
        if row["stage"] == "round-0-lsr"
    ]
    assert [set(row) for row in rows] == [{"stage", "reason"}], "the report says why"
    assert rows[0]["reason"].removeprefix("left out: ") in str(counts["left_out"])


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
    assert not run_dir.checkpoints("train_retriever").exists()
    log = list(read_rows(run_dir.training_log("train_retriever")))
    losses = [row["loss"] for row in log if "loss" in row]
    assert np.mean(losses[-20:]) < 0.9 * np.mean(losses[:20])
    assert log[-1]["stage"] == "gate"


def test_two_runs_give_the_same_weights(prepared: MakeRun) -> None:
    from safetensors.numpy import load_file

    config, run_dir = prepared()
    train_retriever.run(Session(config, run_dir))
    first = load_file(run_dir.retriever / "model.safetensors")
    train_retriever.run(Session(config, run_dir))
    second = load_file(run_dir.retriever / "model.safetensors")
    assert all(np.array_equal(first[name], second[name]) for name in first)


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


@pytest.mark.parametrize("sides", ["both", "query"])
def test_documents_without_questions_are_learned_and_judged_by_inverse_cloze(
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
    config, run_dir = make_run(rows, train_retriever__advanced__self_supervised=True, train_retriever__batch_size=4,
                               train_retriever__advanced__sides=sides)  # fmt: skip
    ingest.run(Session(config, run_dir))
    index.run(Session(config, run_dir))
    write_jsonl(run_dir.qa, [])
    measured: list[str] = []
    measure = phases.measure

    def noting(retriever: Retriever, dev: Sequence[QAPair], gold: Any) -> Any:
        measured.append(Path(retriever.folder).name)
        return measure(retriever, dev, gold)

    monkeypatch.setattr(phases, "measure", noting)
    counts = train_retriever.run(Session(config, run_dir))
    assert counts["phases"] == "cloze"
    assert f"on {len(COLOURS) - 8} questions" in str(counts["reason"])
    assert train_retriever.SELECTED_BY_CLOZES in str(counts["reason"])
    assert len(measured) > 1 and set(measured) == {phases.CLOZE_INDEX}


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


@pytest.mark.parametrize("asked", ["all", "no copy", "none"])
def test_near_duplicates_are_held_out_together(tmp_path: Path, asked: str) -> None:
    run_dir = with_copies(tmp_path)
    pairs = [p for p in read_jsonl(run_dir.qa, QAPair) if "copy" not in p.id or asked == "all"]
    write_jsonl(run_dir.qa, pairs if asked != "none" else [])
    found = select_pairs(run_dir, ChunkStore(run_dir.chunks), 0.8)
    trained, held = (
        {c.document_id for c in chunks.values()} for chunks in (found.chunks, found.dev_chunks)
    )
    assert len(held) == 6 and len(trained) == 34, "15 % of 40"
    assert not {name.removesuffix("-copy") for name in trained} & {
        name.removesuffix("-copy") for name in held
    }


def test_one_large_group_of_near_duplicates_leaves_something_to_train_on() -> None:
    group_of = {f"d{n}": "d0" if n < 9 else f"d{n}" for n in range(12)}
    assert held_out(group_of, group_of, 0.1) in ({"d9"}, {"d10"}, {"d11"})
    assert held_out(["d0", "d1"], group_of, 0.5) == set(), "all of it is one group"
    pairs = {f"d{n}{copy}": f"d{n}" for n in range(5) for copy in ("", "-copy")}
    assert len(held_out(pairs, pairs, 0.1)) == 2, "a whole group, where none is small enough"


def test_the_encoders_dtype_decides_the_precision_whatever_the_launcher_wants(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    assert fit.training_arguments(fit.Schedule(4, 1e-3), 8, tmp_path).mixed_precision == "no"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    assert (
        fit.training_arguments(fit.Schedule(4, 1e-3, bfloat16=True), 8, tmp_path).mixed_precision
        == "bf16"
    )


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
    from rag_ft.training.retriever import phases

    seen: list[Any] = []
    real = phases.fit
    monkeypatch.setattr(
        phases,
        "fit",
        lambda encoder, rows, *rest: (seen.append(rows), real(encoder, rows, *rest))[1],
    )
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

    from rag_ft.training.retriever import phases

    real = phases.fit

    def harm(
        encoder: Any, dataset: Any, loss: Any, schedule: Any, folder: Path, vectors_of: Any
    ) -> Any:
        history = real(encoder, dataset, loss, schedule, folder, vectors_of)
        with torch.no_grad():
            for name, parameter in encoder.model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(0, 5, generator=torch.Generator().manual_seed(1))
        from safetensors.torch import save_file

        save_file(encoder.state(), folder / phases.WEIGHTS)
        return history

    monkeypatch.setattr(phases, "fit", harm)


@pytest.mark.parametrize("phase", ["contrastive", "lsr"])
def test_an_interrupted_training_goes_on_at_its_last_checkpoint_to_the_same_weights(
    prepared: MakeRun, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    from safetensors.numpy import load_file

    settings = {"epochs": 4} if phase == "contrastive" else {**LSR_ALONE, "lsr_steps": 8}
    config, run_dir = prepared(**settings)
    plant(run_dir, monkeypatch)
    train_retriever.run(Session(config, run_dir))
    wanted = load_file(run_dir.retriever / "model.safetensors")
    steps = [
        row["step"] for row in read_rows(run_dir.training_log("train_retriever")) if "step" in row
    ]

    def stop(self: Any, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step > steps[-1] // 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(fit._Progress, "on_step_end", stop)
        with pytest.raises(KeyboardInterrupt):
            train_retriever.run(Session(config, run_dir))
    assert list(
        (run_dir.checkpoints("train_retriever") / f"round-0-{phase}").glob("checkpoint-*/complete")
    )
    train_retriever.run(Session(config, run_dir))
    found = load_file(run_dir.retriever / "model.safetensors")
    assert all(np.array_equal(wanted[name], found[name]) for name in wanted)
    assert [
        row["step"] for row in read_rows(run_dir.training_log("train_retriever")) if "step" in row
    ] == steps


def test_a_checkpoint_is_complete_when_every_process_has_written_its_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark, waited = tmp_path / "checkpoint-3" / fit.FINISHED, list[bool]()
    monkeypatch.setattr(
        fit.PartialState, "wait_for_everyone", lambda _: waited.append(mark.exists())
    )
    state = SimpleNamespace(is_world_process_zero=True, global_step=3)
    fit._MarkComplete().on_save(SimpleNamespace(output_dir=str(tmp_path)), state, None)
    assert waited == [False] and mark.exists()


@pytest.mark.slow
@pytest.mark.parametrize("when", ["training", "after"])
def test_a_killed_run_ends_with_the_weights_of_an_undisturbed_one(
    prepared: MakeRun, tmp_path: Path, when: str
) -> None:
    from safetensors.numpy import load_file

    config, run_dir = prepared(epochs=6)
    train_retriever.run(Session(config, run_dir))
    wanted = load_file(run_dir.retriever / "model.safetensors")
    values = {
        name: section for name, section in config.model_dump(mode="json").items() if name != "name"
    }
    write_text(tmp_path / "test.yaml", yaml.safe_dump(values))
    process = subprocess.Popen(
        [sys.executable, "-c", RUN, str(tmp_path / "test.yaml")], stderr=subprocess.DEVNULL
    )
    folder = run_dir.checkpoints("train_retriever") / "round-0-contrastive"
    sign = "checkpoint-*/complete" if when == "training" else "encoder.safetensors"
    deadline = time.monotonic() + 120
    while not list(folder.glob(sign)) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    os.kill(process.pid, signal.SIGKILL) if process.poll() is None else None
    process.wait()
    train_retriever.run(Session(config, run_dir))
    found = load_file(run_dir.retriever / "model.safetensors")
    assert all(np.array_equal(wanted[name], found[name]) for name in wanted)
    assert not run_dir.checkpoints("train_retriever").exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_train_what_one_trains(
    make_run: MakeRun, tiny_encoder_dir: Path, tmp_path: Path
) -> None:
    """Two CPU processes (gloo) share each batch; without dropout, whose draws are each process' own."""
    from safetensors.numpy import load_file

    from rag_ft.pipeline import run_stage

    encoder = shutil.copytree(tiny_encoder_dir, tmp_path / "still-encoder")
    settings = json.loads((encoder / "config.json").read_text())
    settings |= {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    (encoder / "config.json").write_text(json.dumps(settings))
    rows = [
        {"question": f"what is in box {n}", "answers": [str(n * 37)], "document_id": f"d{n}"}
        for n in range(24)
    ]
    questions = tmp_path / "questions.jsonl"
    questions.write_text("".join(json.dumps(row) + "\n" for row in rows))
    trained = []
    for name, launcher in LAUNCHERS.items():
        config, run_dir = make_run(
            documents(), run__dir=tmp_path / name, encoder__model=str(encoder), retrieval__advanced__with_title=False,
            generate__questions=[str(questions)], generate__pairs_per_chunk=0, train_retriever__advanced__gate=False,
            train_retriever__batch_size=4, train_retriever__learning_rate=5e-3,
        )  # fmt: skip
        values = {
            section: v for section, v in config.model_dump(mode="json").items() if section != "name"
        }
        path = tmp_path / f"{name}.yaml"
        write_text(path, yaml.safe_dump(values))
        for stage in ("ingest", "index", "generate"):
            run_stage(stage, config)
        command = [sys.executable, "-m", *launcher, "rag_ft", "train_retriever", str(path)]
        subprocess.run(command, check=True, timeout=800, env={**os.environ, "OMP_NUM_THREADS": "1"})
        assert json.loads(run_dir.done("train_retriever").read_text())["counts"]["shipped"] == 1
        trained.append(load_file(run_dir.retriever / "model.safetensors"))
    base = load_file(encoder / "model.safetensors")
    assert any(np.abs(trained[0][name] - base[name]).max() > 1e-3 for name in base)
    for launched in trained[1:]:
        for name, weights in trained[0].items():
            np.testing.assert_allclose(launched[name], weights, atol=1e-5)


def test_sharding_the_encoder_is_refused_before_any_work(
    prepared: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rag_ft.errors import ConfigError

    config, run_dir = prepared()
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ConfigError, match=r"configs/accelerate/ddp\.yaml"):
        train_retriever.run(Session(config, run_dir))
