"""The pipeline: what runs in which order, what each stage reads and writes, and when it need not run again."""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import resource
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from rag_ft.errors import ConfigError, DataError, RagFtError
from rag_ft.evaluation.components import COMPONENTS
from rag_ft.freshness import (
    OLD_LAYOUT,
    Plan,
    config_is_damaged,
    mark_files,
    plan_stage,
    read_done,
    read_json,
    record_outputs,
    what_changed,
    why_stale,
)
from rag_ft.run_dir import RunDir
from rag_ft.storage import content_hash, leftovers, write_text

if TYPE_CHECKING:
    from rag_ft.config import Config

logger = logging.getLogger(__name__)
PACKAGES = (
    "torch",
    "transformers",
    "peft",
    "trl",
    "accelerate",
    "sentence-transformers",
    "datasets",
    "numpy",
)


@dataclass(frozen=True)
class Stage:
    """`after`: stages whose done-files it builds on. `sections`: the sections, or single knobs, that change its result.
    `computes`: whether its result can depend on the number of threads. Its files stand in `paths.FILES`."""

    name: str
    does: str
    after: tuple[str, ...]
    sections: tuple[str, ...]
    computes: bool = True


STAGES: tuple[Stage, ...] = (
    Stage(
        "ingest",
        "read documents, split them into chunks",
        (),
        ("ingest", "encoder"),
        computes=False,
    ),
    Stage(
        "index",
        "embed the chunks: vectors, FAISS, BM25",
        ("ingest",),
        ("encoder", "retrieval.advanced.with_title", "retrieval.advanced.faiss"),
    ),
    Stage(
        "generate",
        "let the LLM write question-answer pairs and check them",
        ("index",),
        ("llm", "generate", "retrieval"),
    ),
    Stage(
        "train_retriever",
        "tune the encoder on the pairs, gate it, index again",
        ("generate",),
        ("train_retriever", "encoder", "retrieval", "llm"),
    ),
    Stage(
        "train_generator",
        "tune the generator with LoRA on pairs and retrieved chunks",
        ("train_retriever",),
        ("train_generator", "retrieval", "llm"),
    ),
    Stage(
        "evaluate",
        "answer the test questions with every system, score",
        ("train_retriever", "train_generator"),
        ("evaluate", "retrieval", "llm"),
    ),
    Stage("report", "metrics.json, report.html, report.md", ("evaluate",), (), computes=False),
)
NAMES = tuple(stage.name for stage in STAGES)


def run_stage(
    name: str, config: Config, force: bool = False, drop_replies: bool = False
) -> dict[str, Any]:
    """Checks what the stage needs, skips it when it is up to date, runs it, and writes its done-file last.

    `force` first removes what the stage made before, except the replies of a language model, which are found again
    by model and prompt; `drop_replies` removes these too. Returns the done-file's content, with "skipped": True when
    nothing had to be done.

    Raises:
        DataError: a stage it builds on has not run, or ran on other inputs than are there now, or a file that this
            stage or an earlier one wrote is missing or has changed.
        ConfigError: the run folder holds this stage's result (or a part of it) for other settings, or is not writable.
        RagFtError: another process works in the run folder.
    """
    from rag_ft.lock import locked

    stage, run_dir = find_stage(name), RunDir(config.run_path)
    plan = _plan(stage, config, run_dir)
    if not force and (done := read_done(run_dir, name)) and not why_stale(plan, done, run_dir):
        _remember_times(run_dir, name, done, plan)
        return {**done, "skipped": True}
    # Launched processes of one training work together: the first holds the lock for all.
    with locked(run_dir, name) if _is_main_process() else contextlib.nullcontext():
        return _run_locked(stage, config, run_dir, force, drop_replies)


def _run_locked(
    stage: Stage, config: Config, run_dir: RunDir, force: bool, drop_replies: bool
) -> dict[str, Any]:
    name = stage.name
    # Planned again: another process may have worked here until the lock was free.
    plan = _plan(stage, config, run_dir)
    done = None if force else read_done(run_dir, name)
    begun = (
        None if force or not _has_left_work(stage, run_dir) else read_json(run_dir.started(name))
    )
    if force and _is_main_process():
        _remove(stage, run_dir, drop_replies)
    elif done and not (why := why_stale(plan, done, run_dir)):
        return {**done, "skipped": True}
    elif done or begun:
        _refuse_other_settings(stage, plan, done or begun or {}, run_dir)
        if done:
            raise DataError(f"{run_dir.path}: {name} is stale ({why}): run it again with --force")
    # Replies from before are not asked for again: the seconds are those of the rest alone.
    answered = any(path.exists() for path in run_dir.writes(name, "replies"))
    plan["threads"] = (begun or {}).get("threads") or num_threads()
    if stage.computes:
        import torch

        torch.set_num_threads(plan["threads"])
    if _is_main_process():
        _write_start(config, run_dir, stage, plan)
    from rag_ft.session import Session  # loads numpy: `status` and `plan` do without

    clock = time.monotonic()
    counts = importlib.import_module(f"rag_ft.stages.{name}").run(Session(config, run_dir))
    seconds = round(time.monotonic() - clock, 2)
    done = {**plan, "counts": counts, "seconds": seconds}
    if begun or answered:
        done["continued"] = True
    done |= {"peak_memory_gb": peak_memory_gb(), **peak_gpu_memory(), "versions": versions()}
    if _is_main_process():
        done |= record_outputs(run_dir, name)
        write_text(run_dir.done(name), json.dumps(done, indent=1, ensure_ascii=False) + "\n")
    return done


def num_threads() -> int:
    """OMP_NUM_THREADS where it is set, else the cores that this process may use (two hyperthreads are one core). Sums
    depend on it in their last digits, so a stage that continues uses the number it began with."""
    asked = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0]
    if asked.isdigit() and int(asked):
        return int(asked)
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    cores = set()
    for cpu in os.sched_getaffinity(0):
        siblings = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        cores.add(siblings.read_text() if siblings.exists() else str(cpu))
    return len(cores)


def stages_to_run(name: str, config: Config) -> list[str]:
    """What a command that asks for one stage runs: that stage, and before it the training that is switched off, which
    takes no time. An evaluation of what is there already, with no pair to write and no half to train, makes all that it
    reads by itself.

    Raises:
        ConfigError: one half is given to be evaluated, the other is to be trained and has not been.
    """
    halves = {
        "train_retriever": config.train_retriever.enabled,
        "train_generator": config.train_generator.enabled,
    }
    to_train = {stage for stage, enabled in halves.items() if enabled} - given_stages(config)
    before = stages_until(name, config)
    untrained = sorted(
        half for half in to_train if read_done(RunDir(config.run_path), half) is None
    )
    if name == "evaluate" and given_stages(config) and untrained:
        raise ConfigError(
            f"{untrained[0]} has not run: run it first, or, to evaluate what is given, set {untrained[0]}.enabled=false"
        )
    if name == "evaluate" and not config.generate.pairs_per_chunk and not to_train:
        return before
    if "WORLD_SIZE" in os.environ:  # launched processes do not wait for each other between stages
        return [name]
    switched_off = halves.keys() - to_train - {name}
    return [*(stage for stage in before if stage in switched_off), name]


def stages_until(name: str, config: Config) -> list[str]:
    """All stages up to this one, in order, without those whose result is given by path."""
    names = NAMES[: NAMES.index(find_stage(name).name) + 1]
    return [stage for stage in names if stage not in given_stages(config)]


def given_stages(config: Config) -> set[str]:
    """Training stages left out because `evaluate` names the tuned component by path."""
    given = (c for c in COMPONENTS.values() if c.setting and getattr(config.evaluate, c.setting))
    return {component.stage for component in given}


def stages_with_llm(config: Config) -> set[str]:
    """Stages that ask a language model anything with these settings."""
    retriever, evaluate = config.train_retriever, config.evaluate
    asking = {
        "generate": config.generate.pairs_per_chunk > 0,
        "train_retriever": retriever.enabled and retriever.advanced.lsr_steps > 0,
        "train_generator": config.train_generator.enabled,
        "evaluate": evaluate.answers,
    }
    return {stage for stage, asks in asking.items() if asks} - given_stages(config)


def status(config: Config) -> list[tuple[str, str, str]]:
    """(stage, "done" | "stale" | "half done" | "missing" | "given", why) in pipeline order; reads done-files, and of
    other files their size and time, or their content where these differ."""
    run_dir, rows = RunDir(config.run_path), list[tuple[str, str, str]]()
    for stage in STAGES:
        if stage.name in given_stages(config):
            rows.append(
                (stage.name, "given", "its result is named by path in the section evaluate")
            )
            continue
        earlier = _upstream(stage, config)
        unfinished = [row[0] for row in rows if row[0] in earlier and row[1] != "done"]
        state, why = _state(stage, config, run_dir)
        if state == "done" and unfinished:
            state, why = "stale", f"builds on {unfinished[0]}, which is not done"
        rows.append((stage.name, state, why))
    if config_is_damaged(run_dir) and (
        done := [number for number, row in enumerate(rows) if row[1] == "done"]
    ):
        why = f"{run_dir.config.name} is missing or has changed: run it again with --force"
        rows[done[-1]] = (rows[done[-1]][0], "stale", why)
    return rows


def _state(stage: Stage, config: Config, run_dir: RunDir) -> tuple[str, str]:
    """(state, why) of a stage by its own done-file, files and inputs."""
    finished = run_dir.done(stage.name).exists()
    try:
        done, plan = read_done(run_dir, stage.name), _plan(stage, config, run_dir)
    except DataError as error:
        return "stale" if finished else "missing", str(error)
    if done and (why := why_stale(plan, done, run_dir)):
        return "stale", f"{why}: run it again with --force"
    if done:
        return "done", f"{done['seconds']} s{' since it was continued' * ('continued' in done)}"
    begun = run_dir.started(stage.name).exists()
    return ("half done", "run it again to continue") if begun else ("missing", "")


def find_stage(name: str) -> Stage:
    for stage in STAGES:
        if stage.name == name:
            return stage
    raise ConfigError(f"no stage '{name}': choose from {', '.join(NAMES)}")


def peak_memory_gb() -> float:
    """Highest resident memory of this process so far, in GiB (a stage run after others reports at least theirs)."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2)


def peak_gpu_memory() -> dict[str, float]:
    """{"peak_gpu_memory_gb": highest memory that this process's PyTorch held of one GPU, GiB}; nothing without one.
    What a vLLM server takes is not in it."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_available():
        return {}
    held = [torch.cuda.max_memory_reserved(device) for device in range(torch.cuda.device_count())]
    return {"peak_gpu_memory_gb": round(max(held) / 2**30, 2)}


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """{package: version} of those that are installed."""
    import importlib.metadata  # `rag-ft --help` need not load it

    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _plan(stage: Stage, config: Config, run_dir: RunDir) -> Plan:
    return plan_stage(stage.name, stage.sections, _upstream(stage, config), config, run_dir)


def _upstream(stage: Stage, config: Config) -> list[str]:
    """All earlier stages whose results it reads, in pipeline order, without those given by path."""
    found: set[str] = set()
    for name in stage.after:
        found |= {name, *_upstream(find_stage(name), config)}
    return [name for name in NAMES if name in found - given_stages(config)]


def _has_left_work(stage: Stage, run_dir: RunDir) -> bool:
    """Whether a stage that was started has left anything that a run with other settings could mix with its own."""
    return any(path.exists() for path in run_dir.writes(stage.name) if path != run_dir.vllm_log)


def _refuse_other_settings(
    stage: Stage, plan: dict[str, Any], before: dict[str, Any], run_dir: RunDir
) -> None:
    if "sources" not in before:
        raise ConfigError(OLD_LAYOUT.format(path=run_dir.path, stage=stage.name))
    if before["fingerprint"] != plan["fingerprint"]:
        raise ConfigError(
            f"{run_dir.path} holds {stage.name} for other settings ({what_changed(plan, before)}): "
            f"use --force to replace it, or another run.dir"
        )


def _remove(stage: Stage, run_dir: RunDir, drop_replies: bool) -> None:
    """What the stage made; replies only where asked: they are hours of a language model's work."""
    for path in run_dir.writes(stage.name, "replies") if drop_replies else ():
        if path.exists():
            with path.open("rb") as lines:
                number = sum(1 for _ in lines)
            logger.warning(
                "--drop-replies deletes %s: its %d lines are asked for again", path, number
            )
            path.unlink()
    made = run_dir.writes(stage.name, "result", "scratch")
    for path in [run_dir.done(stage.name), run_dir.started(stage.name), *made]:
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _write_start(config: Config, run_dir: RunDir, stage: Stage, plan: dict[str, Any]) -> None:

    written = [
        *run_dir.writes(stage.name),
        run_dir.started(stage.name),
        run_dir.done(stage.name),
        run_dir.config,
    ]
    for leftover in (leftover for path in written for leftover in leftovers(path)):
        leftover.unlink(missing_ok=True)  # of a killed process
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    try:
        run_dir.done(stage.name).unlink(missing_ok=True)
        write_text(run_dir.config, text)
        plan = {**plan, "config_file": content_hash(text)}
        write_text(run_dir.started(stage.name), json.dumps(plan, ensure_ascii=False) + "\n")
    except OSError as error:
        raise ConfigError(
            f"cannot write to the run folder {run_dir.path}: {error.strerror}; set run.dir"
        ) from error


def _remember_times(run_dir: RunDir, name: str, done: dict[str, Any], plan: dict[str, Any]) -> None:
    """In a copied folder the times differ: records them, so that its files are not read again at every command."""
    from rag_ft.lock import locked

    marks = mark_files(
        run_dir.path, [run_dir.path / file for file in done["outputs"]], done["outputs"]
    )
    if _is_main_process() and (marks, plan["sources"]) != (done["outputs"], done["sources"]):
        now = {**done, "outputs": marks, "sources": plan["sources"]}
        with contextlib.suppress(RagFtError, OSError), locked(run_dir, name):
            write_text(run_dir.done(name), json.dumps(now, indent=1, ensure_ascii=False) + "\n")


def _is_main_process() -> bool:
    return os.environ.get("RANK", "0") == "0"
