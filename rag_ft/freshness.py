"""Whether a stage is up to date: what its result depends on, and whether files are unchanged."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rag_ft.done_files import (
    OLD_LAYOUT,
    SOURCES,
    Plan,
    config_is_damaged,
    read_head,
    read_plan,
)
from rag_ft.errors import DataError
from rag_ft.file_marks import Mark, damage, folder_times, mark_file, mark_files, same_times
from rag_ft.run_dir import RunDir
from rag_ft.run_files import FILES
from rag_ft.stage_settings import STARTING, portable, settings_of, unused_sections
from rag_ft.storage import content_hash, encodable, sync
from rag_ft.versions import forgotten_list

if TYPE_CHECKING:
    from rag_ft.config import Config, IngestConfig

REVIEWS = "reviews.jsonl"  # an input of generate that people write at any time
MANY_SOURCES = 1000  # of more files `status` looks at the folders alone


def plan_stage(
    name: str,
    sections: Sequence[str],
    upstream: Sequence[str],
    config: Config,
    run_dir: RunDir,
    quick: bool = False,
) -> Plan:
    """What a stage's result depends on, as of now.

    Args:
        name: of the stage.
        sections: sections of the configuration, or single settings, that change its result.
        upstream: earlier stages whose results it reads, in pipeline order.
        config: of the run.
        run_dir: of the run.
        quick: of many source files only the times of their folders are looked at.

    Returns:
        {fingerprint, config, inputs, sources}. `inputs` holds a hash for every stage of `upstream`
        and for every file of the user; `sources` holds the marks of these files. `folders` are
        those of many source files, with their times.

    Raises:
        DataError: an earlier stage has not finished, one of its files has changed, or one of its
            own inputs has been made anew.
    """
    from rag_ft.config_loader import flat

    inputs = _finished_inputs(name, upstream, run_dir)
    before = (read_head(run_dir.done(name)) or {}) if quick else {}
    skips = bool(before.get("folders")) and same_times(before["folders"])
    files = source_files(name, sections, config, with_documents=not skips)
    own, sources = _marks_of(files, recorded_sources(run_dir, whole=name == "ingest" and not skips))
    inputs |= own
    used = {*sections, "run"} - unused_sections(name, config.reranker)
    chosen = settings_of(name, used, flat(config), run_dir)
    if skips and (chosen, inputs) == (before["config"], before["inputs"]):
        fingerprint = before["fingerprint"]
    else:
        if skips:  # what has changed is named, and the fingerprint counts the documents
            done = read_done(run_dir, name) or before
            inputs = {n: v for n, v in done["inputs"].items() if n.startswith(SOURCES)} | inputs
            sources = {n: v for n, v in done["sources"].items() if n.startswith(SOURCES)} | sources
        fingerprint = fingerprint_of(name, chosen, inputs)
    plan = {"fingerprint": fingerprint, "config": chosen, "inputs": inputs, "sources": sources}
    folders = before["folders"] if skips else _folders_of(name, files, config.ingest)
    return {**plan, "folders": folders} if folders else plan


def fingerprint_of(name: str, chosen: Mapping[str, Any], inputs: Mapping[str, str]) -> str:
    """One hash over what a stage's result depends on: its `config` and `inputs` in a plan."""
    return content_hash(name, portable(chosen), inputs)


def _finished_inputs(name: str, upstream: Sequence[str], run_dir: RunDir) -> dict[str, str]:
    """{stage: hash of its result} of earlier stages: finished, undamaged, made from each other."""
    inputs: dict[str, str] = {}
    for earlier in upstream:
        done = read_head(run_dir.done(earlier))
        if done is None:
            raise DataError(
                f"{name} builds on {earlier}, which has not finished in {run_dir.path}: run it "
                "first"
            )
        if "outputs" not in done:
            raise DataError(OLD_LAYOUT.format(path=run_dir.path, stage=earlier))
        why = damage(run_dir.path, done["outputs"])
        remade = [n for n in inputs if done["inputs"].get(n, inputs[n]) != inputs[n]]
        if not why and remade:
            why = f"{remade[0]} was made anew"
        if why:
            remedy = f"run `rag-ft {earlier} CONFIG --force` first"
            raise DataError(f"{name} builds on {earlier}, which is stale ({why}): {remedy}")
        inputs[earlier] = done["result"]
    return inputs


def _marks_of(
    files: Mapping[str, Path], known: Mapping[str, Mark]
) -> tuple[dict[str, str], dict[str, Mark]]:
    """(hashes, marks) of the user's files; `known` marks save reading unchanged ones."""
    marks = {file: mark_file(path, known.get(file)) for file, path in files.items()}
    hashes = {file: str(mark[2]) if mark else "missing" for file, mark in marks.items()}
    return hashes, {file: mark for file, mark in marks.items() if mark}


def _folders_of(stage: str, files: Mapping[str, Path], ingest: IngestConfig) -> dict[str, int]:
    """The folders of many source files with their times; of few files, none."""
    roots = {path if isinstance(path, Path) else path.path for path in ingest.sources}
    if stage != "ingest" or len(files) <= MANY_SOURCES or not all(map(Path.is_dir, roots)):
        return {}
    return folder_times([p for file, p in files.items() if file.startswith(SOURCES)], roots)


def recorded_sources(run_dir: RunDir, whole: bool) -> dict[str, Mark]:
    """The marks of the user's files that any stage has recorded: unchanged ones are not read.
    Without `whole`, those of many documents may be missing."""
    known: dict[str, Mark] = {}
    read = read_plan if whole else read_head
    for stage in FILES:
        with contextlib.suppress(DataError):  # a damaged file is reported where it matters
            recorded = read(run_dir.done(stage)) or read_plan(run_dir.started(stage))
            known |= (recorded or {}).get("sources", {})
    return known


def why_stale(plan: Plan, done: Plan, run_dir: RunDir) -> str | None:
    """Why a finished stage is stale; None where it is up to date."""
    if "outputs" not in done:
        return "made by an earlier version of rag-ft; replies of a language model are reused"
    if done["fingerprint"] != plan["fingerprint"]:
        return what_changed(plan, done) or "made by another version of rag-ft"
    why = damage(run_dir.path, done["outputs"])
    return f"its output {why}" if why else None


def what_changed(plan: Plan, before: Plan) -> str:
    """The settings and inputs that differ, the first three of them by name."""
    old = {**before["config"], **before["inputs"]}
    new = {**plan["config"], **plan["inputs"]}
    changed = [k for k in {**old, **new} if old.get(k) != new.get(k)]
    shown = [
        f"{k} {old.get(k)} -> {new.get(k)}" if k in plan["config"] else f"{k} changed"
        for k in changed[:3]
    ]
    return ", ".join(shown) + (f" and {len(changed) - 3} more" if len(changed) > 3 else "")


def how_again(plan: Plan, done: Plan) -> str:
    """How a stale stage is run again: new reviews replace nothing."""
    return "run it again" + ("" if only_reviews_changed(plan, done) else " with --force")


def only_reviews_changed(plan: Plan, before: Plan) -> bool:
    """Whether a stage would do the same again but for the reviews that it applies at its end."""
    new, old = plan["inputs"], before["inputs"]
    changed = {name for name in {**new, **old} if new.get(name) != old.get(name)}
    return plan["config"] == before["config"] and changed == {REVIEWS}


def reviews_can_be_applied(plan: Plan, before: Plan, run_dir: RunDir) -> bool:
    """Whether what a stage wrote before is good for applying the new reviews to it."""
    others = {k: v for k, v in before.get("outputs", {}).items() if k != run_dir.qa.name}
    return only_reviews_changed(plan, before) and not damage(run_dir.path, others)


def read_done(run_dir: RunDir, name: str) -> Plan | None:
    """The done-file of a stage, or None where it has not finished."""
    return read_plan(run_dir.done(name))


def record_outputs(
    run_dir: RunDir, name: str, known: Mapping[str, Mark] | None = None
) -> dict[str, Any]:
    """{outputs, result} for a done-file: the marks of all files that the stage wrote, and one hash
    over those that later stages read. Files with the size and time of a `known` mark, which an
    update has left as they were, are not read."""
    results = mark_files(run_dir.path, run_dir.writes(name, "result"), known)
    others = mark_files(run_dir.path, [*run_dir.writes(name, "replies"), run_dir.started(name)])
    for file in (*results, *others):
        sync(run_dir.path / file)  # before the done-file says that they are there
    hashes = {file: mark[2] for file, mark in results.items()}
    return {"outputs": results | others, "result": content_hash(hashes)}


def check_files(
    run_dir: RunDir, names: Sequence[str] = tuple(FILES), finished: Sequence[str] = ()
) -> None:
    """Checks the files of a run for a command that reads them and is not a stage.

    Args:
        run_dir: of the run.
        names: stages whose files the command reads.
        finished: stages that must have finished if they were started.

    Raises:
        DataError: a file that one of the stages `names` wrote is missing or has changed, or
            config.yaml is, or a stage of `finished` was interrupted.
    """
    for name in names:
        done = read_done(run_dir, name)
        if done and (why := damage(run_dir.path, done.get("outputs", {}))):
            raise DataError(
                f"{run_dir.path}: {why} since {name} wrote it: run `rag-ft {name} CONFIG --force`"
            )
        if not done and name in finished and run_dir.started(name).exists():
            raise DataError(
                f"{run_dir.path}: {name} has not finished: run `rag-ft {name} CONFIG` to continue "
                "it"
            )
    if config_is_damaged(run_dir):
        raise DataError(
            f"{run_dir.config} is missing or has changed: run the last stage again with --force"
        )


def require_pairs(run_dir: RunDir) -> None:
    """Raises DataError where the run has no pairs yet."""
    if not run_dir.qa.exists():
        raise DataError(f"{run_dir.qa} does not exist: run `rag-ft generate CONFIG` first")


def source_files(
    stage: str, sections: Sequence[str], config: Config, with_documents: bool = True
) -> dict[str, Path]:
    """{name: path} of the user's own files that a stage reads: documents, questions, prompts and
    models that are folders. The names stay the same when all files move together."""
    folders: dict[str, dict[str, Path | str | None]] = {
        "llm": {"llm.model": config.llm.model, "llm.prompts": config.llm.prompts},
        "encoder": {"encoder.model": config.encoder.model},
        "reranker": {"reranker.model": config.reranker.model},
        **{s: {f"{s}.advanced.start": getattr(config, s).advanced.start} for s in STARTING},
        "evaluate": {
            "evaluate.adapter": config.evaluate.adapter,
            "evaluate.encoder": config.evaluate.encoder,
            "evaluate.advanced.index": config.evaluate.advanced.index,
        },
    }
    named: list[tuple[str, Path]] = []
    for section in sections:
        for setting, value in folders.get(section, {}).items():
            folder = Path(value or "").expanduser()
            # A model that is no folder is known by its name alone.
            if value and folder.is_dir():
                for path in sorted(path for path in folder.rglob("*") if path.is_file()):
                    named.append((f"{setting}/{path.relative_to(folder).as_posix()}", path))
    if stage == "generate":
        named += [(f"generate.questions/{path.name}", path) for path in config.generate.questions]
        run_dir = RunDir(config.run_path)
        named += [(path.name, path) for path in (run_dir.reviews, run_dir.frozen) if path.exists()]
        if examples := config.generate.advanced.examples:
            named.append((f"generate.examples/{examples.name}", examples))
    if stage == "ingest":
        from rag_ft.documents.source_files import find_files

        known = (forgotten_list(config.run_path), config.ingest.advanced.splits)
        named += [(path.name, path) for path in known if path and path.exists()]
        # Files of questions may lie among the documents: they are not documents.
        questions = {os.path.realpath(path) for path in config.generate.questions}
        for file in find_files(config.ingest.sources) if with_documents else ():
            if not questions or os.path.realpath(file.path) not in questions:
                named.append((f"{SOURCES}{file.id}", file.path))

    # Two files may have the same name.
    files: dict[str, Path] = {}
    for name, path in named:
        unique, number = encodable(name), 2
        while unique in files:
            unique, number = f"{encodable(name)} ({number})", number + 1
        files[unique] = path
    return files
