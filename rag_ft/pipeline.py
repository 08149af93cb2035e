"""The pipeline: runs a stage unless it is up to date."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import time
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, Literal

import yaml

from rag_ft.done_files import OLD_LAYOUT, Plan, read_plan, unchanged_sources, write_done
from rag_ft.errors import ConfigError, DataError, RagFtError
from rag_ft.evaluation.components import COMPONENTS, EXTERNAL, left_out_stages
from rag_ft.file_marks import damage, mark_files
from rag_ft.freshness import (
    plan_stage,
    read_done,
    record_outputs,
    reviews_can_be_applied,
    what_changed,
    why_stale,
)
from rag_ft.run_dir import RunDir
from rag_ft.stage_table import NAMES, Stage, find_stage
from rag_ft.storage import content_hash, finite, leftovers, write_json, write_text
from rag_ft.text import redact

if TYPE_CHECKING:
    from rag_ft.config import Config

logger = logging.getLogger(__name__)
Change = Literal["update", "compact"]
# The packages whose versions a done-file records.
PACKAGES: tuple[str, ...] = ("torch", "transformers", "peft", "trl", "accelerate")
PACKAGES += ("sentence-transformers", "datasets", "numpy")


def run_stage(
    name: str,
    config: Config,
    force: bool = False,
    drop_replies: bool = False,
    change: Change | None = None,
) -> dict[str, Any]:
    """Runs a stage unless it is up to date, and writes its done-file last.

    Args:
        name: of the stage.
        config: of the run.
        force: first removes what the stage wrote before, except the replies of a language model,
            which are found again by model and prompt.
        drop_replies: with `force`, removes the replies too.
        change: "update" changes what ingest or index wrote where documents have changed; "compact"
            also makes one segment of the index.

    Returns:
        The content of the done-file, with "skipped": True where the stage was up to date.

    Raises:
        DataError: a stage that it builds on has not run or has stale results, or a file that this
            stage or an earlier one wrote is missing or has changed.
        ConfigError: the run folder holds results of this stage for other settings, or cannot be
            written to.
        RagFtError: another process works in the run folder.
    """
    from rag_ft.lock import locked

    stage, run_dir = find_stage(name), RunDir(config.run_path)
    plan = plan_of(stage, config, run_dir)
    done = None if force or change == "compact" else read_done(run_dir, name)
    if done and not why_stale(plan, done, run_dir):
        _remember_times(run_dir, name, done, plan)
        return {**done, "skipped": True}

    # Launched processes of one training work together: the first one holds the lock for all.
    with locked(run_dir, name) if _is_main_process() else contextlib.nullcontext():
        # Planned again: another process may have worked here until the lock was free.
        plan = plan_of(stage, config, run_dir)
        done = None if force or change == "compact" else read_done(run_dir, name)
        if done and not why_stale(plan, done, run_dir):
            return {**done, "skipped": True}
        return _run_locked(stage, config, run_dir, plan, force, drop_replies, change)


def _run_locked(
    stage: Stage,
    config: Config,
    run_dir: RunDir,
    plan: Plan,
    force: bool,
    drop_replies: bool,
    change: Change | None,
) -> dict[str, Any]:
    # What stands in the folder is removed, updated, continued, or refused. New reviews replace
    # nothing.
    begun: Plan | None = None
    unchanged: set[str] = set()
    known = (read_done(run_dir, stage.name) or {}).get("outputs") if change else None
    finished = None if force or change else read_done(run_dir, stage.name)
    reapplies = finished is not None and reviews_can_be_applied(plan, finished, run_dir)
    if change and not force:
        unchanged = before_update(stage, plan, run_dir)
    elif not force:
        begun = before_this_run(stage, plan, run_dir)
        # An update that was killed is finished as one: documents keep their splits.
        change = (begun or {}).get("change")
    elif _is_main_process():
        remove_outputs(stage, run_dir, drop_replies)
    if change:
        plan["change"] = change

    from rag_ft.session import Session
    from rag_ft.stage_call import StageCall

    options: dict[str, Any] = {"compact": True} if change == "compact" else {}
    if change and stage.name == "ingest":
        options = {"unchanged": unchanged}
    function = "apply_reviews" if reapplies else "run"
    call = StageCall(stage, Session(config, run_dir), function, options)
    # A stage that continues uses the number of threads that it began with.
    plan["threads"] = (begun or {}).get("threads") or call.num_threads

    # The started-file comes first, the work next, the done-file last.
    answered = any(path.exists() for path in run_dir.writes(stage.name, "replies"))
    if _is_main_process():
        write_start(config.model_dump(mode="json"), run_dir, stage, plan)
    clock = time.monotonic()
    counts, memory = call.run(plan["threads"])
    before = counts.pop("seconds_before", 0)  # what an earlier run computed and this one reused
    done = {**plan, "counts": counts, "seconds": round(time.monotonic() - clock + before, 2)}
    if (begun or answered) and not before:
        # Replies of an earlier run are not asked for again: the seconds are those of the rest.
        done["continued"] = True
    done |= {**memory, "versions": versions()}
    if _is_main_process():
        done |= record_outputs(run_dir, stage.name, known)
        write_done(run_dir.done(stage.name), finite(done))
    return done


def before_this_run(stage: Stage, plan: Plan, run_dir: RunDir) -> Plan | None:
    """The started-file of an interrupted run that this one continues; None where it starts anew.

    Raises:
        ConfigError: the folder holds the stage for other settings, or in the layout of an earlier
            version.
        DataError: the stage is done and one of its files has changed.
    """
    done = read_done(run_dir, stage.name)
    written = [path for path in run_dir.writes(stage.name) if path != run_dir.vllm_log]
    begun = None
    if any(path.exists() for path in written):
        begun = read_plan(run_dir.started(stage.name))
    before = done or begun
    if not before:
        return None
    if "sources" not in before:
        raise ConfigError(OLD_LAYOUT.format(path=run_dir.path, stage=stage.name))
    if before["fingerprint"] != plan["fingerprint"]:
        if reviews_can_be_applied(plan, before, run_dir):
            return begun
        remedy = "use --force to replace it, or another run.dir"
        if stage.grows and before["config"] == plan["config"]:
            remedy = f"use --update to keep what is unchanged, {remedy[4:]}"
        raise ConfigError(
            f"{run_dir.path} holds {stage.name} for other settings "
            f"({what_changed(plan, before)}): {remedy}"
        )
    if done:
        why = why_stale(plan, done, run_dir)
        raise DataError(f"{run_dir.path}: {stage.name} is stale ({why}): run it again with --force")
    return begun


def before_update(stage: Stage, plan: Plan, run_dir: RunDir) -> set[str]:
    """The ids of the source files that are as they were when the stage was done.

    Raises:
        ConfigError: the folder holds the stage for other settings.
        DataError: one of the stage's files has changed.
    """
    done = read_done(run_dir, stage.name)
    before = done or read_plan(run_dir.started(stage.name)) or plan
    # More sources are other documents. One that is left out, or has another split, is not.
    known = dict(before["config"])
    old, new = (p["config"].get("ingest.sources") for p in (before, plan))
    if new and old == [source for source in new if source in old]:
        known["ingest.sources"] = new
    if known != plan["config"]:
        changed = what_changed({**plan, "inputs": {}}, {**before, "inputs": {}})
        raise ConfigError(
            f"{run_dir.path} holds {stage.name} for other settings ({changed}): an update only "
            "takes other documents; use --force to replace it, or another run.dir"
        )
    if done and (why := damage(run_dir.path, done["outputs"])):
        raise DataError(f"{run_dir.path}: {why} since {stage.name} wrote it: use --force")
    return unchanged_sources(plan, done) if done else set()


def remove_outputs(stage: Stage, run_dir: RunDir, drop_replies: bool) -> None:
    """Removes what the stage wrote. Replies go only with `drop_replies`: they are hours of a
    language model's work."""
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


def write_start(settings: dict[str, Any], run_dir: RunDir, stage: Stage, plan: Plan) -> None:
    """Writes the settings to config.yaml, then the started-file; removes temporary files of killed
    processes.

    Raises:
        ConfigError: the folder cannot be written to.
    """
    started, done = run_dir.started(stage.name), run_dir.done(stage.name)
    for path in [*run_dir.writes(stage.name), started, done, run_dir.config]:
        for leftover in leftovers(path):
            leftover.unlink(missing_ok=True)
    text = redact(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True))
    try:
        done.unlink(missing_ok=True)
        write_text(run_dir.config, text)
        write_json(started, {"config_file": content_hash(text), **plan})
    except OSError as error:
        raise ConfigError(
            f"cannot write to the run folder {run_dir.path}: {error.strerror}; set run.dir"
        ) from error


def stages_to_run(name: str, config: Config) -> list[str]:
    """The stages that `rag-ft NAME` runs: the stage itself, and before it the disabled training
    stages, which only write a done-file. Where nothing is generated or trained, `evaluate` also
    runs all the stages that it builds on.

    Raises:
        ConfigError: one component is external, and another one is to be trained and has not been.
    """
    enabled = {
        component.stage: getattr(config, component.stage).enabled
        for component in COMPONENTS.values()
    }
    left_out = left_out_stages(config.evaluate, config.reranker)
    to_train = {stage for stage, is_enabled in enabled.items() if is_enabled} - left_out.keys()
    before = stages_until(name, left_out)
    if name == "evaluate" and EXTERNAL in left_out.values():
        run_dir = RunDir(config.run_path)
        untrained = sorted(stage for stage in to_train if read_done(run_dir, stage) is None)
        if untrained:
            raise ConfigError(
                f"{untrained[0]} has not run: run it first, or set {untrained[0]}.enabled=false to "
                "evaluate the external components alone"
            )
    if name == "evaluate" and not config.generate.pairs_per_chunk and not to_train:
        return before
    if "WORLD_SIZE" in os.environ:  # launched processes do not wait for each other between stages
        return [name]
    switched_off = enabled.keys() - to_train - {name}
    return [*(stage for stage in before if stage in switched_off), name]


def stages_until(name: str, left_out: Collection[str]) -> list[str]:
    """All stages up to this one, in order, without those `left_out`."""
    names = NAMES[: NAMES.index(find_stage(name).name) + 1]
    return [stage for stage in names if stage not in left_out]


def stages_with_llm(config: Config) -> set[str]:
    """Stages that ask a language model anything with these settings."""
    retriever, reranker = config.train_retriever, config.train_reranker
    evaluate = config.evaluate
    asking = {
        "generate": config.generate.pairs_per_chunk > 0,
        "train_retriever": retriever.enabled and retriever.advanced.lsr_steps > 0,
        "train_reranker": reranker.enabled and reranker.advanced.labels != "evidence",
        "train_generator": config.train_generator.enabled,
        "evaluate": evaluate.answers,
    }
    left_out = left_out_stages(evaluate, config.reranker)
    return {stage for stage, asks in asking.items() if asks and stage not in left_out}


def versions(packages: Sequence[str] = PACKAGES) -> dict[str, str]:
    """{package: version} of those that are installed."""
    import importlib.metadata  # `rag-ft --help` need not load it

    found = {}
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[package] = importlib.metadata.version(package)
    return found


def plan_of(stage: Stage, config: Config, run_dir: RunDir, quick: bool = False) -> Plan:
    """What the stage's result depends on; see `freshness.plan_stage`."""
    upstream = upstream_of(stage, left_out_stages(config.evaluate, config.reranker))
    return plan_stage(stage.name, stage.sections, upstream, config, run_dir, quick)


def upstream_of(stage: Stage, left_out: Collection[str]) -> list[str]:
    """All earlier stages whose results it reads, in pipeline order, without those `left_out`."""
    found: set[str] = set()
    for name in stage.after:
        found |= {name, *upstream_of(find_stage(name), left_out)}
    return [name for name in NAMES if name in found.difference(left_out)]


def _remember_times(run_dir: RunDir, name: str, done: dict[str, Any], plan: Plan) -> None:
    """In a copied folder the times differ from those recorded. Records the new ones, so that the
    files are not read again at every command."""
    from rag_ft.lock import locked

    files = [run_dir.path / file for file in done["outputs"]]
    marks = mark_files(run_dir.path, files, done["outputs"])
    if _is_main_process() and (marks, plan["sources"]) != (done["outputs"], done["sources"]):
        now = {**done, "outputs": marks, "sources": plan["sources"]}
        with contextlib.suppress(RagFtError, OSError), locked(run_dir, name):
            write_done(run_dir.done(name), now)


def _is_main_process() -> bool:
    return os.environ.get("RANK", "0") == "0"
