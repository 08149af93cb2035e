"""Buckets on a Ray cluster: actors that keep their model open take one after the other.

Rows and results are files in the run folder, which all nodes must see under the same path; Ray
carries only the names of buckets. The driver asks for up to `engine.num_workers` actors, and never
for more than there are buckets left: Ray's autoscaler adds nodes for actors that wait for one, and
removes nodes whose actors have ended.
"""

from __future__ import annotations

import logging
import os
import platform
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rag_ft.config import EngineConfig
from rag_ft.engine.local import use_one_thread
from rag_ft.engine.work import Work, try_bucket
from rag_ft.errors import ConfigError, RagFtError

log = logging.getLogger(__name__)

# A bucket is not to blame for a node that ends. But a node that always ends must not go on forever.
MAX_LOST_NODES, NODE_ENDED = 100, "its node has died"
MAX_FAILED_STARTS = 10
PATIENCE_SECONDS = 60


class BucketActor:
    """Runs in a process of a Ray node."""

    def __init__(self, work: Work) -> None:
        os.environ["TQDM_DISABLE"] = "1"  # the driver shows the progress
        use_one_thread()
        self._work = work

    def start(self) -> RagFtError | None:
        """What the user has to repair before this node can work."""
        return missing_folder(self._work.folder)

    def do(self, name: str) -> tuple[str | None, RagFtError | None]:
        """(why the bucket failed, an error that the user has to repair)."""
        try:
            return try_bucket(self._work, name), None
        except RagFtError as error:
            return None, error

    def close(self) -> None:
        """Gives back what the work has opened."""
        self._work.close()


def missing_folder(folder: Path) -> ConfigError | None:
    """An error where this node does not see a folder of the run."""
    if folder.is_dir():
        return None
    return ConfigError(
        f"node {platform.node()} does not see {folder}: engine.kind=ray needs a run.dir that all "
        "nodes see under the same path"
    )


def connect(address: str) -> Any:
    """The module ray, connected to a cluster. Without a cluster "auto" starts Ray on this machine.

    Raises:
        ConfigError: Ray is not installed, or there is no cluster at the address.
    """
    try:
        import ray
    except ImportError as error:
        raise ConfigError(
            "engine.kind is ray, which is not installed: pip install 'rag-ft[ray]' on every node"
        ) from error
    if ray.is_initialized():
        return ray
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "warning"}
    try:
        ray.init(address=address, **options)
    except ConnectionError as error:
        if address != "auto":
            raise ConfigError(
                f"no Ray cluster at {address} ({error}): start one with `ray start`, or set "
                "engine.address"
            ) from error
        ray.init(include_dashboard=False, **options)
    return ray


def warn_of_no_worker(ray: Any) -> None:
    """Says what the cluster has, where workers wait for more."""
    there = ray.cluster_resources()
    cpus, gpus = there.get("CPU", 0), there.get("GPU", 0)
    log.warning("no worker has started: the cluster has %g CPUs, %g GPUs", cpus, gpus)


def run_on_ray(
    work: Work, waiting: deque[str], engine: EngineConfig
) -> Iterator[tuple[str, str | None]]:
    """Each bucket with why it failed, or None. The bucket of an actor that died has failed; that of
    a node that ended is given to another actor.

    Raises:
        ConfigError: see connect, or a node lacks something.
        RagFtError: actors do not start.
    """
    ray = connect(engine.advanced.address)
    actors = _Actors(ray, work, engine)
    num_lost_nodes = 0
    try:
        while waiting or actors.running:
            actors.start(len(waiting))
            ready = actors.next_ready()
            if ready in actors.starting:
                actor = actors.started(ready)
            else:
                actor, name = actors.running.pop(ready)
                try:
                    failed, error = ray.get(ready)
                    if error:
                        raise error
                    yield name, failed
                except ray.exceptions.RayError as died:
                    actor = None
                    if NODE_ENDED in str(died) and num_lost_nodes < MAX_LOST_NODES:
                        num_lost_nodes += 1
                        waiting.append(name)
                    else:
                        yield name, f"its worker died: {' '.join(str(died).split())[:300]}"
            if actor is not None and waiting:
                actors.give(actor, waiting.popleft())
            elif actor is not None:
                actors.end(actor)
    finally:
        actors.end_all()


class _Actors:
    """The actors that start and those that work: {what Ray is asked: actor (and bucket)}."""

    def __init__(self, ray: Any, work: Work, engine: EngineConfig) -> None:
        settings = engine.advanced
        self._ray, self._most, self._work = ray, max(1, engine.num_workers), ray.put(work)
        self._remote = ray.remote(BucketActor).options(
            num_cpus=settings.cpus_per_worker, num_gpus=settings.gpus_per_worker
        )
        self.starting: dict[Any, Any] = {}
        self.running: dict[Any, tuple[Any, str]] = {}
        self._failed_starts = 0

    def start(self, num_waiting: int) -> None:
        """Starts actors: one for each bucket that waits, as many as are allowed."""
        wanted = min(num_waiting, self._most - len(self.running))
        while len(self.starting) < wanted:
            actor = self._remote.remote(self._work)
            self.starting[actor.start.remote()] = actor
        # Those that have no node yet are not needed any more.
        while len(self.starting) > wanted:
            self._ray.kill(self.starting.popitem()[1])

    def next_ready(self) -> Any:
        """Waits for what Ray was asked; work comes before starts."""
        while True:
            asked = [*self.running, *self.starting]
            ready, _ = self._ray.wait(asked, num_returns=1, timeout=PATIENCE_SECONDS)
            if ready:
                return ready[0]
            if not self.running:
                warn_of_no_worker(self._ray)

    def started(self, ready: Any) -> Any:
        """An actor that has started; None where it ended with its node.

        Raises:
            RagFtError: it lacks something, or actors end again and again before they have started.
        """
        actor = self.starting.pop(ready)
        try:
            error = self._ray.get(ready)
        except self._ray.exceptions.RayError as died:
            self._failed_starts += 1
            if self._failed_starts < MAX_FAILED_STARTS:
                return None
            why = " ".join(str(died).split())
            raise RagFtError(f"workers on Ray do not start: {why[-500:]}") from died
        if error:
            raise error
        self._failed_starts = 0
        return actor

    def give(self, actor: Any, name: str) -> None:
        """Has an actor do a bucket."""
        self.running[actor.do.remote(name)] = actor, name

    def end(self, actor: Any) -> None:
        """Ends an actor for which there is no bucket: its node may be removed."""
        actor.close.remote()
        actor.__ray_terminate__.remote()

    def end_all(self) -> None:
        """Ends all actors."""
        for actor in (*self.starting.values(), *(actor for actor, _ in self.running.values())):
            self._ray.kill(actor)
