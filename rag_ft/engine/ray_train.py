"""A training in workers of a Ray cluster, by Ray Train.

A worker does what a process of `accelerate launch` does: Ray Train tells it its rank and connects
it with the others. Checkpoints and results are files in the run folder, as everywhere. Where a
worker or its node dies, all workers start again and continue at the last checkpoint.
"""

from __future__ import annotations

import io
import logging
import os
import queue
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from rag_ft.config_engine import EngineAdvanced
from rag_ft.engine.ray import PATIENCE_SECONDS, connect, missing_folder, warn_of_no_worker
from rag_ft.engine.shards import MAX_TRIES
from rag_ft.errors import ConfigError, RagFtError
from rag_ft.terminal import SafeFormatter
from rag_ft.training.distributed import LONGEST_WAIT

log = logging.getLogger(__name__)
Result = TypeVar("Result")


def train_on_ray(
    work: Callable[[], Result], folder: Path, checkpoints: Path, settings: EngineAdvanced
) -> Result:
    """Calls `work` in `train_workers` processes at once and returns what the first one returns.

    Args:
        work: can be pickled, and continues at its last checkpoint.
        folder: of the run.
        checkpoints: the folder of the stage's checkpoints.
        settings: cluster and workers.

    Raises:
        RagFtError: `work` raised it, or it ended MAX_TRIES times without a new checkpoint; there is
            no cluster, or a node does not see the folder.
    """
    if settings.address.startswith("ray://"):
        raise ConfigError("train_workers: run the command on a machine of the cluster, not ray://")
    ray = connect(settings.address)
    from ray.train import TrainingFailedError

    num_tries, before = 0, None
    while True:
        try:
            return _train_once(ray, work, folder, settings)
        except TrainingFailedError as ended:
            from rag_ft.training.checkpoints import FINISHED  # imports transformers

            now = sorted(map(str, checkpoints.rglob(FINISHED)))
            num_tries, before = 1 if now != before else num_tries + 1, now
            failures = [*getattr(ended, "worker_failures", {}).values(), ended]
            for failure in failures:
                if isinstance(failure, RagFtError):
                    raise failure from None
            first = getattr(failures[0], "health_check_failure", failures[0])
            why = " ".join(f"{type(first).__name__}: {first}".split())[:300]
            why = f"the training on Ray ended ({why})"
            if num_tries == MAX_TRIES:
                raise RagFtError(f"{why}, {MAX_TRIES} times without a new checkpoint") from ended
            log.warning("%s and is started again", why)


def _train_once(
    ray: Any, work: Callable[[], Result], folder: Path, settings: EngineAdvanced
) -> Result:
    """As train_on_ray, once. Raises TrainingFailedError where a worker ends without a result."""
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    ctrl_c = signal.getsignal(signal.SIGINT)
    # Ray Train keeps no checkpoints for us: it marks its folder with a file, and writes no more.
    with _terminal(ray) as said, tempfile.TemporaryDirectory() as scratch:
        trainer = TorchTrainer(
            partial(_in_worker, work, folder, Path.cwd(), said),
            torch_config=TorchConfig(timeout_s=int(LONGEST_WAIT.total_seconds())),
            scaling_config=ScalingConfig(
                num_workers=settings.train_workers,
                use_gpu=settings.gpus_per_worker > 0,
                resources_per_worker={"CPU": settings.cpus_per_worker},
            ),
            run_config=RunConfig(name="training", storage_path=scratch),
        )
        try:
            found: Result = trainer.fit().return_value
            return found
        except SystemExit as interrupted:  # after Ctrl-C Ray Train has ended the workers
            raise KeyboardInterrupt from interrupted
        finally:
            if threading.current_thread() is threading.main_thread():
                signal.signal(signal.SIGINT, ctrl_c)


def _in_worker(work: Callable[[], Result], folder: Path, place: Path, said: Any) -> Result:
    """Runs in a process of a Ray node. Relative paths of the settings begin at `place`; the queue
    `said` leads to the terminal."""
    if place.is_dir():
        os.chdir(place)
    if os.environ["RANK"] == "0":
        sys.stderr = _Stream(said)
    handler = logging.StreamHandler()
    handler.setFormatter(SafeFormatter("%(levelname)s %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    said.put("")  # it has started
    if error := missing_folder(folder):
        raise error
    return work()


class _Stream(io.TextIOBase):
    """Brings what is written to the terminal of the command."""

    encoding = "utf-8"

    def __init__(self, said: Any) -> None:
        self._said = said

    def write(self, text: str) -> int:
        self._said.put(text)
        return len(text)


@contextmanager
def _terminal(ray: Any) -> Iterator[Any]:
    """A queue: the texts in it are shown on stderr."""
    from ray.util.queue import Queue
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
    said = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})

    def show() -> None:
        timeout: int | None = PATIENCE_SECONDS
        while True:
            try:
                text = said.get(timeout=timeout)
            except queue.Empty:
                warn_of_no_worker(ray)
                continue
            timeout = None  # the workers have started
            if text is None:
                return
            print(text, end="", file=sys.stderr, flush=True)

    thread = threading.Thread(target=show, daemon=True)
    thread.start()
    try:
        yield said
    finally:
        said.put(None)
        thread.join()
        said.shutdown()
