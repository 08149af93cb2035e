"""How large a forward pass of a training is."""

from __future__ import annotations

import pytest

from rag_ft.config import TrainGeneratorConfig
from rag_ft.training import memory_estimate
from rag_ft.training.memory_estimate import CPU_PASS_TOKENS, GPU_PASS_TOKENS, largest_pass
from rag_ft.training.model_shape import ModelShape

SMALL = ModelShape(1_000_000, 100_000, 2, 64, 128, 64, 64, 1000, ((64, 64),))
SIZES = (16, 8, 4, 2, 1)


@pytest.mark.parametrize(("threads", "examples"), [(1, 4), (2, 8), (64, 16)])
def test_a_pass_on_a_cpu_grows_with_the_threads(
    threads: int, examples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory_estimate, "num_threads", lambda: threads)
    lengths = (CPU_PASS_TOKENS // 4, 8)
    found = largest_pass(SMALL, TrainGeneratorConfig(), "float32", SIZES, lengths, 64, gpu=False)
    assert found is not None and found[0] == examples


def test_a_pass_on_a_gpu_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_estimate, "num_threads", lambda: 64)
    lengths = (GPU_PASS_TOKENS // 4, 8)
    found = largest_pass(SMALL, TrainGeneratorConfig(), "float32", SIZES, lengths, 640, gpu=True)
    assert found is not None and found[0] == 4
