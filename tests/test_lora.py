"""What is trained: preconditions, methods, and the attention of the base model."""

from __future__ import annotations

import functools
from typing import Any

import pytest
from generator_run import Make, prepare

from rag_ft.errors import ConfigError
from rag_ft.session import Session
from rag_ft.stages import train_generator


@pytest.fixture
def prepared(make_run: Make) -> Make:
    return functools.partial(prepare, make_run)


def test_what_cannot_be_trained_is_refused_before_any_work_with_a_remedy(
    prepared: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(match: str, settings: dict[str, Any] | None = None, **overrides: Any) -> None:
        config, run_dir = prepared(settings=settings or {}, **overrides)
        with pytest.raises(ConfigError, match=match) as error:
            train_generator.run(Session(config, run_dir))
        assert "\n" not in str(error.value) and not run_dir.generator.exists()

    import torch

    if not torch.cuda.is_available():
        refused("needs a CUDA GPU", {"method": "qlora"})
    refused("vLLM does not serve DoRA", {"method": "dora"}, llm__backend="vllm")
    refused("folds=1 leaves nothing to train on", {"folds": 1})
    refused(
        "report_to=mlflow, which is not installed: pip install mlflow", {"report_to": ["mlflow"]}
    )
    refused("cannot be trained", llm__backend="openai", llm__base_url="http://localhost:1/v1")
    refused("no multiple of device_batch_size=3", {"device_batch_size": 3})
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 8)
    refused("8 GPUs are visible and one process was started: use `accelerate launch")


@pytest.mark.parametrize("method", ["rslora", "dora", "full"])
def test_every_method_trains_on_a_cpu(prepared: Make, method: str) -> None:
    config, run_dir = prepared(settings={"method": method, "max_steps": 2, "learning_rate": 1e-3})
    assert train_generator.run(Session(config, run_dir))["num_steps"] == 2
    name = "model.safetensors" if method == "full" else "adapter_model.safetensors"
    assert (run_dir.generator / name).exists()


def test_flash_attention_is_chosen_where_it_can_compute(
    prepared: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    from rag_ft.training.generator import lora as adapters

    configs = {dtype: prepared(run__dtype=dtype)[0] for dtype in ("bfloat16", "float32")}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(adapters, "find_spec", lambda _: object())
    chosen = {
        dtype: adapters.attention(config.train_generator.advanced.packing, config.llm.dtype)
        for dtype, config in configs.items()
    }
    assert chosen == {"bfloat16": "flash_attention_2", "float32": ""}
