"""`rag-ft merge`: an adapter and its base as one model."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path

import pytest
from generator_run import Make, prepare

from rag_ft.commands.merge import merge
from rag_ft.errors import ConfigError, DataError
from rag_ft.session import Session
from rag_ft.stages import train_generator
from rag_ft.storage import read_rows


@pytest.fixture
def prepared(make_run: Make) -> Make:
    return functools.partial(prepare, make_run)


def test_the_merged_model_answers_as_base_and_adapter_together(
    prepared: Make, tmp_path: Path
) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    config, run_dir = prepared()
    with pytest.raises(DataError, match="run train_generator first"):
        merge(config, tmp_path / "merged")
    train_generator.run(Session(config, run_dir))
    merged = merge(config, tmp_path / "merged")
    assert (merged / "model.safetensors").exists() and not (merged / "adapter_config.json").exists()
    [row] = read_rows(run_dir.copies)
    assert (row["what"], row["to"]) == ("merge", str(merged))
    ids = AutoTokenizer.from_pretrained(merged)("Where?", return_tensors="pt")
    base = AutoModelForCausalLM.from_pretrained(config.llm.model, dtype=torch.float32)
    tuned = PeftModel.from_pretrained(base, run_dir.generator)
    alone = AutoModelForCausalLM.from_pretrained(merged, dtype=torch.float32)
    assert torch.allclose(alone(**ids).logits, tuned(**ids).logits, atol=1e-4)
    with pytest.raises(ConfigError, match="is there already"):
        merge(config, tmp_path / "merged")


def test_an_adapter_is_merged_into_its_own_base_alone(
    prepared: Make, tmp_path: Path, tiny_lm_dir: Path
) -> None:
    config, run_dir = prepared(settings={"max_steps": 1})
    train_generator.run(Session(config, run_dir))
    copy = shutil.copytree(tiny_lm_dir, tmp_path / "other-lm")
    (copy / "generation_config.json").write_text('{"eos_token_id": 1}')  # not merely a copy
    other, _ = prepared(llm__model=str(copy))
    with pytest.raises(
        ConfigError, match=rf"was trained on {tiny_lm_dir}, and llm.model is {copy}: set llm.model="
    ):
        merge(other, tmp_path / "merged")
    assert not (tmp_path / "merged").exists()
    (tmp_path / "link").symlink_to(tiny_lm_dir)
    same, _ = prepared(llm__model=str(tmp_path / "link"))
    assert merge(same, tmp_path / "merged").is_dir()


@pytest.mark.parametrize("method", ["lora", "full"])
def test_a_base_with_sampling_values_and_without_sampling_is_trained_and_merged(
    prepared: Make, tmp_path: Path, tiny_lm_dir: Path, method: str
) -> None:
    base = shutil.copytree(tiny_lm_dir, tmp_path / "base")
    settings = {
        "do_sample": False,
        "temperature": 0.6,
        "top_p": 0.9,
        "top_k": 20,
        "eos_token_id": 2,
    }
    (base / "generation_config.json").write_text(json.dumps(settings))
    config, run_dir = prepared(settings={"max_steps": 1, "method": method}, llm__model=str(base))
    train_generator.run(Session(config, run_dir))
    written = json.loads(
        (merge(config, tmp_path / "merged") / "generation_config.json").read_text()
    )
    assert written["eos_token_id"] == 2 and "temperature" not in written
