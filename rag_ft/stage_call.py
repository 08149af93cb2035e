"""The work of a stage, which is called in this process or in each of several on a Ray cluster."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from rag_ft.config import EngineConfig
from rag_ft.evaluation.components import COMPONENTS
from rag_ft.hardware import num_threads, peak_gpu_memory, peak_memory_gb
from rag_ft.stage_table import Stage

if TYPE_CHECKING:
    from rag_ft.session import Session

Numbers = dict[str, Any]
TRAININGS = {component.stage for component in COMPONENTS.values()}


@dataclass(frozen=True)
class StageCall:
    """`function` of the module of a stage, with what it takes."""

    stage: Stage
    session: Session
    function: str
    options: Mapping[str, Any]

    @property
    def on_ray(self) -> bool:
        """Whether workers of Ray Train do it. Processes that another launcher has started train
        themselves."""
        config, launched = self.session.config, "WORLD_SIZE" in os.environ
        if launched or self.stage.name not in TRAININGS:
            return False
        return config.engine.trains_on_ray and getattr(config, self.stage.name).enabled

    @property
    def num_threads(self) -> int:
        """With how many threads a process computes, unless it goes on with another number."""
        cpus = self.session.config.engine.advanced.cpus_per_worker
        return max(1, int(cpus)) if self.on_ray else num_threads()

    def run(self, threads: int) -> tuple[Numbers, Numbers]:
        """Does the work, with so many threads a process.

        Returns:
            (what the stage counted, the most memory that its process, or the first one, took).
        """
        if not self.on_ray:
            return self.here(threads)
        from rag_ft.engine.ray_train import train_on_ray

        # The workers hold their part of the cluster, so the first one asks the language model
        # itself, bucket by bucket as an actor does.
        config, run_dir = self.session.config, self.session.run_dir
        alone = config.model_copy(update={"engine": EngineConfig(num_workers=1)})
        call = replace(self, session=replace(self.session, config=alone))
        checkpoints = run_dir.checkpoints(self.stage.name)
        return train_on_ray(
            partial(call.here, threads), run_dir.path, checkpoints, config.engine.advanced
        )

    def here(self, threads: int) -> tuple[Numbers, Numbers]:
        """See `run`; in this process."""
        if self.stage.computes:
            import torch

            torch.set_num_threads(threads)
        module = importlib.import_module(f"rag_ft.stages.{self.stage.name}")
        counts = getattr(module, self.function)(self.session, **self.options)
        return counts, {"peak_memory_gb": peak_memory_gb(), **peak_gpu_memory()}
