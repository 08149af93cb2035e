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
from collections.abc import Callable
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
        work: the training; it can be pickled, and continues at what stands in `checkpoints`.
        folder: of the run; all nodes see it.
        checkpoints: where a checkpoint is a folder with a file "complete".
        settings: the cluster, and number and resources of the workers.

    Raises:
        ConfigError: see engine.ray.connect, or a node does not see the folder.
        RagFtError: `work` raised one, or ended MAX_TRIES times without a new checkpoint.
    """
    if settings.address.startswith("ray://"):
        raise ConfigError(
            f"engine.address is {settings.address}: train_workers needs auto or host:port; run the "
            "command on a machine of the cluster"
        )
    ray = connect(settings.address)
    from ray.train import TrainingFailedError

    num_tries, before = 0, None
    while True:
        try:
            return _train_once(ray, work, folder, settings)
        except TrainingFailedError as ended:
            now = sorted(map(str, checkpoints.rglob("complete")))
            num_tries, before = 1 if now != before else num_tries + 1, now
            why = " ".join(str(ended).split())[-300:]
            if num_tries == MAX_TRIES:
                raise RagFtError(
                    f"the training on Ray ended {MAX_TRIES} times without a new checkpoint (... "
                    f"{why}): repair that and run the same command again to continue"
                ) from ended
            log.warning("the training on Ray ended and is started again (... %s)", why)


def _train_once(
    ray: Any, work: Callable[[], Result], folder: Path, settings: EngineAdvanced
) -> Result:
    """As train_on_ray, once. Raises TrainingFailedError where a worker ends without a result."""
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    ctrl_c = signal.getsignal(signal.SIGINT)
    # Ray Train keeps no checkpoints for us: it marks its folder with a file, and writes no more.
    with _Terminal(ray) as terminal, tempfile.TemporaryDirectory() as scratch:
        trainer = TorchTrainer(
            partial(_in_worker, work, folder, Path.cwd(), terminal.said),
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
    try:
        if error := missing_folder(folder):
            raise error
        return work()
    except RagFtError as error:
        said.put(error)
        raise


class _Stream(io.TextIOBase):
    """Brings what is written to the terminal of the command."""

    encoding = "utf-8"

    def __init__(self, said: Any) -> None:
        self._said = said

    def write(self, text: str) -> int:
        self._said.put(text)
        return len(text)


class _Terminal:
    """Shows what the first worker writes to stderr. At its end it raises the first error that a
    worker met and the user has to repair."""

    def __init__(self, ray: Any) -> None:
        from ray.util.queue import Queue
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self.said = Queue(actor_options={"num_cpus": 0, "scheduling_strategy": here})
        self._ray, self._errors = ray, list[RagFtError]()
        self._thread = threading.Thread(target=self._show, daemon=True)

    def _show(self) -> None:
        text, timeout = "", PATIENCE_SECONDS
        while text is not None:
            try:
                text = self.said.get(timeout=timeout)
            except queue.Empty:
                warn_of_no_worker(self._ray)
                continue
            timeout = None  # the workers have started
            if isinstance(text, RagFtError):
                self._errors.append(text)
            elif text:
                print(text, end="", file=sys.stderr, flush=True)

    def __enter__(self) -> _Terminal:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.said.put(None)
        self._thread.join()
        self.said.shutdown()
        if self._errors:
            raise self._errors[0]
