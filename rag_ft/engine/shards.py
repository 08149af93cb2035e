"""Runs the buckets of a piece of work, all or those of a shard, on the engine of the settings."""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Iterator

from tqdm import tqdm

from rag_ft.config import EngineConfig
from rag_ft.engine.local import run_in_order, run_in_processes
from rag_ft.engine.ray import run_on_ray
from rag_ft.engine.work import Work, result_of
from rag_ft.errors import ConfigError, RagFtError

log = logging.getLogger(__name__)

# How often a bucket is tried whose worker dies, or which raises an error.
MAX_TRIES = 3


class ShardDone(RagFtError):  # noqa: N818
    """A shard has done its buckets: the stage goes no further in this process."""


def shard_of(text: str) -> tuple[int, int]:
    """(I, N) of "I/N"; "" is the whole, 0/1.

    Raises:
        ConfigError: it is something else, or I is not below N.
    """
    number, _, of = (text or "0/1").partition("/")
    if not (number.isdigit() and of.isdigit() and int(number) < int(of)):
        raise ConfigError(f"--shard {text}: write I/N with I from 0 to N - 1, such as 0/4")
    return int(number), int(of)


def run_buckets(work: Work, names: list[str], engine: EngineConfig, what: str) -> None:
    """Does the buckets that are not done, of a shard only its own.

    Raises:
        RagFtError: buckets failed MAX_TRIES times each; all others are done.
        ShardDone: the buckets of this shard are done, those of others are not.
    """
    number, of = shard_of(engine.advanced.shard)
    mine = [name for name in names if int(name.partition("-")[0]) % of == number]
    left = deque(name for name in mine if not result_of(work.folder, name).exists())
    tries: Counter[str] = Counter()
    failed: dict[str, str] = {}
    with tqdm(desc=what, total=len(mine), initial=len(mine) - len(left), unit="bucket") as bar:
        for name, error in _each(work, left, engine):
            tries[name] += 1
            if not error:
                bar.update()
            elif tries[name] < MAX_TRIES:
                left.append(name)
                log.warning("%s: bucket %s failed and is tried again: %s", what, name, error)
            else:
                failed[name] = error
    if failed:
        name = min(failed)
        raise RagFtError(
            f"{what}: {len(failed)} of {len(mine)} buckets failed {MAX_TRIES} times, all others "
            f"are done. The first is {work.folder / 'plan' / name}.jsonl ({failed[name]}): give a "
            "worker more memory, or remove what is wrong with these rows, and run the same command "
            "again"
        )
    missing = sum(not result_of(work.folder, name).exists() for name in names)
    if missing:
        raise ShardDone(
            f"{what}: the {len(mine)} buckets of this shard are done, {missing} of other shards "
            "are not: run every shard again when they are, or merge-shards, which does the rest"
        )


def end_shard(engine: EngineConfig) -> None:
    """Ends a stage that runs as a shard, after its last bucket.

    Raises:
        ShardDone: it runs as one.
    """
    if engine.advanced.shard:
        raise ShardDone("the buckets of all shards are done: run merge-shards")


def _each(
    work: Work, waiting: deque[str], engine: EngineConfig
) -> Iterator[tuple[str, str | None]]:
    """Each bucket with why it failed, or None, as they end. Buckets are taken from `waiting` until
    none is left; who gets one from here may put it back."""
    if engine.kind == "ray":
        return run_on_ray(work, waiting, engine)
    if engine.num_workers < 2 or engine.advanced.shard or work.has_processes:
        return run_in_order(work, waiting)
    return run_in_processes(work, waiting, engine)
