"""Devices, their memory and the one rule for the type that a model is computed in."""

from __future__ import annotations

from typing import Any

import psutil
import pytest
import torch

from rag_ft import hardware
from rag_ft.hardware import choose_device, choose_dtype, free_memory_gb, total_memory_gb


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize("device", ["cpu", "cuda", "cuda:1"])
def test_auto_is_bfloat16_exactly_where_the_device_computes_it_natively(
    monkeypatch: pytest.MonkeyPatch, device: str, native: bool
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        torch.cuda,
        "is_bf16_supported",
        lambda including_emulation: asked.append(including_emulation) or native,
    )
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.setattr(torch.cpu, name, lambda: native, raising=False)
    assert choose_dtype("auto", device) == ("bfloat16" if native else "float32")
    assert asked == ([] if device == "cpu" else [False])
    for wanted in ("float32", "bfloat16"):
        assert choose_dtype(wanted, device) == wanted


def test_a_pytorch_without_the_private_checks_computes_float32(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        monkeypatch.delattr(torch.cpu, name, raising=False)
    assert choose_dtype("auto", "cpu") == "float32"


@pytest.mark.parametrize(("cuda", "mps", "device"), [(1, 1, "cuda"), (0, 1, "mps"), (0, 0, "cpu")])
def test_the_device_is_a_gpu_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, cuda: int, mps: int, device: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(cuda))
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: bool(mps))
    assert choose_device() == device
    assert choose_dtype("auto", "mps") == "float32"


def test_memory_is_that_of_the_machine_without_a_gpu_of_its_own() -> None:
    total = psutil.virtual_memory().total / 2**30
    assert total_memory_gb("cpu") == total_memory_gb("mps") == total
    assert 0 < free_memory_gb("cpu") < total
    assert hardware.GIB == 2**30
