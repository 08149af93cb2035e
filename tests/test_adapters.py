"""An adapter that does not fit, lacks weights or is of another kind is one line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from peft import LoraConfig, PromptTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_models import edit_json, make_model

from rag_ft.config import TrainGeneratorConfig
from rag_ft.errors import ConfigError
from rag_ft.llm.adapters import open_adapters
from rag_ft.llm.causal_lm import load_causal_lm
from rag_ft.training.generator.lora import start_adapter
from rag_ft.training.generator.merging import merged_model


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model("llama", tmp_path_factory.mktemp("llama") / "model")


def adapter(llama: Path, folder: Path, config: Any = None) -> Path:
    config = config or LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear")
    get_peft_model(load_causal_lm(llama, "float32", "cpu"), config).save_pretrained(folder)
    return folder


def lose_a_layer(folder: Path) -> None:
    weights = load_file(folder / "adapter_model.safetensors")
    kept = {name: weight for name, weight in weights.items() if "layers.1.mlp.up" not in name}
    save_file(kept, folder / "adapter_model.safetensors", metadata={"format": "pt"})


def refused(llama: Path, folder: Path, match: str) -> None:
    model = load_causal_lm(llama, "float32", "cpu")
    with pytest.raises(ConfigError, match=match) as error:
        open_adapters(model, {"tuned": folder})
    assert "\n" not in str(error.value)


def test_a_whole_adapter_is_opened_and_one_without_a_layer_is_refused(
    llama: Path, tmp_path: Path
) -> None:
    folder = adapter(llama, tmp_path / "adapter")
    model = load_causal_lm(llama, "float32", "cpu")
    assert list(open_adapters(model, {"tuned": folder}).peft_config) == ["tuned"]
    lose_a_layer(folder)
    refused(llama, folder, r"lack 2 of its weights .*layers\.1\.mlp\.up_proj.* copy or download")


def test_an_adapter_without_a_layer_is_neither_merged_nor_trained_on(
    llama: Path, tmp_path: Path
) -> None:
    folder = adapter(llama, tmp_path / "adapter")
    lora = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear")
    model = get_peft_model(load_causal_lm(llama, "float32", "cpu"), lora)
    start = TrainGeneratorConfig.model_validate({"advanced": {"start": folder}})
    start_adapter(model, start)
    merged_model(str(llama), folder)
    lose_a_layer(folder)
    with pytest.raises(ConfigError, match=r"start: .* does not fit \(.*layers\.1\.mlp\.up_proj"):
        start_adapter(model, start)
    with pytest.raises(ConfigError, match=r"lack 2 of its weights"):
        merged_model(str(llama), folder)


def test_an_adapter_of_another_shape_or_kind_is_refused(llama: Path, tmp_path: Path) -> None:
    folder = adapter(llama, tmp_path / "adapter")
    edit_json(folder / "adapter_config.json", r=8)
    refused(llama, folder, "does not fit llm.model .*size mismatch.* use an adapter")
    edit_json(folder / "adapter_config.json", r=4, peft_type="NEW")
    refused(llama, folder, r"does not fit llm.model \('NEW'\): use an adapter")
    prompts = PromptTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=2)
    learned = adapter(llama, tmp_path / "learned", prompts)
    refused(llama, learned, r"learned tokens .*\(PROMPT_TUNING\).* use a LoRA adapter")
