"""`rag-ft run`, `STAGE`, `merge-shards` and `status`: runs stages and says in a line what each
did."""

from __future__ import annotations

import argparse
import gc
import importlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rag_ft.commands.arguments import config_of
from rag_ft.engine.shard_dir import ShardDir
from rag_ft.errors import ConfigError, NotGoodEnoughError
from rag_ft.evaluation.components import left_out_stages
from rag_ft.freshness import read_done, why_stale
from rag_ft.model_hub import resolve
from rag_ft.pipeline import (
    Change,
    before_this_run,
    plan_of,
    stages_to_run,
    stages_until,
    stages_with_llm,
)
from rag_ft.run_dir import RunDir
from rag_ft.run_status import status
from rag_ft.stage_runs import has_gpu, run_in_processes, run_stages
from rag_ft.stage_table import NAMES, find_stage
from rag_ft.storage import read_rows
from rag_ft.terminal import note, say

if TYPE_CHECKING:
    from rag_ft.config import LLMConfig
    from rag_ft.report.requirements import Requirement

SCORED = ("train_retriever", "train_reranker")  # of which shards only score


def run_command(args: argparse.Namespace) -> None:
    """`rag-ft run`: all stages in order, then the result table."""
    config = config_of(args)
    left_out = left_out_stages(config.evaluate, config.reranker)
    names = stages_until(args.until or NAMES[-1], left_out)

    # What is missing is said now, and not after hours of ingesting and encoding.
    if stages_with_llm(config) & set(names):
        require_language_model(config.llm)
    if config.reranker.untuned:
        resolve(config.reranker.untuned, "reranker")
    for path in config.generate.questions if "generate" in names else ():
        if not path.exists():
            raise ConfigError(f"generate.questions: {path} does not exist: correct the path")
    if config.llm.backend == "vllm" and "generate" in names:
        from rag_ft.llm.vllm_process import find_vllm_python

        find_vllm_python(config.llm.advanced.vllm_python)

    if has_gpu():
        flags = ["--force"] * args.force + ["--drop-replies"] * args.drop_replies
        run_in_processes(args.config, names, [*args.overrides, *flags, *["--debug"] * args.debug])
    else:
        run_stages(config, names, args.force, args.drop_replies)

    if "report" in names:
        from rag_ft.report.summary import summary_table

        run_dir = RunDir(config.run_path)
        say(summary_table(run_dir))
        say(f"report: {run_dir.report_html}")


def require_language_model(llm: LLMConfig) -> None:
    """Raises ConfigError where the model, the prompts or the address of the server are missing."""
    from rag_ft.prompts.prompt_set import load_prompts

    model = llm.required_model
    if llm.backend == "openai":  # such a server alone needs to have the model
        _ = llm.required_base_url
    else:
        resolve(model, "llm")
    load_prompts(llm.prompts, llm.advanced.abstain)


def stage_command(args: argparse.Namespace) -> None:
    """`rag-ft STAGE`: one stage, after the disabled ones before it. With --require also the report,
    whose numbers must meet it."""
    if getattr(args, "shard", None):
        run_shard(args)
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
        failed = num_without_reply(RunDir(config.run_path))
        if not failed:
            note("[generate] no pair was rejected because of the server: nothing is asked again")
            return
        note(f"[generate] {failed} pairs were rejected because of the server and are asked again")
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


def run_shard(args: argparse.Namespace) -> None:
    """`rag-ft STAGE --shard I/N`: the buckets of one part. Of a training, shard 0 trains until it
    needs scores of the language model, and all shards score.

    Raises:
        ConfigError: the shard is something else, I is not below N, or the run folder holds the
            stage for other settings.
        DataError: an earlier stage has not finished, or its files have changed.
    """
    from rag_ft.engine.language_model import Opening, score_planned
    from rag_ft.engine.shards import ShardDone, end_shard, shard_of
    from rag_ft.session import Session

    number, _ = shard_of(args.shard)
    args.overrides = [*args.overrides, f"engine.advanced.shard={args.shard}"]
    config, stage = config_of(args), find_stage(args.command)
    run_dir = ShardDir(config.run_path, args.shard)
    plan, done = plan_of(stage, config, run_dir), read_done(run_dir, stage.name)
    if done and not why_stale(plan, done, run_dir):
        note(f"[{stage.name}] up to date")
        return
    if not stage.grows:
        before_this_run(stage, plan, run_dir)
    try:
        if stage.name not in SCORED:
            run_dir.copy_replies(stage.name)
            importlib.import_module(f"rag_ft.stages.{stage.name}").run(Session(config, run_dir))
        elif number == 0:  # the training itself, up to the scores
            run_stages(config, [stage.name])
        else:
            opening = Opening(config.llm, config.run.seed, {})
            score_planned(opening, run_dir.checkpoints(stage.name), config.engine)
            end_shard(config.engine)
    except ShardDone as end:
        note(f"[{stage.name}] shard {args.shard}: {end}")


def merge_shards_command(args: argparse.Namespace) -> None:
    """`rag-ft merge-shards`: the results of the stages that ran as shards, from their buckets;
    those that are missing are done here."""
    from rag_ft.engine.language_model import planned_scores

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
    names = [name for name, folder in folders.items() if folder.exists()]
    names += [name for name in SCORED if planned_scores(run_dir.checkpoints(name))]
    names = [name for name in NAMES if name in names] or ["index"]
    for name in names:
        run_stages(config, [name], change="update" if name == "index" else None)


def num_without_reply(run_dir: RunDir) -> int:
    """Pairs that `generate` rejected because the language model gave no reply."""
    path = run_dir.rejects("generate")
    if not path.exists():
        return 0
    return sum(row.get("reason") == "llm_error" for row in read_rows(path))


def status_command(args: argparse.Namespace) -> None:
    """`rag-ft status`: a line for each stage."""
    for name, state, why in status(config_of(args)):
        say(f"{name:16} {state:11} {why}".rstrip())
    gc.freeze()  # at its exit Python looks for garbage in all other objects: 10 % of the time
