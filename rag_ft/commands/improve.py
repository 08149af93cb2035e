"""`rag-ft improve`: the next version of a run, from changed documents, reviews and feedback."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rag_ft.config_loader import flat, load_config
from rag_ft.done_files import read_plan
from rag_ft.errors import ConfigError, DataError
from rag_ft.evaluation.components import COMPONENTS, left_out_stages
from rag_ft.forgetting.record import Forgotten
from rag_ft.freshness import check_files, read_done, why_stale
from rag_ft.improving.decision import decide
from rag_ft.improving.frozen import compare_documents, freeze
from rag_ft.improving.people import carried_over, reviews_of, said_of, without_evidence
from rag_ft.improving.take_over import UPDATED, take_over
from rag_ft.lock import locked
from rag_ft.pipeline import plan_of, stages_until
from rag_ft.run_dir import RunDir
from rag_ft.stage_runs import run_stages_of
from rag_ft.stage_table import NAMES, find_stage
from rag_ft.storage import write_jsonl
from rag_ft.terminal import note, say
from rag_ft.versions import (
    Version,
    forgotten_list,
    next_version,
    promote,
    promoted,
    versions_of,
    write_version,
)


def improve_command(args: argparse.Namespace) -> None:
    """`rag-ft improve`."""
    if args.max_loss < 0:
        raise ConfigError("--max-loss is a number of points from 0 on")
    run = args.run if args.run.name else args.run.resolve()
    version = improve(run, args.documents, args.start, args.max_loss / 100)
    say(str(version.decision["sentence"]))
    say(f"report: {version.run_dir.report_html}")


def improve(run: Path, documents: Sequence[Path], start: str, max_loss: float) -> Version:
    """Makes the next version of a run, or finishes one that was begun, and promotes it where it is
    no worse than the one that is served.

    Args:
        run: any version of the run.
        documents: files and folders beside those of ingest.sources.
        start: what trainings start from: base, or parent.
        max_loss: see `improving.decision.decide`.

    Raises:
        ConfigError: nothing has changed since the served version.
        DataError: the served version is not evaluated, or its files are damaged.
        RagFtError: another process improves this run, or a stage failed.
    """
    first = versions_of(run)[0].run_dir
    with locked(first, "improve"):
        version = unfinished(run)
        if version is None:
            begin(run, documents, start)
            version = versions_of(run)[-1]
        elif documents:
            raise ConfigError(
                f"{version.name} is not finished: run improve without --documents first, or delete "
                f"{version.run_dir.path} to give it up"
            )
        run_dir, parent = version.run_dir, RunDir(run.with_name(str(version.parent)))
        note(f"{version.name} continues {version.parent}")

        # Documents first: what has changed says which test questions stay.
        config = load_config(run_dir.config)
        left_out = left_out_stages(config.evaluate, config.reranker)
        ingest, *others = stages_until(NAMES[-1], left_out)
        run_stage_of(run_dir, ingest)
        changes = take_changes(run, parent, run_dir)
        for name in others:
            run_stage_of(run_dir, name)

        # The parent's test questions decide. A killed process may repeat this.
        decision = decide(parent, run_dir, max_loss)
        if decision["promoted"]:
            promote(version)
        write_version(run_dir, parent.path.name, changes, decision)
        return next(v for v in versions_of(run) if v.name == version.name)


def unfinished(run: Path) -> Version | None:
    """The version that was begun and not decided yet, if there is one."""
    return next((v for v in versions_of(run) if v.number > 1 and not v.decision), None)


def begin(run: Path, documents: Sequence[Path], start: str) -> None:
    """Makes the folder of the next version. It continues the one that is served, with the settings
    and the replies of the one that was made last."""
    if missing := [path for path in documents if not path.exists()]:
        raise ConfigError(f"--documents {missing[0]}: there is no such file or folder")
    versions = [version.run_dir for version in versions_of(run)]
    parent, last, folder = RunDir(promoted(run)), versions[-1], next_version(run)
    for run_dir in {parent, last}:
        check_files(run_dir, finished=NAMES)
    if not parent.metrics.exists():
        raise DataError(
            f"{parent.path} has no report, which the next version is compared with: run `rag-ft "
            "run CONFIG` first"
        )
    config = load_config(last.config, [f"run.dir={json.dumps(str(last.path))}"])
    sources = [*config.ingest.sources, *documents]
    ingest = config.ingest.model_copy(update={"sources": list(dict.fromkeys(sources))})
    config = config.model_copy(update={"ingest": ingest})

    # What has learnt from a forgotten document is trained again.
    learnt = Forgotten(forgotten_list(parent.path)).learnt(parent)
    if learnt and start == "parent":
        raise ConfigError(
            f"{parent.path.name} learnt from a forgotten document ({', '.join(learnt)}): use "
            "--start base"
        )
    seen = {without_evidence(review) for review in reviews_of(last)}
    is_new = bool(learnt)
    is_new |= any(without_evidence(review) not in seen for review, _ in said_of(versions))
    for name in ("ingest", "generate"):
        # What generate depends on is known only where ingest is up to date.
        if not is_new:
            plan, done = plan_of(find_stage(name), config, last), read_done(last, name)
            is_new = done is None or why_stale(plan, done, last) is not None
    if not is_new:
        raise ConfigError(
            f"nothing has changed since {last.path.name}: no document, question, review or "
            "feedback is new"
        )
    settings = config.model_dump(mode="json")
    settings["run"]["dir"] = str(folder)
    for component in COMPONENTS.values():
        tuned = parent.path / component.name
        is_start = start == "parent" and tuned.exists()
        settings[component.stage]["advanced"]["start"] = str(tuned) if is_start else None
    take_over(parent, last, folder, settings)


def run_stage_of(run_dir: RunDir, name: str) -> None:
    """Runs a stage of a version. What an earlier try made of other documents is made anew."""
    before = read_done(run_dir, name) or read_plan(run_dir.started(name))
    plan = plan_of(find_stage(name), load_config(run_dir.config), run_dir)
    is_other = before is not None and before["fingerprint"] != plan["fingerprint"]
    if name in UPDATED:
        run_stages_of(run_dir.config, [name], change="update")
    else:
        run_stages_of(run_dir.config, [name], force=is_other)


def take_changes(run: Path, parent: RunDir, version: RunDir) -> dict[str, Any]:
    """Writes what generate builds on besides the chunks: the frozen test questions, and what people
    said. Returns the `changes` of version.json, which it writes too."""
    documents = compare_documents(parent, version)
    settings = flat(load_config(version.config))
    starts = [settings[f"{component.stage}.advanced.start"] for component in COMPONENTS.values()]
    if documents.now_test and any(starts):
        raise ConfigError(
            f"{documents.now_test[0]} has become a test document, and {parent.path.name} was "
            f"trained on it: delete {version.path} and run improve with --start base"
        )
    num_frozen, retired = freeze(parent, version, documents)
    said = said_of([other.run_dir for other in versions_of(run)])
    if said:
        write_jsonl(version.reviews, carried_over(said, version))
    changes = {
        **asdict(documents),
        "reviews": len(said),
        "test_questions": num_frozen,
        "retired": len(retired),
    }
    write_version(version, parent.path.name, changes)
    numbers = [f"{len(documents.added)} added", f"{len(documents.changed)} changed"]
    note(f"documents: {', '.join(numbers)}, {len(documents.deleted)} deleted")
    frozen = f"{num_frozen} test questions of {parent.path.name} decide"
    if retired:
        frozen += f"; {len(retired)} are retired because their documents have changed: see "
        frozen += str(version.rejects("improve"))
    note(frozen)
    return changes
