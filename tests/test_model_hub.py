"""What the weight files of a model folder tell before they are loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from rag_ft.errors import ConfigError
from rag_ft.llm import transformers_backend
from rag_ft.llm.transformers_backend import check_memory, load_causal_lm
from rag_ft.model_hub import weights_gb

GIB = 2**30


def save(path: Path, num: int, dtype: torch.dtype) -> None:
    save_file({f"w{num}": torch.zeros(num, dtype=dtype)}, path, {"format": "pt"})


@pytest.mark.parametrize(
    ("stored", "wanted", "num_bytes"),
    [
        (torch.float32, "float32", 4),
        (torch.float32, "bfloat16", 2),
        (torch.bfloat16, "float32", 4),
        (torch.float16, "bfloat16", 2),
        (torch.int8, "float32", 1),
    ],
)
def test_weights_are_counted_as_they_are_computed(
    tmp_path: Path, stored: torch.dtype, wanted: str, num_bytes: int
) -> None:
    save(tmp_path / "model.safetensors", 1000, stored)
    assert weights_gb(tmp_path, wanted) * GIB == 1000 * num_bytes


def test_only_the_files_that_are_loaded_count(tmp_path: Path) -> None:
    for name, num in (("consolidated", 5000), ("model-1", 100), ("model-2", 200)):
        save(tmp_path / f"{name}.safetensors", num, torch.float32)
    assert weights_gb(tmp_path, "float32") == 0
    index = {"weight_map": {"a": "model-1.safetensors", "b": "model-1.safetensors", "c": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert weights_gb(tmp_path, "float32") * GIB == 1200
    (tmp_path / "model-2.safetensors").unlink()
    with pytest.raises(ConfigError, match=r"cannot read the weights .*model-2\.safetensors.*download the model again"):
        weights_gb(tmp_path, "float32")


@pytest.mark.parametrize("kept", [0, 4, 30, -1])
def test_weights_that_were_copied_by_half_are_refused(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "model.safetensors"
    save(path, 1000, torch.float32)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(ConfigError, match=r"model\.safetensors.*copy or download the model again"):
        check_memory(tmp_path, "float32", "cpu")


def test_what_cannot_be_loaded_is_an_error_in_one_line(tiny_lm_dir: Path, tmp_path: Path) -> None:
    for file in tiny_lm_dir.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(ConfigError, match="does not load as a causal language model"):
        load_causal_lm(tmp_path, "float32", "cpu")


def test_weights_that_do_not_fit_are_refused(tmp_path: Path, monkeypatch: Any) -> None:
    save(tmp_path / "model.safetensors", 1000, torch.float32)
    monkeypatch.setattr(transformers_backend, "free_memory_gb", lambda device: 3999 / GIB)
    check_memory(tmp_path, "bfloat16", "cpu")
    with pytest.raises(ConfigError, match="use a smaller or quantised model"):
        check_memory(tmp_path, "float32", "cpu")
