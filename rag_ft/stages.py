"""The pipeline: what runs in which order, what each stage reads and writes, and when it need not run again."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
import os
import resource
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rag_ft.config import Config
from rag_ft.config_loader import flat
from rag_ft.errors import ConfigError, DataError
from rag_ft.paths import RunDir
from rag_ft.records import content_hash, encodable, write_text

# Knobs that change how fast or where a stage runs, never what it writes.
NEUTRAL = {
    "llm.base_url", "llm.advanced.batch_tokens", "llm.advanced.concurrency", "llm.advanced.timeout_seconds", "llm.advanced.retries", "llm.advanced.tensor_parallel",
    "llm.advanced.data_parallel", "llm.advanced.gpu_memory_share", "llm.advanced.vllm_python", "llm.advanced.vllm_args", "encoder.advanced.batch_tokens",
    "train_generator.advanced.device_batch_size", "train_generator.advanced.gradient_checkpointing", "train_generator.advanced.report_to",
    "ingest.advanced.min_kept_share", "generate.advanced.min_kept_share",
}  # fmt: skip
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
    `writes`: what `--force` removes, relative to the run folder; replies only where the settings are as before."""

    name: str
    does: str
    after: tuple[str, ...]
    sections: tuple[str, ...]
    writes: tuple[str, ...]


STAGES: tuple[Stage, ...] = (
    Stage(
        "ingest",
        "documents -> chunks, with splits",
        (),
        ("ingest", "encoder"),
        ("documents.jsonl", "chunks.jsonl"),
    ),
    Stage(
        "index",
        "chunks -> vectors, FAISS and BM25",
        ("ingest",),
        ("encoder", "retrieval.advanced.with_title", "retrieval.advanced.faiss"),
        ("index",),
    ),
    Stage(
        "generate",
        "chunks -> LLM -> checked question-answer pairs",
        ("index",),
        ("llm", "generate", "retrieval"),
        ("qa.jsonl", "replies/generate.jsonl", "checkpoints/generate", "rejects/generate.jsonl"),
    ),
    Stage(
        "train_retriever",
        "pairs -> negatives, LM scores -> tuned encoder and its index",
        ("generate",),
        ("train_retriever", "encoder", "retrieval", "llm"),
        (
            "retriever",
            "retriever_index",
            "lm_scores.jsonl",
            "checkpoints/train_retriever",
            "training/train_retriever.jsonl",
        ),
    ),
    Stage(
        "train_generator",
        "pairs + retrieved chunks -> LoRA adapter, or whole model",
        ("train_retriever",),
        ("train_generator", "retrieval", "llm"),
        (
            "generator",
            "checkpoints/train_generator",
            "training/train_generator.jsonl",
            "training/folds.jsonl",
            "replies/train_generator.jsonl",
        ),
    ),
    Stage(
        "evaluate",
        "systems x test questions -> hits, predictions, scores",
        ("train_retriever", "train_generator"),
        ("evaluate", "retrieval", "llm"),
        ("hits", "predictions", "scores.jsonl", "replies/evaluate.jsonl"),
    ),
    Stage(
        "report",
        "scores -> metrics.json, report.html, report.md",
        ("evaluate",),
        (),
        ("metrics.json", "report.html", "report.md"),
    ),
)
NAMES = tuple(stage.name for stage in STAGES)


def run_stage(name: str, config: Config, force: bool = False) -> dict[str, Any]:
    """Checks what the stage needs, skips it when it is up to date, runs it, and writes its done-file last.

    Returns the done-file's content, with "skipped": True when nothing had to be done.

    Raises:
        DataError: a stage it builds on has not run, or ran on other inputs than are there now.
        ConfigError: the run folder holds this stage's result (or a part of it) for other settings, or is not writable.
    """
    stage, run_dir = find_stage(name), RunDir(config.run_path)
    plan = _plan(stage, config, run_dir)
    done = read_done(run_dir, name)
    begun = _read(run_dir.started(name)) if _has_left_work(stage, run_dir) else None
    if force and _is_main_process():
        before = done or begun
        _remove(
            stage, run_dir, with_replies=not before or before["fingerprint"] == plan["fingerprint"]
        )
    elif not force and done and done["fingerprint"] == plan["fingerprint"]:
        return {**done, "skipped": True}
    elif not force:
        _refuse_other_settings(stage, plan, done or begun, config)
    if _is_main_process():
        _write_start(config, run_dir, stage, plan)
    from rag_ft.session import Session  # loads numpy: `status` and `plan` do without

    clock = time.monotonic()
    counts = importlib.import_module(f"rag_ft.{name}").run(Session(config, run_dir))
    continued = (
        {"continued": True} if begun and not done and not force else {}
    )  # seconds of the last process alone
    done = {**plan, "counts": counts, "seconds": round(time.monotonic() - clock, 2), **continued,
            "peak_memory_gb": peak_memory_gb(), **peak_gpu_memory(), "versions": versions()}  # fmt: skip
    if _is_main_process():
        write_text(run_dir.done(name), json.dumps(done, indent=1, ensure_ascii=False) + "\n")
    return done


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
    """Training stages left out because `evaluate` is given the tuned half by path."""
    given = {"train_retriever": config.evaluate.encoder, "train_generator": config.evaluate.adapter}
    return {stage for stage, path in given.items() if path}


def status(config: Config) -> list[tuple[str, str, str]]:
    """(stage, "done" | "stale" | "half done" | "missing" | "given", why) in pipeline order; reads only done-files."""
    run_dir, rows = RunDir(config.run_path), []
    for stage in STAGES:
        if stage.name in given_stages(config):
            rows.append(
                (stage.name, "given", "its result is named by path in the section evaluate")
            )
            continue
        done, started = read_done(run_dir, stage.name), _read(run_dir.started(stage.name))
        try:
            plan = _plan(stage, config, run_dir)
        except DataError as error:
            rows.append((stage.name, "stale" if done else "missing", str(error)))
            continue
        if done and done["fingerprint"] == plan["fingerprint"]:
            rows.append(
                (
                    stage.name,
                    "done",
                    f"{done['seconds']} s{' since it was continued' * ('continued' in done)}",
                )
            )
        elif done:
            rows.append((stage.name, "stale", _what_changed(plan, done)))
        else:
            rows.append(
                (
                    stage.name,
                    "half done" if started else "missing",
                    "run it again to continue" if started else "",
                )
            )
    return rows


def find_stage(name: str) -> Stage:
    for stage in STAGES:
        if stage.name == name:
            return stage
    raise ConfigError(f"no stage '{name}': choose from {', '.join(NAMES)}")


def read_done(run_dir: RunDir, name: str) -> dict[str, Any] | None:
    """The done-file of a stage, or None where it has not finished."""
    return _read(run_dir.done(name))


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
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _plan(stage: Stage, config: Config, run_dir: RunDir) -> dict[str, Any]:
    """{fingerprint, config, inputs}: what the stage's result depends on, as things stand."""
    inputs = {}
    for earlier in _builds_on(stage, config):
        done = read_done(run_dir, earlier)
        if done is None:
            raise DataError(
                f"{stage.name} builds on {earlier}, which has not finished in {run_dir.path}: run it first"
            )
        inputs[earlier] = done["fingerprint"]
    for path in _source_files(stage, config):
        inputs[encodable(str(path))] = _stamp(path)
    chosen = {
        k: v for k, v in flat(config).items() if {k, k.split(".")[0]} & {*stage.sections, "run"}
    }
    chosen = {k: v for k, v in chosen.items() if k not in NEUTRAL and k != "run.dir"}
    return {
        "fingerprint": content_hash(stage.name, chosen, inputs),
        "config": chosen,
        "inputs": inputs,
    }


def _builds_on(stage: Stage, config: Config) -> list[str]:
    """`after`, and in place of a stage whose result is given by path what that one builds on."""
    given, names = given_stages(config), list[str]()
    for name in stage.after:
        names += _builds_on(find_stage(name), config) if name in given else [name]
    return list(dict.fromkeys(names))


def _source_files(stage: Stage, config: Config) -> list[Path]:
    """The user's own files a stage reads: changed documents, questions, prompts or weights make it stale."""
    files = [
        path
        for folder in _own_folders(stage, config)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
    if stage.name == "generate":
        files += [
            *config.generate.questions,
            *([config.generate.advanced.examples] if config.generate.advanced.examples else []),
        ]
    if stage.name == "ingest":
        from rag_ft.documents.sources import find_files

        questions = {
            path.resolve() for path in config.generate.questions
        }  # they may lie among the documents
        found = (file.path for file in find_files(config.ingest.sources))
        files += [path for path in found if path.resolve() not in questions]
    return files


def _own_folders(stage: Stage, config: Config) -> list[Path]:
    """Models and prompts that are folders of the user's; a model's name is as good as its content."""
    named = {"llm": (config.llm.model, config.llm.prompts), "encoder": (config.encoder.model,), "evaluate":
             (config.evaluate.adapter, config.evaluate.encoder, config.evaluate.advanced.index)}  # fmt: skip
    paths = [Path(name) for section in stage.sections for name in named.get(section, ()) if name]
    return [path for path in paths if path.is_dir()]


def _stamp(path: Path) -> str:
    try:
        stat = path.stat()
    except OSError:
        return "missing"
    return f"{stat.st_size}:{stat.st_mtime_ns}"


def _has_left_work(stage: Stage, run_dir: RunDir) -> bool:
    """Whether a stage that was started has left anything that a run with other settings could mix with its own."""
    return any((run_dir.path / written).exists() for written in stage.writes)


def _refuse_other_settings(
    stage: Stage, plan: dict[str, Any], before: dict[str, Any] | None, config: Config
) -> None:
    if before and before["fingerprint"] != plan["fingerprint"]:
        raise ConfigError(
            f"{config.run_path} holds {stage.name} for other settings ({_what_changed(plan, before)}): "
            f"use --force to replace it, or another run.dir"
        )


def _what_changed(plan: dict[str, Any], before: dict[str, Any]) -> str:
    old = {**before["config"], **before["inputs"]}
    new = {**plan["config"], **plan["inputs"]}
    changed = [k for k in {**old, **new} if old.get(k) != new.get(k)]
    shown = [
        f"{k} {old.get(k)} -> {new.get(k)}" if k in plan["config"] else f"{k} changed"
        for k in changed[:3]
    ]
    return ", ".join(shown) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")


def _remove(stage: Stage, run_dir: RunDir, with_replies: bool) -> None:
    """What the stage made. Replies are found by model, adapter and prompt: for other settings they stay, and hours of a
    language model are not asked for again because a check or a document changed."""
    made = [
        written for written in stage.writes if with_replies or not written.startswith("replies/")
    ]
    for path in [
        run_dir.done(stage.name),
        run_dir.started(stage.name),
        *(run_dir.path / written for written in made),
    ]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _write_start(config: Config, run_dir: RunDir, stage: Stage, plan: dict[str, Any]) -> None:
    try:
        run_dir.path.mkdir(parents=True, exist_ok=True)
        run_dir.done(stage.name).unlink(missing_ok=True)
        write_text(
            run_dir.config,
            yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True),
        )
        write_text(run_dir.started(stage.name), json.dumps(plan) + "\n")
    except OSError as error:
        raise ConfigError(
            f"cannot write to the run folder {run_dir.path}: {error.strerror}; set run.dir"
        ) from error


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror}; is run.dir a folder of yours?"
        ) from error
    except ValueError as error:
        raise DataError(
            f"{path} is damaged ({error}): delete it and run the stage again"
        ) from error


def _is_main_process() -> bool:
    return os.environ.get("RANK", "0") == "0"
