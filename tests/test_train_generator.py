"""The stage train_generator: what it writes, what it measures, and what stops it."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from generator_run import NAMES, TOWNS, Make, documents, leak_a_test_document, prepare

from rag_ft.commands.ask import ask
from rag_ft.commands.merge import merge
from rag_ft.errors import DataError
from rag_ft.pipeline import run_stage
from rag_ft.schema import QAPair
from rag_ft.session import Session
from rag_ft.stage_table import NAMES as STAGE_NAMES
from rag_ft.stages import train_generator
from rag_ft.storage import read_jsonl, read_rows, write_jsonl


@pytest.fixture
def prepared(make_run: Make) -> Make:
    return functools.partial(prepare, make_run)


def test_training_lowers_the_loss_and_leaves_an_adapter_that_changes_the_model(
    prepared: Make,
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config, run_dir = prepared(settings={"epochs": 15, "replay_share": 0.2})
    counts = train_generator.run(Session(config, run_dir))
    losses = [
        row["loss"] for row in read_rows(run_dir.training_log("train_generator")) if "loss" in row
    ]
    assert sum(losses[-3:]) < 0.98 * sum(losses[:3])
    assert (counts["num_train_pairs"], counts["num_answer"], counts["num_abstain"]) == (
        14,
        15 * 7,
        15 * 2,
    )
    assert counts["num_supervised_tokens"] < counts["num_tokens"] / 4
    assert counts["plain_text_loss_base"] > 0 and counts["plain_text_loss_tuned"] > 0
    assert not run_dir.checkpoints("train_generator").exists()
    names = {path.name for path in run_dir.generator.iterdir()}
    assert {
        "adapter_config.json",
        "adapter_model.safetensors",
        "README.md",
        "tokenizer.json",
    } <= names
    assert not any(name.endswith((".bin", ".pt", ".pkl")) for name in names)
    settings = json.loads((run_dir.generator / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == config.llm.model
    card = (run_dir.generator / "README.md").read_text()
    assert "## Limits" in card and config.llm.model in card and "None" not in card
    ids = AutoTokenizer.from_pretrained(run_dir.generator)(
        "Where does Ada live?", return_tensors="pt"
    )
    base = AutoModelForCausalLM.from_pretrained(config.llm.model, dtype=torch.float32)
    before = base(**ids).logits
    assert not torch.allclose(
        PeftModel.from_pretrained(base, run_dir.generator)(**ids).logits, before, atol=1e-3
    )


def test_a_run_without_train_pairs_says_what_to_do(prepared: Make) -> None:
    config, run_dir = prepared()
    write_jsonl(run_dir.qa, [p for p in read_jsonl(run_dir.qa, QAPair) if p.split == "test"])
    with pytest.raises(
        DataError, match=r"lower ingest.test_share, add .*train_generator\.enabled=false"
    ):
        train_generator.run(Session(config, run_dir))


def test_a_pair_of_a_test_document_stops_the_training(prepared: Make) -> None:
    config, run_dir = prepared()
    leak_a_test_document(run_dir)
    with pytest.raises(DataError, match="leak"):
        train_generator.run(Session(config, run_dir))
    assert not run_dir.generator.exists()


def test_a_disabled_training_says_so_and_does_nothing(prepared: Make) -> None:
    config, run_dir = prepared(settings={"enabled": False})
    assert train_generator.run(Session(config, run_dir)) == {
        "trained": 0,
        "reason": "train_generator.enabled is false",
    }
    assert not run_dir.generator.exists()


@pytest.mark.slow
def test_a_run_with_all_weights_tuned_is_evaluated_asked_and_merged_as_a_model_of_its_own(
    make_run: Make, tmp_path: Path
) -> None:
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    questions = [
        {
            "id": f"q{n}",
            "question": f"Where does {name} live?",
            "answers": [town],
            "document_id": f"d{n}",
        }
        for n, (name, town) in enumerate(zip(NAMES, TOWNS, strict=True))
    ]
    write_jsonl(tmp_path / "questions.jsonl", questions)
    config, run_dir = make_run(
        documents(),
        generate__pairs_per_chunk=0,
        generate__questions=[tmp_path / "questions.jsonl"],
        train_retriever__enabled=False,
        train_generator__method="full",
        train_generator__advanced__max_steps=4,
        evaluate__advanced__num_resamples=100,
        evaluate__advanced__max_tokens=8,
    )
    done = {name: run_stage(name, config)["counts"] for name in STAGE_NAMES}
    assert done["evaluate"]["generator_tuned"] == 1 and run_dir.report_html.exists()
    systems = json.loads(run_dir.metrics.read_text())["systems"]
    assert "f1" in systems["closed_book"] and "f1" in systems["closed_book_tuned"]
    trained = done["train_generator"]
    assert trained["plain_text_loss_base"] != trained["plain_text_loss_tuned"]
    names = {path.name for path in run_dir.generator.iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json"} <= names
    assert not any(name.endswith((".bin", ".pt", ".pkl")) for name in names)
    base, tuned = (
        load_file(Path(f) / "model.safetensors") for f in (config.llm.model, run_dir.generator)
    )
    assert {n: t.dtype for n, t in base.items()} == {n: t.dtype for n, t in tuned.items()}
    assert any(not torch.equal(base[name], tuned[name]) for name in base)
    assert "is a whole model" in (run_dir.generator / "README.md").read_text()
    assert "[1] d" in ask(config, "Where does Ada live?")
    AutoModelForCausalLM.from_pretrained(merge(config, tmp_path / "merged"))


def test_trackers_are_off_by_default_and_never_get_the_environment(
    prepared: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import TrainerCallback
    from transformers.integrations import integration_utils

    told: list[str] = []

    class Tracker(TrainerCallback):
        """Takes what transformers' own trackers take."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **rest: Any) -> None:
            told.extend(
                [
                    args.to_json_string(),
                    str(args.to_sanitized_dict()),
                    rest["model"].config.to_json_string(),
                ]
            )

        def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **_: Any) -> None:
            told.append(str(logs))

    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "tensorboard", Tracker)
    monkeypatch.setattr("rag_ft.training.generator.lora.find_spec", lambda name: name)
    monkeypatch.setenv("SOME_SECRET", "hunter2-of-the-mill")
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", "elsewhere")
    config, run_dir = prepared(settings={"max_steps": 1})
    train_generator.run(Session(config, run_dir))
    assert not told
    config, run_dir = prepared(settings={"max_steps": 1, "report_to": ["tensorboard"]})
    train_generator.run(Session(config, run_dir))
    assert len(told) > 3 and "learning_rate" in told[0]
    assert not any("hunter2" in text or "SOME_SECRET" in text for text in told)


def test_float32_weights_on_a_gpu_are_asked_in_the_precision_of_their_training(
    prepared: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from rag_ft.training.generator import dev_f1 as questions
    from rag_ft.training.generator.dataset import TrainingSet

    config, in_float32 = prepared(run__dtype="bfloat16")[0], prepared(run__dtype="float32")[0]

    def bfloat16() -> float:
        return float(torch.is_autocast_enabled("cuda"))

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda **_: True)
    monkeypatch.setattr(questions, "plain_text_loss", lambda *_: bfloat16())
    monkeypatch.setattr(questions, "mean_f1", lambda *_: bfloat16())
    monkeypatch.setattr(train_generator, "longest_answer", lambda _: 1)
    asked = [questions.DevQuestion("q", None, (), 0, ())]
    data = TrainingSet([], [], [], [], asked, [], [], [])

    def probed(device: str, dtype: torch.dtype, asked: Any = config) -> set[Any]:
        model = SimpleNamespace(device=torch.device(device), dtype=dtype)
        return set(train_generator.side_effects(model, None, data, asked.llm, "base").values())

    assert probed("cuda", torch.float32) == {1.0}
    assert probed("cuda", torch.bfloat16) == probed("cpu", torch.float32) == {0.0}
    assert probed("cuda", torch.float32, in_float32) == {0.0}
