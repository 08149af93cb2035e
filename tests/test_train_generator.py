"""The generator's training: what moves, what is refused, and that a killed run ends as an undisturbed one."""

from __future__ import annotations

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import pytest
from generator_run import Make, prepare

from rag_ft import train_generator
from rag_ft.errors import ConfigError, DataError
from rag_ft.merge import merge
from rag_ft.plan import plan
from rag_ft.records import QAPair, read_jsonl, read_rows, write_jsonl
from rag_ft.training.training_set import select_pairs


@pytest.fixture
def prepared(make_run: Make) -> Make:
    return functools.partial(prepare, make_run)


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
