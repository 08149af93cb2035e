"""Devices, their memory and the one rule for the type that a model is computed in."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

import rag_ft
from rag_ft import hardware
from rag_ft.errors import ConfigError
from rag_ft.hardware import (
    check_gpu_memory,
    check_memory,
    choose_device,
    choose_dtype,
    free_memory_gb,
    peak_memory_gb,
    total_memory_gb,
)


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


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux only")
def test_the_peak_of_a_child_is_not_that_of_its_parent() -> None:
    large = bytearray(600 * 2**20)
    code = "from rag_ft.hardware import peak_memory_gb; print(peak_memory_gb())"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0 < float(found.stdout) < 0.5 < len(large) / 2**30 < peak_memory_gb()


def test_gpu_memory_that_others_hold_is_told(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho '20480, 81920'\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(
        ConfigError,
        match=r"GPU 0 has 20.0 of 80.0 GiB free, llm.advanced.gpu_memory_share=0.9 wants 72.0",
    ):
        check_gpu_memory(0.9, 1)
    with pytest.raises(ConfigError, match="2 GPUs asked for"):
        check_gpu_memory(0.1, 2)


def test_only_the_gpus_this_process_may_use_are_looked_at(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    tool = tmp_path / "nvidia-smi"  # GPU 0 is full, 1 (also GPU-b) is free
    tool.write_text(
        '#!/bin/sh\ncase "$*" in *"-i 1"|*"-i GPU-b") ;; *) echo "0, 81920";; esac\n'
        'case "$*" in *"-i 0") ;; *) echo "81000, 81920";; esac\n'
    )
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with pytest.raises(ConfigError, match=r"GPU 0 has 0\.0"):
        check_gpu_memory(0.9, 1)
    for visible in ("1", "GPU-b", "1,0", "1,-1,0"):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        check_gpu_memory(0.9, 1)
    with pytest.raises(
        ConfigError, match=r"2 GPUs asked for .*, 1 are shown by CUDA_VISIBLE_DEVICES=1,-1,0"
    ):
        check_gpu_memory(0.9, 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "MIG-1")
    check_gpu_memory(0.9, 1)  # of a part of a GPU nvidia-smi does not tell
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    with pytest.raises(ConfigError, match=r"1 GPUs asked for .*, 0 are shown"):
        check_gpu_memory(0.9, 1)


def test_short_memory_is_a_line_that_names_what_needs_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(hardware, "CGROUP", tmp_path)
    check_memory("the index", 2**20)
    with pytest.raises(
        ConfigError, match=r"^out of memory: the index needs \d+ MB more memory than"
    ):
        check_memory("the index", 2**60)
    # A container's limit; the cache of files does not count.
    for name, content in {"max": 2**30, "current": 2**30 - 5, "stat": "anon 5"}.items():
        (tmp_path / f"memory.{name}").write_text(f"{content}\n")
    with pytest.raises(ConfigError, match="the index needs 10 MB more memory of the container"):
        check_memory("the index", 10 * 2**20)
    (tmp_path / "memory.stat").write_text(f"anon 5\ninactive_file {20 * 2**20}\n")
    check_memory("the index", 10 * 2**20)


def test_a_limit_of_address_space_counts_mapped_files(
    tmp_path: Path,
) -> None:
    program = (
        "import resource, psutil\n"
        "from rag_ft.errors import ConfigError\n"
        "from rag_ft.hardware import check_memory\n"
        "used = psutil.Process().memory_info().vms\n"
        "resource.setrlimit(resource.RLIMIT_AS, (used + 300 * 2**20,) * 2)\n"
        "check_memory('a.faiss', 2**20, 2**20)\n"
        "try:\n    check_memory('a.faiss', 0, 390 * 2**20)\n"
        "except ConfigError as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert re.match(r"out of memory: a.faiss needs \d\d MB more memory within `ulimit", done.stdout)


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ({}, ("PASSIVE", "10000")),
        ({"GOMP_SPINCOUNT": "7"}, ("PASSIVE", "7")),
        ({"OMP_WAIT_POLICY": "PASSIVE"}, ("PASSIVE", None)),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, ("ACTIVE", None)),
    ],
)
def test_openmp_threads_sleep_soon_while_they_wait(
    given: dict[str, str], used: tuple[str, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):
        monkeypatch.setenv(name, "")  # restored afterwards, also where the module sets it
        monkeypatch.delenv(name)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    importlib.reload(rag_ft)
    assert (os.environ["OMP_WAIT_POLICY"], os.environ.get("GOMP_SPINCOUNT")) == used
