"""The settings of the engine: where the buckets of a stage are done."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from rag_ft.config_section import Section


class EngineAdvanced(Section):
    address: str = Field(
        "auto",
        description="The Ray cluster: auto (the one of this machine; without one Ray starts here), "
        "host:port, or ray://host:10001 (needs ray[client]).",
    )
    cpus_per_worker: float = Field(
        1, gt=0, le=1024, description="With Ray: CPU cores that a node reserves for a worker."
    )
    gpus_per_worker: float = Field(
        0,
        ge=0,
        le=64,
        description="GPUs of a worker, such as 1 for an encoder, or llm.advanced.tensor_parallel. "
        "Below 1 (Ray only) workers share a GPU. 0: none of its own.",
    )
    train_workers: int = Field(
        0,
        ge=0,
        le=10_000,
        description="With Ray: a training stage runs in so many processes, under Ray Train, each "
        "with a GPU of its own where gpus_per_worker is above 0. 0: it runs in the process of the "
        "command, or in those of `accelerate launch`.",
    )
    shard: str = Field(
        "",
        pattern=r"^(\d+/\d+)?$",
        description="What --shard sets: I/N does the buckets whose number divided by N leaves I.",
    )


class EngineConfig(Section):
    kind: Literal["local", "ray"] = Field(
        "local",
        description="local: files are read, chunks encoded and the LLM asked on this machine. "
        "ray: on a Ray cluster whose nodes see the run folder under the same path.",
    )
    num_workers: int = Field(
        0,
        ge=0,
        le=10_000,
        description="Processes, or at most so many Ray actors, that do this work in buckets, with "
        "one thread each: the result is the same bytes for any number of them, and of shards. "
        "1: one bucket after the other. 0: without buckets, with all threads of this process "
        "(with Ray: 1).",
    )
    advanced: EngineAdvanced = EngineAdvanced()

    @property
    def in_buckets(self) -> bool:
        """Whether the work is divided into buckets."""
        return self.kind == "ray" or self.num_workers > 0 or bool(self.advanced.shard)

    @property
    def trains_on_ray(self) -> bool:
        """Whether training stages run in workers of Ray Train."""
        return self.kind == "ray" and self.advanced.train_workers > 0
