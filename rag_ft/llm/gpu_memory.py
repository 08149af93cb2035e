"""What this process and others hold of the GPUs' memory."""

from __future__ import annotations

import gc
import os
import subprocess
import sys

from rag_ft.errors import ConfigError


def release_gpu() -> None:
    """Gives GPU memory that nothing uses any more back to the device: torch keeps it for itself otherwise, and another
    process, such as a server started by this one, finds the device full. Nothing happens where no GPU was used."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        gc.collect()  # a trainer and its model refer to each other
        torch.cuda.empty_cache()


def check_gpu_memory(share: float, num_gpus: int) -> None:
    """Looks at the GPUs this process may use, in the order it sees them.

    Raises:
        ConfigError: there are too few, or other programs hold the memory vLLM would take.
    """
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and "MIG-" in visible:  # nvidia-smi tells the memory of whole GPUs alone
        return
    lines = _free_and_total(visible)
    if len(lines) < num_gpus:
        where = "are here" if visible is None else f"are shown by CUDA_VISIBLE_DEVICES={visible}"
        raise ConfigError(
            f"{num_gpus} GPUs asked for (tensor_parallel x data_parallel), {len(lines)} {where}"
        )
    for number, line in enumerate(lines[:num_gpus]):
        free, total = (float(part) / 1024 for part in line.split(","))
        if free < share * total:
            raise ConfigError(
                f"GPU {number} has {free:.1f} of {total:.1f} GiB free, llm.advanced.gpu_memory_share={share} wants "
                f"{share * total:.1f}: end the other program, or lower it"
            )


def _free_and_total(visible: str | None) -> list[str]:
    """A line "free, total" (MiB) for each GPU; nvidia-smi itself shows all, whatever CUDA_VISIBLE_DEVICES says. One
    call a device, since with several `-i` it answers in its own order."""
    query = ["nvidia-smi", "--query-gpu=memory.free,memory.total", "--format=csv,noheader,nounits"]
    calls = [query] if visible is None else [[*query, "-i", name] for name in _shown(visible)]
    try:
        outputs = [
            subprocess.run(call, capture_output=True, text=True, check=True).stdout
            for call in calls
        ]
    except (OSError, subprocess.CalledProcessError) as error:
        raise ConfigError("this vLLM needs a GPU and nvidia-smi finds none: use llm.backend=transformers, or the CPU "
                          "build (make vllm)") from error  # fmt: skip
    return [line for output in outputs for line in output.splitlines()]


def _shown(visible: str) -> list[str]:
    """Numbers or UUIDs; as for CUDA, the first that is no device (-1, nothing) ends the list."""
    names = [name.strip() for name in visible.split(",")]
    last = next((i for i, name in enumerate(names) if not name or name.startswith("-")), len(names))
    return names[:last]
