"""`rag-ft run`, `rag-ft STAGE` and `rag-ft status`: runs stages and says in a line what each
did."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rag_ft.commands.arguments import config_of
from rag_ft.config import Config
from rag_ft.engine.shard_dir import ShardDir
from rag_ft.errors import NotGoodEnoughError, RagFtError
from rag_ft.evaluation.components import left_out_stages
from rag_ft.freshness import read_done, why_stale
from rag_ft.pipeline import (
    Change,
    before_this_run,
    plan_of,
    run_stage,
    stages_to_run,
    stages_until,
    stages_with_llm,
)
from rag_ft.run_dir import RunDir
from rag_ft.run_status import status
from rag_ft.stage_table import NAMES, find_stage
from rag_ft.storage import read_rows
from rag_ft.terminal import note, say

if TYPE_CHECKING:
    from rag_ft.report.requirements import Requirement

Counts = Mapping[str, Any]


def run_command(args: argparse.Namespace) -> None:
    """`rag-ft run`: all stages in order, then the result table."""
    config = config_of(args)
    left_out = left_out_stages(config.evaluate, config.reranker)
    names = stages_until(args.until or NAMES[-1], left_out)

    # What is missing is said now, and not after hours of ingesting and encoding.
    if stages_with_llm(config) & set(names):
        _ = config.llm.required_model
    if config.llm.backend == "vllm" and "generate" in names:
        from rag_ft.llm.vllm_process import find_vllm_python

        find_vllm_python(config.llm.advanced.vllm_python)

    # With a GPU each stage runs in its own process, which gives all GPU memory back at its end.
    # Whether the driver lists a device is asked without importing torch.
    if os.path.exists("/proc/driver/nvidia/gpus") or os.path.exists("/dev/nvidia0"):
        flags = ["--force"] * args.force + ["--drop-replies"] * args.drop_replies
        flags += ["--debug"] * args.debug
        for name in names:
            words = [sys.executable, "-m", "rag_ft", name, str(args.config), *args.overrides]
            code = subprocess.run([*words, *flags], check=False).returncode
            if code:
                raise RagFtError(
                    f"{name} ended with exit code {code}; run the same command again to continue"
                )
    else:
        run_stages(config, names, args.force, args.drop_replies)

    if "report" in names:
        from rag_ft.report.summary import summary_table

        run_dir = RunDir(config.run_path)
        say(summary_table(run_dir))
        say(f"report: {run_dir.report_html}")


def stage_command(args: argparse.Namespace) -> None:
    """`rag-ft STAGE`: one stage, after the disabled ones before it. With --require also the report,
    whose numbers must meet it."""
    if getattr(args, "shard", None):
        shard_command(args)
        return
    config = config_of(args)
    requirements = []
    if getattr(args, "require", None):
        from rag_ft.report.requirements import parse_requirements

        requirements = parse_requirements(args.require)  # what is wrong is said before the work
    *before, last = stages_to_run(args.command, config)
    run_stages(config, before)
    force = args.force
    if getattr(args, "retry_rejected", False):
        # An error is never stored as a reply: running again asks for what is missing alone.
        lost = num_lost(RunDir(config.run_path))
        if not lost:
            note("[generate] no pair was lost to an error of the server: nothing is asked again")
            return
        note(f"[generate] {lost} pairs were lost to errors of the server and are asked again")
        force = True
    change: Change | None = None
    if getattr(args, "compact", False):
        change = "compact"
    elif getattr(args, "update", False):
        change = "update"
    run_stages(config, [last], force, args.drop_replies, change)
    if requirements:
        run_stages(config, ["report"])
        _require(requirements, args, RunDir(config.run_path))


def _require(
    requirements: Sequence[Requirement], args: argparse.Namespace, run_dir: RunDir
) -> None:
    """Says what was measured. Raises NotGoodEnoughError where a requirement is not met."""
    from rag_ft.report.requirements import outcomes, write_junit

    metrics = json.loads(run_dir.metrics.read_text(encoding="utf-8"))
    results = outcomes(requirements, metrics, args.strict)
    for result in results:
        say(str(result))
    if args.junit:
        write_junit(args.junit, metrics["run"], results)
    if failed := [str(result) for result in results if not result.is_met]:
        raise NotGoodEnoughError("; ".join(failed))


def shard_command(args: argparse.Namespace) -> None:
    """`rag-ft STAGE --shard I/N`: the buckets of one part.

    Raises:
        ConfigError: the shard is something else, I is not below N, or the run folder holds the
            stage for other settings.
        DataError: an earlier stage has not finished, or its files have changed.
    """
    from rag_ft.engine.shards import ShardDone, shard_of
    from rag_ft.session import Session

    shard_of(args.shard)
    args.overrides = [*args.overrides, f"engine.advanced.shard={args.shard}"]
    config, stage = config_of(args), find_stage(args.command)
    run_dir = ShardDir(config.run_path, args.shard)
    plan, done = plan_of(stage, config, run_dir), read_done(run_dir, stage.name)
    if done and not why_stale(plan, done, run_dir):
        note(f"[{stage.name}] up to date")
        return
    if not stage.grows:
        before_this_run(stage, plan, run_dir)
    run_dir.copy_replies(stage.name)
    try:
        importlib.import_module(f"rag_ft.stages.{stage.name}").run(Session(config, run_dir))
    except ShardDone as end:
        note(f"[{stage.name}] shard {args.shard}: {end}")


def merge_command(args: argparse.Namespace) -> None:
    """`rag-ft merge-shards`: the results of the stages that ran as shards, from their buckets;
    those that are missing are done here."""
    config = config_of(args)
    if not config.engine.in_buckets:
        args.overrides = [*args.overrides, "engine.num_workers=1"]
        config = config_of(args)
    run_dir = RunDir(config.run_path)
    folders = {
        "ingest": run_dir.checkpoints("ingest"),
        "index": run_dir.index / "buckets",
        "generate": run_dir.checkpoints("generate"),
        "evaluate": run_dir.checkpoints("evaluate"),
    }
    names = [name for name, folder in folders.items() if folder.exists()] or ["index"]
    for name in names:
        run_stages(config, [name], change="update" if name == "index" else None)


def num_lost(run_dir: RunDir) -> int:
    """Pairs that `generate` rejected because the language model gave no reply."""
    path = run_dir.rejects("generate")
    if not path.exists():
        return 0
    return sum(row.get("reason") == "llm_error" for row in read_rows(path))


def status_command(args: argparse.Namespace) -> None:
    """`rag-ft status`: a line for each stage."""
    for name, state, why in status(config_of(args)):
        say(f"{name:16} {state:11} {why}".rstrip())


def run_stages(
    config: Config,
    names: list[str],
    force: bool = False,
    drop_replies: bool = False,
    change: Change | None = None,
) -> None:
    """Runs stages one after the other. Says on stderr what each one does and what came out."""
    for name in names:
        note(f"[{name}] {find_stage(name).does}")
        done = run_stage(name, config, force, drop_replies, change)
        if done.get("skipped"):
            line = "up to date"
        else:
            line = f"done in {done['seconds']:.0f} s: {SUMMARIES[name](done['counts'])}"
        note(f"[{name}] {line}")


# What came out of a stage, in a sentence.


def summarise_ingest(counts: Counts) -> str:
    """Of documents, chunks, words, pages and languages, and of what was rejected, read in part or
    is sensitive."""
    rejected, parts, sensitive = (
        ", ".join(f"{number} {reason}" for reason, number in counts.get(name, {}).items())
        for name in ("rejected_by_reason", "partly_read_by_reason", "sensitive_by_kind")
    )
    hidden = "masked" if counts.get("sensitive_masked") else "see ingest.sensitive"
    found = f"{counts['num_chunks']} chunks, {counts.get('num_words', 0):,} words"
    if counts.get("num_pages"):
        found += f", {counts['num_pages']} pages"
    if counts.get("num_reused_documents"):
        found += f"; {counts['num_reused_documents']} documents unchanged"
    if languages := counts.get("documents_by_language"):
        found += "; languages: " + ", ".join(
            f"{number} {name}" for name, number in languages.items()
        )
    return (
        f"{counts['num_documents']} documents ({counts['num_train_documents']} train, "
        f"{counts['num_dev_documents']} dev, {counts['num_test_documents']} test), "
        f"{found}; {counts['num_rejects']} sources rejected"
        + (f" ({rejected})" if rejected else "")
        + (f"; parts not read: {parts}" if parts else "")
        + (f"; sensitive: {sensitive} ({hidden})" if sensitive else "")
    )


def summarise_index(counts: Counts) -> str:
    """Of vectors and of what was cut."""
    cut = counts["num_cut_chunks"]
    longer = f"; {cut} chunks are longer than the encoder reads" if cut else ""
    kept = counts["num_chunks"] - counts.get("num_encoded", counts["num_chunks"])
    of_which = f", {kept} of them kept" if kept else ""
    return f"{counts['num_chunks']} vectors of {counts['dim']} numbers{of_which}{longer}"


def summarise_generate(counts: Counts) -> str:
    """Of accepted and imported pairs."""
    parts = []
    if counts["asked"]:
        share = f"{100 * counts['kept_share']:.0f} %"
        parts.append(f"{counts['accepted']} of {counts['asked']} pairs accepted ({share})")
    if counts["imported"] or counts["imported_rejected"]:
        rejected = counts["imported_rejected"]
        parts.append(f"{counts['imported']} imported" + (f", {rejected} rejected" * bool(rejected)))
    decided = {k.removeprefix("reviews_"): n for k, n in counts.items() if k.startswith("reviews_")}
    if any(decided.values()):
        found = ", ".join(f"{number} {name}" for name, number in decided.items() if number)
        parts.append(f"reviews: {found}")
    return "; ".join(parts) or "no pairs"


def summarise_train_retriever(counts: Counts) -> str:
    """Of what is served, and why."""
    name = "tuned" if counts["shipped"] else "base"
    text = f"the {name} encoder is served ({counts['reason']})"
    if fusion := counts.get(f"fusion_{name}"):
        text += f"; its mixture: {fusion}"
    if counts.get(f"ranker_{name}"):
        text += f"; ordered by the feature ranker ({counts[f'ranker_reason_{name}']})"
    if reranker := counts.get(f"reranker_{name}"):
        text += f"; reranker: {reranker}"
    return text


def summarise_train_reranker(counts: Counts) -> str:
    """Of what is served, and why."""
    if "num_rows" not in counts:
        return f"no reranker is tuned ({counts['reason']})"
    state = "is served" if counts["shipped"] else "is left out"
    return (
        f"{counts['num_steps']} steps over {counts['num_rows']} questions; "
        f"the tuned reranker {state} ({counts['reason']})"
    )


def summarise_train_generator(counts: Counts) -> str:
    """Of examples, steps and the dev loss."""
    if "num_steps" not in counts:
        return f"the base generator is kept ({counts['reason']})"
    text = f"{counts['num_steps']} steps over {counts['num_examples']} examples"
    if "dev_loss_best" in counts:
        text += f", dev loss {counts['dev_loss_first']} -> {counts['dev_loss_best']}"
    return text


def summarise_evaluate(counts: Counts) -> str:
    """Of questions, prompts and failures."""
    text = f"{counts['questions']} test questions"
    if "predictions" in counts:
        text += f", {counts['predictions']} answers from {counts['prompts']} distinct prompts"
        if counts["failed_prompts"]:
            text += f"; {counts['failed_prompts']} prompts failed"
    return text


def summarise_report(counts: Counts) -> str:
    """Of the questions and the size of the page."""
    return f"{counts['questions']} questions, a page of {counts['html_mb']} MB"


SUMMARIES: dict[str, Callable[[Counts], str]] = {
    "ingest": summarise_ingest,
    "index": summarise_index,
    "generate": summarise_generate,
    "train_retriever": summarise_train_retriever,
    "train_reranker": summarise_train_reranker,
    "train_generator": summarise_train_generator,
    "evaluate": summarise_evaluate,
    "report": summarise_report,
}
