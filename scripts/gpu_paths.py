"""The paths that need a GPU, each as a user takes it: a command of rag-ft on a run with tiny
models.

Each check is a minute or less. It returns what was done and the seconds, or why it was skipped.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parent.parent
sys.path[:0] = [str(ROOT / "benchmarks"), str(ROOT / "tests")]
PATH_SECONDS = 120
GPUS = torch.cuda.device_count()
BEFORE_TRAINING = ("ingest", "index", "generate")
GENERATOR_ALONE = {
    "train_retriever__enabled": False,
    "train_reranker__advanced": {"enabled": False},
}
Row = dict[str, Any]
LAUNCH = (sys.executable, "-m")
TORCHRUN = (*LAUNCH, "torch.distributed.run", "--nproc-per-node", "2", "-m")


def _accelerate(kind: str) -> tuple[str, ...]:
    config = str(ROOT / f"configs/accelerate/{kind}.yaml")
    module = "accelerate.commands.launch"
    return (*LAUNCH, module, "--config_file", config, "--num_processes", "2", "-m")


def _run(words: list[str], launch: tuple[str, ...] = LAUNCH) -> float:
    """The seconds of a command of rag-ft. Raises RuntimeError with its last words."""
    begin = time.perf_counter()
    done = subprocess.run(
        [*launch, "rag_ft", *words],
        cwd=ROOT, capture_output=True, text=True, timeout=PATH_SECONDS, check=False,
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(done.stderr[-600:])
    return round(time.perf_counter() - begin, 1)


def _prepared(work: Path, **settings: Any) -> str:
    """The configuration of a run with tiny models that is ready to train."""
    from tiny_run import make_run

    config = str(make_run(work, run__dtype="auto", **settings))
    for stage in BEFORE_TRAINING:
        _run([stage, config])
    return config


def _log(work: Path, stage: str) -> Row:
    done = json.loads((work / f"run/{stage}.done.json").read_text(encoding="utf-8"))
    return {"stage_seconds": done["seconds"], "gpus": GPUS}


def one_gpu(work: Path) -> Row:
    """All three trainings in one process."""
    config = _prepared(work)
    stages = ("train_retriever", "train_reranker", "train_generator")
    return {f"{stage}_seconds": _run([stage, config]) for stage in stages} | {"gpus": GPUS}


def several_gpus(stage: str, launch: tuple[str, ...], work: Path) -> Row:
    """A training in two processes, one a GPU."""
    if GPUS < 2:
        return {"skipped": f"needs two GPUs, {GPUS} visible"}
    alone = GENERATOR_ALONE if stage == "train_generator" else {}
    config = _prepared(work, **alone)
    if stage == "train_reranker":
        _run(["train_retriever", config])
    return {"seconds": _run([stage, config], launch), **_log(work, stage)}


def ray_train(stage: str, work: Path) -> Row:
    """A training in workers of Ray Train, one a GPU."""
    if not GPUS or find_spec("ray") is None:
        return {"skipped": "needs a CUDA GPU and ray"}
    config = _prepared(work, **(GENERATOR_ALONE if stage == "train_generator" else {}))
    workers = {"train_workers": min(2, GPUS), "gpus_per_worker": 1}
    words = ["engine.kind=ray", *(f"engine.advanced.{key}={v}" for key, v in workers.items())]
    return {"seconds": _run([stage, config, *words]), **workers, **_log(work, stage)}


def qlora(work: Path) -> Row:
    """The generator over a base of 4 bits."""
    if not GPUS or find_spec("bitsandbytes") is None:
        return {"skipped": "needs a CUDA GPU and bitsandbytes"}
    config = _prepared(work, train_generator__method="qlora", **GENERATOR_ALONE)
    return {"seconds": _run(["train_generator", config]), **_log(work, "train_generator")}


def dpo(work: Path) -> Row:
    """Preference tuning after fine-tuning."""
    config = _prepared(work, train_generator__preference="dpo", **GENERATOR_ALONE)
    return {"seconds": _run(["train_generator", config]), **_log(work, "train_generator")}


def faiss_index(work: Path) -> Row:
    """An index of inverted lists, searched by `explain`, on a GPU where faiss sees one."""
    import faiss

    config = _prepared(work, retrieval__advanced={"faiss": "ivf"})
    seconds = _run(["explain", config, "What does shelf 1 of box 3 hold?"])
    return {"seconds": seconds, "faiss_gpus": faiss.get_num_gpus()}


def vllm_adapter(work: Path) -> Row:
    """The evaluation by vLLM, which serves base and adapter."""
    if reason := _no_vllm():
        return {"skipped": reason}
    config = _prepared(work)
    for stage in ("train_retriever", "train_reranker", "train_generator"):
        _run([stage, config])
    seconds = _run(["evaluate", config, "llm.backend=vllm"])
    return {"seconds": seconds, **_log(work, "evaluate")}


def serving(work: Path) -> Row:
    """The server over a run: seconds until it answers, and of an answer."""
    config, port = _prepared(work), _free_port()
    command = [*LAUNCH, "rag_ft", "serve", config, "--port", str(port)]
    begin = time.perf_counter()
    with (work / "server.log").open("w", encoding="utf-8") as log:
        server = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
    try:
        models = _ask(f"http://127.0.0.1:{port}/v1/models", None, begin)
        started = time.perf_counter()
        question = {"role": "user", "content": "What does shelf 1 of box 3 hold?"}
        body = {"model": models["data"][0]["id"], "messages": [question], "max_tokens": 8}
        said = _ask(f"http://127.0.0.1:{port}/v1/chat/completions", body, started)
    finally:
        server.terminate()
        server.wait(20)
    return {
        "seconds_to_start": round(started - begin, 1),
        "seconds_to_answer": round(time.perf_counter() - started, 2),
        "choices": len(said["choices"]),
    }


def bundle(work: Path) -> Row:
    """A run as a folder with a merged generator, which is checked against the run."""
    config = _evaluated(work)
    return {"seconds": _run(["bundle", config, "--merge", "--to", str(work / "bundle")])}


def quantised_bundle(work: Path) -> Row:
    """The same with weights of 8 bits, which vLLM serves."""
    if reason := _no_vllm():
        return {"skipped": reason}
    config = _evaluated(work)
    return {"seconds": _run(["bundle", config, "--int8", "--to", str(work / "bundle")])}


def _evaluated(work: Path) -> str:
    config = _prepared(work)
    _run(["run", config])
    return config


def _no_vllm() -> str | None:
    """Why vLLM cannot run on a GPU here; None: it can."""
    from rag_ft.errors import ConfigError
    from rag_ft.llm.vllm_process import find_vllm_python, is_cpu_build

    try:
        on_cpu = is_cpu_build(find_vllm_python(None))
    except ConfigError as error:
        return str(error)
    if on_cpu or not GPUS:
        return "this vLLM is the CPU build" if on_cpu else "no GPU is visible"
    return None


def _free_port() -> int:
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _ask(url: str, body: Row | None, begin: float) -> Row:
    """The JSON of a response, once the server answers."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    while True:
        try:
            with urllib.request.urlopen(request, timeout=PATH_SECONDS) as response:
                found: Row = json.load(response)
                return found
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"HTTP {error.code}: {error.read()[:400]!r}") from error
        except OSError:
            if time.perf_counter() - begin > PATH_SECONDS:
                raise
            time.sleep(0.3)


PATHS: dict[str, Callable[[Path], Row]] = {
    "path: training on one GPU": one_gpu,
    "path: generator on two GPUs": lambda work: several_gpus("train_generator", TORCHRUN, work),
    "path: retriever on two GPUs": lambda work: several_gpus("train_retriever", TORCHRUN, work),
    "path: reranker on two GPUs": lambda work: several_gpus("train_reranker", TORCHRUN, work),
    "path: FSDP": lambda work: several_gpus("train_generator", _accelerate("fsdp"), work),
    "path: generator by Ray Train": lambda work: ray_train("train_generator", work),
    "path: retriever by Ray Train": lambda work: ray_train("train_retriever", work),
    "path: QLoRA": qlora,
    "path: DPO": dpo,
    "path: FAISS index": faiss_index,
    "path: vLLM with the adapter": vllm_adapter,
    "path: serving": serving,
    "path: bundle": bundle,
    "path: quantised bundle": quantised_bundle,
}
