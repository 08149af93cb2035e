"""Several processes, one run: who am I, how many are we, and are we as many as were asked for."""

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
LONGEST_WAIT = timedelta(
    days=2
)  # the others wait while the first process scores chunks with the language model


@dataclass(frozen=True)
class Processes:
    """`rank` counts from 0; only rank 0 writes files."""

    rank: int
    count: int

    @property
    def main(self) -> bool:
        return self.rank == 0

    def wait(self) -> None:
        """Returns when every process has come here."""
        from accelerate import PartialState

        PartialState().wait_for_everyone()

    def first(self, work: Callable[[], Result]) -> Result | None:
        """Runs `work` in the first process; the others wait for it and get None.

        It starts when every process has come here, since `work` may replace files that others read.
        """
        release_gpu()  # in all of them: `work` may start a server that wants their memory
        self.wait()
        result = work() if self.main else None
        self.wait()
        return result


def join_processes() -> Processes:
    """Meets the other processes of `accelerate launch` or `torchrun`; alone without a launcher.

    Raises:
        ConfigError: WORLD_SIZE asks for another number of processes than run. (`accelerate launch
            --cpu` sets no such variable and starts one process, whatever number it is given.)
    """
    import torch
    from accelerate import PartialState

    state = PartialState(cpu=not torch.cuda.is_available(), timeout=LONGEST_WAIT)
    asked = int(os.environ.get("WORLD_SIZE", 1))
    if asked != state.num_processes:
        raise ConfigError(
            f"{asked} processes were asked for and {state.num_processes} runs: on CPUs start them "
            "with "
            f"`torchrun --nproc-per-node {asked}` or `accelerate launch --multi_gpu "
            f"--num_processes {asked}`"
        )
    return Processes(state.process_index, state.num_processes)


def leave_processes() -> None:
    """Leaves the process group; call it when all work is done. Otherwise its threads now and then
    abort Python at its end, and the launcher reports a failure."""
    if "torch" in sys.modules:
        from torch import distributed

        if distributed.is_available() and distributed.is_initialized():
            distributed.destroy_process_group()
