"""Several processes train together: their ranks, waiting for each other, work of the first one,
and whether the launcher shards the model."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeVar

from rag_ft.errors import ConfigError
from rag_ft.hardware import release_gpu

logger = logging.getLogger(__name__)
Result = TypeVar("Result")

# The others wait while the first process scores chunks with the language model.
LONGEST_WAIT = timedelta(days=2)


@dataclass(frozen=True)
class Processes:
    """`rank` counts from 0 to `count` - 1; only rank 0 writes files."""

    rank: int
    count: int

    @property
    def main(self) -> bool:
        """Whether this is the process that writes files."""
        return self.rank == 0

    def wait(self) -> None:
        """Returns when every process has called it."""
        from accelerate import PartialState

        PartialState().wait_for_everyone()

    def first(self, work: Callable[[], Result]) -> Result | None:
        """Runs `work` in the first process; the others wait for it and get None.

        It starts when every process has called it, because `work` may replace files that others
        read.
        """
        # In all processes: `work` may start a server that needs their GPU memory.
        release_gpu()
        self.wait()
        result = work() if self.main else None
        self.wait()
        return result


def join_processes() -> Processes:
    """Connects the processes of `accelerate launch` or `torchrun`; without a launcher there is one.

    Raises:
        ConfigError: the launcher started fewer processes than it was configured for.
    """
    import torch
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available(), timeout=LONGEST_WAIT)
    # `accelerate launch --cpu` does not set WORLD_SIZE: it starts one process, whatever number it
    # is given, and this check cannot see that.
    asked = int(os.environ.get("WORLD_SIZE", 1))
    if asked != state.num_processes:
        raise ConfigError(
            f"{asked} processes were asked for and {state.num_processes} runs: on CPUs start them "
            f"with `torchrun --nproc-per-node {asked}` or `accelerate launch --multi_gpu "
            f"--num_processes {asked}`"
        )
    return Processes(state.process_index, state.num_processes)


def sharded() -> bool:
    """Whether the launcher spreads the weights over processes (FSDP): no process then holds a whole
    model."""
    return os.environ.get("ACCELERATE_USE_FSDP") == "true"


def refuse_sharding(stage: str, model: str) -> None:
    """Raises a ConfigError where the launcher shards the small `model` that `stage` trains."""
    if sharded():
        raise ConfigError(
            f"with FSDP no process holds the whole {model}, which is small: launch {stage} with "
            "configs/accelerate/ddp.yaml (the generator may be trained with FSDP)"
        )


def leave_processes() -> None:
    """Destroys the process group; call it when all work is done.

    If the group is still alive when the interpreter exits, its threads sometimes abort the process
    and the launcher reports a failure.
    """
    if "torch" in sys.modules:
        from torch import distributed

        if distributed.is_available() and distributed.is_initialized():
            distributed.destroy_process_group()
