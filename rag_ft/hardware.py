"""The devices of this machine: which one computes, in which floating-point type, and its memory."""

from __future__ import annotations

import contextlib
import gc
import itertools
import os
import platform
import re
import resource
import subprocess
import sys
from pathlib import Path

import psutil

from rag_ft.errors import ConfigError

GIB = 2**30
CGROUP = Path("/sys/fs/cgroup")
# Processor flags that stand for what `native_bfloat16` asks torch, where torch is not loaded.
CPU_BFLOAT16_FLAGS = {"avx512_bf16", "amx_tile"}
# Batches are padded to multiples of so many tokens where each new width takes memory.
WIDTH_STEP = 32


def processor() -> tuple[str, set[str]]:
    """The processor's name and its feature flags, as the system reports them."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:  # macOS has no /proc
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        try:
            found = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        except (OSError, subprocess.CalledProcessError):
            found = ""
        return found.strip() or platform.processor() or platform.machine(), set()
    # The file has a block for each core; the last one stands for all.
    fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
    fields = {key.strip(): value.strip() for key, value in fields.items()}
    flags = set(fields.get("flags", fields.get("Features", "")).split())
    return fields.get("model name", platform.machine()), flags


def choose_device() -> str:
    """ "cuda", "mps" (Apple) or "cpu": the first that this machine has."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def has_fp8() -> bool:
    """Whether the first GPU multiplies 8-bit floating point in hardware (Ada, Hopper and newer)."""
    import torch

    return torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 9)


def native_bfloat16(device: str) -> bool:
    """Whether `device` ("cuda", "mps", "cpu") multiplies bfloat16 in hardware.

    Where bfloat16 is emulated, it is slower than float32. All GPUs of a machine count as alike.
    False on Apple's GPUs: the first generation emulates it.
    """
    import torch

    if device.startswith("cuda"):
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    # These checks are private to PyTorch, so a later one may lack them. The public way,
    # get_capabilities, is newer than PyTorch 2.9.
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return device == "cpu" and any(getattr(torch.cpu, name, lambda: False)() for name in checks)


def choose_dtype(wanted: str, device: str) -> str:
    """The floating-point type to compute in: `wanted`, unless it is "auto".

    "auto" is "bfloat16" where `device` computes it natively, else "float32".
    """
    if wanted != "auto":
        return wanted
    return "bfloat16" if native_bfloat16(device) else "float32"


def padded_width(longest: int, step: int = WIDTH_STEP) -> int:
    """The next multiple of `step` tokens. Where oneDNN multiplies, it makes kernels for each new
    width of a batch and keeps them: 1 MB for each question of a new length (see LOG.md)."""
    return -(-longest // step) * step


def trains_in_bfloat16(dtype: str) -> bool:
    """Whether matrix products of a training run in bfloat16: where the device computes it natively,
    unless `dtype` (run.dtype) says float32."""
    import torch

    return choose_dtype(dtype, "cuda" if torch.cuda.is_available() else "cpu") == "bfloat16"


def free_memory_gb(device: str) -> float:
    """GiB that `device` has free now; an Apple GPU shares the memory of the machine."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.mem_get_info(device)[0] / GIB
    return psutil.virtual_memory().available / GIB


def check_memory(what: str, needed: int, mapped: int = 0) -> None:
    """Checks that this process can allocate `needed` bytes, and map `mapped` bytes of files: for
    libraries that end the process where memory is short, instead of raising an error.

    Raises:
        ConfigError: it cannot; the line names `what` needs them.
    """
    left = {"memory": psutil.virtual_memory().available - needed}
    # The limit of a container, which counts the cache of files; that is given back.
    with contextlib.suppress(OSError, ValueError):
        limit = int((CGROUP / "memory.max").read_text(encoding="ascii"))
        used = int((CGROUP / "memory.current").read_text(encoding="ascii"))
        lines = (CGROUP / "memory.stat").read_text(encoding="ascii").splitlines()
        cached = sum(int(line.split()[1]) for line in lines if line.startswith("inactive_file "))
        left["memory of the container"] = limit - (used - cached) - needed
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY:
        used = psutil.Process().memory_info().vms
        left["memory within `ulimit -v`"] = limit - used - needed - mapped
    name = min(left, key=left.__getitem__)
    if left[name] < 0:
        raise ConfigError(
            f"out of memory: {what} needs {-left[name] / 2**20:.0f} MB more {name} than is free: "
            "end other programs or raise the limit; run the same command again to continue"
        )


def total_memory_gb(device: str) -> float:
    """GiB of `device` ("cuda" is the current GPU), whether free or not."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_properties(device).total_memory / GIB
    return psutil.virtual_memory().total / GIB


def release_gpu() -> None:
    """Returns unused GPU memory to the device, for another process such as our server.

    Does nothing where this process has used no GPU.
    """
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        gc.collect()  # a trainer and its model refer to each other
        torch.cuda.empty_cache()
    if torch is not None and torch.backends.mps.is_available():
        torch.mps.empty_cache()


def check_gpu_memory(share: float, num_gpus: int) -> None:
    """Checks the first `num_gpus` GPUs that this process may use.

    Raises:
        ConfigError: there are fewer, or other programs hold memory that vLLM would take (`share` of
            each GPU, 0-1).
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    # nvidia-smi lists whole GPUs only, not the parts of one that MIG divides.
    if visible is not None and "MIG-" in visible:
        return
    query = ["nvidia-smi", "--query-gpu=memory.free,memory.total", "--format=csv,noheader,nounits"]
    calls = [query]
    if visible is not None:
        # nvidia-smi ignores CUDA_VISIBLE_DEVICES, and answers several -i in its own order: one call
        # each. As for CUDA, the first entry that is no device (-1, empty) ends the list.
        names = [name.strip() for name in visible.split(",")]
        devices = itertools.takewhile(lambda name: name and not name.startswith("-"), names)
        calls = [[*query, "-i", name] for name in devices]
    lines: list[str] = []
    try:
        for call in calls:
            found = subprocess.run(call, capture_output=True, text=True, check=True)
            lines += found.stdout.splitlines()
    except (OSError, subprocess.CalledProcessError) as error:
        raise ConfigError(
            "this vLLM needs a GPU and nvidia-smi finds none: use llm.backend=transformers, or the "
            "CPU build (make vllm)"
        ) from error

    if len(lines) < num_gpus:
        where = "are here" if visible is None else f"are shown by CUDA_VISIBLE_DEVICES={visible}"
        raise ConfigError(
            f"{num_gpus} GPUs asked for (tensor_parallel x data_parallel), {len(lines)} {where}: "
            "lower llm.advanced.tensor_parallel or data_parallel"
        )
    for number, line in enumerate(lines[:num_gpus]):
        free, total = (float(mib) / 1024 for mib in line.split(","))
        if free < share * total:
            raise ConfigError(
                f"GPU {number} has {free:.1f} of {total:.1f} GiB free, "
                f"llm.advanced.gpu_memory_share={share} wants {share * total:.1f}: end the other "
                "program, or lower the setting"
            )


def num_cores() -> int:
    """The logical cores that this process may use; all of the machine where the system, such as
    macOS, does not say."""
    usable = getattr(os, "sched_getaffinity", None)
    return len(usable(0)) if usable else os.cpu_count() or 1


def num_threads() -> int:
    """The number of threads to compute with: OMP_NUM_THREADS where it is set, else the cores that
    this process may use. Two hyperthreads count as one core.

    Sums depend on it in their last digits, so a stage that continues uses the number it began with.
    """
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    if asked.isdigit() and int(asked):
        return int(asked)
    if not hasattr(os, "sched_getaffinity"):
        return num_cores()
    cores = set()
    for cpu in os.sched_getaffinity(0):
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        cores.add(siblings.read_text() if siblings.exists() else str(cpu))
    return len(cores)


def peak_memory_gb() -> float:
    """Highest resident memory of this process so far, in GiB. A stage that runs after others in the
    same process reports at least theirs."""
    # On Linux ru_maxrss of a new process begins at the peak of its parent; VmHWM is its own.
    status = Path("/proc/self/status")
    if status.exists() and (found := re.search(r"VmHWM:\s+(\d+) kB", status.read_text())):
        return round(int(found[1]) / 2**20, 2)
    unit = GIB if sys.platform == "darwin" else 2**20  # macOS counts bytes, others KiB
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 2)


def peak_gpu_memory() -> dict[str, float]:
    """{"peak_gpu_memory_gb": the most memory, in GiB, that PyTorch held of one GPU in this
    process}; {} without a GPU. The memory of a vLLM server is not included."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return {}
    held = [torch.cuda.max_memory_reserved(device) for device in range(torch.cuda.device_count())]
    return {"peak_gpu_memory_gb": round(max(held) / GIB, 2)}
