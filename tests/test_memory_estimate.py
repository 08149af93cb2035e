"""How large a forward pass of a training is."""

from __future__ import annotations

import pytest

from rag_ft.config import TrainGeneratorConfig
from rag_ft.training.memory_estimate import CPU_PASS_TOKENS, GPU_PASS_TOKENS, largest_pass
from rag_ft.training.model_shape import ModelShape

SMALL = ModelShape(1_000_000, 100_000, 2, 64, 128, 64, 64, 1000, ((64, 64),))
SIZES = (16, 8, 4, 2, 1)


@pytest.mark.parametrize(("threads", "examples"), [(1, 4), (2, 8), (64, 16)])
def test_a_pass_on_a_cpu_grows_with_the_threads(threads: int, examples: int) -> None:
    lengths = (CPU_PASS_TOKENS // 4, 8)
    settings = TrainGeneratorConfig()
    found = largest_pass(SMALL, settings, "float32", SIZES, lengths, 64, False, threads)
    assert found is not None and found[0] == examples


def test_a_pass_on_a_gpu_does_not() -> None:
    lengths = (GPU_PASS_TOKENS // 4, 8)
    settings = TrainGeneratorConfig()
    found = largest_pass(SMALL, settings, "float32", SIZES, lengths, 640, True, threads=64)
    assert found is not None and found[0] == 4
