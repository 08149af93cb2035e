"""The generator's training: what moves, what is refused, and that a killed run ends as an undisturbed one."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from rag_ft import index, ingest, train_generator
from rag_ft.config import Config
from rag_ft.errors import ConfigError, DataError
from rag_ft.merge import merge
from rag_ft.paths import RunDir
from rag_ft.plan import plan
from rag_ft.records import Chunk, Evidence, QAPair, read_jsonl, read_rows, write_jsonl
from rag_ft.training.training_set import select_pairs

NAMES = ["Ada", "Bo", "Cleo", "Dag", "Eva", "Finn", "Gro", "Hal", "Ida", "Jon"]
TOWNS = ["Ulm", "Ost", "Rye", "Ave", "Bex", "Cor", "Dax", "Ely", "Fro", "Gap"]
Make = Callable[..., tuple[Config, RunDir]]


def documents() -> list[dict[str, Any]]:
    rows = []
    for number, (name, town) in enumerate(zip(NAMES, TOWNS, strict=True)):
        split = "test" if number == 9 else "dev" if number == 8 else "train"
        text = f"{name} lives in {town}. The house of {name} is number {number + 10}."
        rows.append({"id": f"d{number}", "title": name, "text": text, "split": split})
    return rows


def pairs_of(run_dir: RunDir) -> list[QAPair]:
    pairs = []
    for chunk in read_jsonl(run_dir.chunks, Chunk):
        name = chunk.text.split()[0]
        town = chunk.text.split()[3].strip(".")
        start = chunk.start + chunk.text.index(town)
        evidence = Evidence(town, start, start + len(town))
        pairs.append(QAPair(f"q{chunk.document_id}", f"Where does {name} live?", (town,), chunk.id, chunk.document_id,
                            evidence, "factoid", chunk.split, "generated"))  # fmt: skip
        pairs.append(QAPair(f"u{chunk.document_id}", f"What does {name} eat?", ("I don't know.",), None,
                            chunk.document_id, None, "unanswerable", chunk.split, "generated"))  # fmt: skip
    return pairs


@pytest.fixture
def prepared(make_run: Make) -> Callable[..., tuple[Config, RunDir]]:
    """A run that is ready for train_generator: ingested, indexed, with pairs."""

    def prepare(**overrides: Any) -> tuple[Config, RunDir]:
        knobs = {"epochs": 2, "batch_size": 4, "rank": 4, "evaluations": 2, "learning_rate": 2e-2, "replay_share": 0.0}
        knobs |= overrides.pop("knobs", {})
        overrides |= {f"train_generator__{key}": value for key, value in knobs.items()}
        config, run_dir = make_run(documents(), **overrides)
        if not run_dir.qa.exists():
            run_dir.path.mkdir(parents=True, exist_ok=True)
            ingest.run(config, run_dir)
            index.run(config, run_dir)
            write_jsonl(run_dir.qa, pairs_of(run_dir))
        return config, run_dir

    return prepare


def test_training_lowers_the_loss_and_leaves_an_adapter_that_changes_the_model(prepared: Make) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config, run_dir = prepared(knobs={"epochs": 15, "replay_share": 0.2})
    counts = train_generator.run(config, run_dir)
    losses = [row["loss"] for row in read_rows(run_dir.training_log("train_generator")) if "loss" in row]
    assert sum(losses[-3:]) < 0.98 * sum(losses[:3])
    assert (counts["num_train_pairs"], counts["num_answer"], counts["num_abstain"]) == (16, 8, 2)
    assert counts["num_supervised_tokens"] < counts["num_tokens"] / 4
    assert counts["plain_text_loss_base"] > 0 and counts["plain_text_loss_tuned"] > 0
    assert not run_dir.checkpoints("train_generator").exists()
    names = {path.name for path in run_dir.generator.iterdir()}
    assert {"adapter_config.json", "adapter_model.safetensors", "README.md", "tokenizer.json"} <= names
    assert not any(name.endswith((".bin", ".pt", ".pkl")) for name in names)
    settings = json.loads((run_dir.generator / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == config.llm.model
    card = (run_dir.generator / "README.md").read_text()
    assert "## Limits" in card and config.llm.model in card and "None" not in card
    ids = AutoTokenizer.from_pretrained(run_dir.generator)("Where does Ada live?", return_tensors="pt")
    base = AutoModelForCausalLM.from_pretrained(config.llm.model, dtype=torch.float32)
    before = base(**ids).logits
    assert not torch.allclose(PeftModel.from_pretrained(base, run_dir.generator)(**ids).logits, before, atol=1e-3)


def test_the_loss_of_a_step_is_the_mean_over_its_answer_tokens_however_it_is_split(prepared: Make) -> None:
    first = {}
    for device_batch in (1, 4):
        config, run_dir = prepared(knobs={"device_batch_size": device_batch, "max_steps": 1})
        train_generator.run(config, run_dir)
        first[device_batch] = next(read_rows(run_dir.training_log("train_generator")))["loss"]
    assert first[1] == pytest.approx(first[4], abs=2e-4)


def test_a_preview_marks_what_is_learned(prepared: Make) -> None:
    config, run_dir = prepared()
    text = train_generator.preview(config, run_dir, n=4)
    learned = [line for line in text.splitlines() if line.startswith("> ")]
    assert len(learned) == 4 and all(line.endswith("<|im_end|>") for line in learned)
    assert text.count("| Question: ") == 4 and not any("Question" in line for line in learned)
    assert not run_dir.generator.exists()


def test_the_merged_model_answers_as_base_and_adapter_together(prepared: Make, tmp_path: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config, run_dir = prepared()
    with pytest.raises(DataError, match="run train_generator first"):
        merge(config, tmp_path / "merged")
    train_generator.run(config, run_dir)
    merged = merge(config, tmp_path / "merged")
    assert (merged / "model.safetensors").exists() and not (merged / "adapter_config.json").exists()
    ids = AutoTokenizer.from_pretrained(merged)("Where?", return_tensors="pt")
    base = AutoModelForCausalLM.from_pretrained(config.llm.model, dtype=torch.float32)
    tuned = PeftModel.from_pretrained(base, run_dir.generator)
    alone = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32)
    assert torch.allclose(alone(**ids).logits, tuned(**ids).logits, atol=1e-4)
    with pytest.raises(ConfigError, match="is there already"):
        merge(config, tmp_path / "merged")


def test_dev_documents_are_taken_from_train_where_there_are_none(prepared: Make) -> None:
    _, run_dir = prepared()
    pairs = [p for p in read_jsonl(run_dir.qa, QAPair) if p.split != "dev"]
    write_jsonl(run_dir.qa, pairs)
    train, dev, _ = select_pairs(run_dir)
    assert dev and not {p.document_id for p in train} & {p.document_id for p in dev}
    assert {p.split for p in [*train, *dev]} == {"train"}


def test_a_pair_of_a_test_document_stops_the_training(prepared: Make) -> None:
    config, run_dir = prepared()
    pairs = list(read_jsonl(run_dir.qa, QAPair))
    leak = next(p for p in pairs if p.split == "test")
    write_jsonl(run_dir.qa, [*pairs, dataclasses.replace(leak, id="leak", question="Who is at home?", split="train")])
    with pytest.raises(DataError, match="leak"):
        train_generator.run(config, run_dir)
    assert not run_dir.generator.exists()


def test_what_cannot_be_trained_is_refused_before_any_work_with_a_remedy(
    prepared: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(match: str, knobs: dict[str, Any] | None = None, **overrides: Any) -> None:
        config, run_dir = prepared(knobs=knobs or {}, **overrides)
        with pytest.raises(ConfigError, match=match) as error:
            train_generator.run(config, run_dir)
        assert "\n" not in str(error.value) and not run_dir.generator.exists()

    import torch

    if not torch.cuda.is_available():
        refused("needs a CUDA GPU", {"method": "qlora"})
    refused("vLLM does not serve DoRA", {"method": "dora"}, llm__backend="vllm")
    refused("cannot be trained", llm__backend="openai", llm__base_url="http://localhost:1/v1")
    refused("no multiple of device_batch_size=3", {"device_batch_size": 3})
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    refused("8 GPUs are visible and one process was started: use `accelerate launch")


def test_a_disabled_training_says_so_and_does_nothing(prepared: Make) -> None:
    config, run_dir = prepared(knobs={"enabled": False})
    assert train_generator.run(config, run_dir) == {"trained": 0, "reason": "train_generator.enabled is false"}
    assert not run_dir.generator.exists()


def test_a_launcher_that_started_too_few_processes_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    from rag_ft.training import processes

    monkeypatch.setattr(processes, "_asked_of_accelerate", lambda: 2)
    with pytest.raises(ConfigError, match="2 processes were asked for and 1 runs"):
        processes.join_processes()


def test_the_plan_names_steps_and_memory_and_refuses_what_does_not_fit(
    prepared: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    import rag_ft.plan

    config, _ = prepared()
    text = plan(config)
    assert "train_generator" in text and "optimiser" in text and "(counted)" in text
    small = rag_ft.plan.Device("tiny card", 1, 0.5, 1e12, True)
    monkeypatch.setattr(rag_ft.plan, "visible_device", lambda _: small)
    with pytest.raises(ConfigError, match=r"training needs .* tiny card has 0.5: no setting would fit"):
        plan(config)


@pytest.mark.parametrize("method", ["rslora", "dora", "full"])
def test_every_method_trains_on_a_cpu(prepared: Make, method: str) -> None:
    config, run_dir = prepared(knobs={"method": method, "max_steps": 2, "learning_rate": 1e-3})
    assert train_generator.run(config, run_dir)["num_steps"] == 2
    name = "model.safetensors" if method == "full" else "adapter_model.safetensors"
    assert (run_dir.generator / name).exists()


def _start(config_file: Path, *overrides: str, launcher: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
    """What it says goes to a file: nobody reads a pipe here, and a full one would stop it."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [*(launcher or (sys.executable,)), "-m", "rag_ft.train_generator", str(config_file), *overrides]
    with config_file.with_suffix(".log").open("ab") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log)


def _as_file(config: Config, run_dir: RunDir, path: Path) -> Path:
    """The config as YAML, and done-files of the stages before, so that a process of its own can run the stage."""
    values = config.model_dump(mode="json")
    values.pop("name")
    path.write_text(yaml.safe_dump(values))
    for stage in ("ingest", "index", "generate", "train_retriever"):
        row = {"fingerprint": stage, "config": {}, "inputs": {}, "counts": {}, "seconds": 0}
        run_dir.done(stage).write_text(json.dumps(row))
    return path


def _weights(run_dir: RunDir) -> bytes:
    return (run_dir.generator / "adapter_model.safetensors").read_bytes()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_training_ends_with_the_bytes_of_an_undisturbed_one(prepared: Make, tmp_path: Path) -> None:
    config, run_dir = prepared(knobs={"epochs": 30, "evaluations": 10, "patience": 0})
    config_file = _as_file(config, run_dir, tmp_path / "kill.yaml")
    process = _start(config_file)
    deadline = time.monotonic() + 800
    while not list(run_dir.checkpoints("train_generator").glob("checkpoint-*/complete")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.kill()
    process.wait()
    assert not run_dir.generator.exists()
    assert _start(config_file).wait(800) == 0
    killed = _weights(run_dir), run_dir.training_log("train_generator").read_bytes()
    assert _start(config_file, "--force").wait(800) == 0
    assert killed == (_weights(run_dir), run_dir.training_log("train_generator").read_bytes())


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_processes_train_as_one(prepared: Make, tmp_path: Path) -> None:
    config, run_dir = prepared(knobs={"device_batch_size": 1, "evaluations": 1})
    config_file = _as_file(config, run_dir, tmp_path / "two.yaml")
    assert _start(config_file).wait(800) == 0
    one = [row for row in read_rows(run_dir.training_log("train_generator")) if "loss" in row]
    torchrun = (sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", "29641")
    both = _start(config_file, "--force", launcher=torchrun)
    assert both.wait(800) == 0
    two = [row for row in read_rows(run_dir.training_log("train_generator")) if "loss" in row]
    assert [row["step"] for row in one] == [row["step"] for row in two]
    assert [row["loss"] for row in one] == pytest.approx([row["loss"] for row in two], abs=2e-3)
    assert not run_dir.checkpoints("train_generator").exists()
