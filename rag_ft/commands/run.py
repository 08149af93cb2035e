"""`rag-ft run`, `rag-ft STAGE` and `rag-ft status`: runs stages and says in a line what each
did."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rag_ft.chunk_store import ChunkStore
from rag_ft.commands.arguments import config_of
from rag_ft.errors import ConfigError, NotGoodEnoughError
from rag_ft.evaluation.components import left_out_stages
from rag_ft.pipeline import Change, plan_of, stages_to_run, stages_until, stages_with_llm
from rag_ft.run_dir import RunDir
from rag_ft.run_status import status
from rag_ft.stage_runs import has_gpu, run_in_processes, run_stages
from rag_ft.stage_table import NAMES, find_stage
from rag_ft.storage import read_rows
from rag_ft.terminal import note, say

if TYPE_CHECKING:
    from rag_ft.report.requirements import Requirement


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
    """`rag-ft index --shard I/N`: encodes one part of the chunks.

    Raises:
        ConfigError: the shard is something else, or I is not below N.
        DataError: ingest has not finished, or its files have changed.
    """
    config, text = config_of(args), args.shard
    number, _, of = text.partition("/")
    if not (number.isdigit() and of.isdigit() and int(number) < int(of)):
        raise ConfigError(f"--shard {text}: write I/N with I from 0 to N - 1, such as 0/4")
    run_dir, stage = RunDir(config.run_path), find_stage("index")
    plan_of(stage, config, run_dir)  # checks what it builds on
    # Imported here: the encoder takes seconds to import.
    from rag_ft.retrieval.buckets import encode_shard
    from rag_ft.retrieval.encoder import load_encoder

    encoder, chunks = load_encoder(config.encoder), ChunkStore(run_dir.chunks)
    shard, seed = (int(number), int(of)), config.run.seed
    made = encode_shard(run_dir.index, chunks, encoder, config.retrieval, seed, shard)
    note(f"[index] shard {text}: {made} buckets encoded; merge-shards writes the index")


def merge_command(args: argparse.Namespace) -> None:
    """`rag-ft merge-shards`: the index from the buckets of all shards; those that are missing are
    encoded."""
    config = config_of(args)
    engine = config.engine.advanced
    if not engine.num_workers:
        advanced = engine.model_copy(update={"num_workers": 1})
        engine_config = config.engine.model_copy(update={"advanced": advanced})
        config = config.model_copy(update={"engine": engine_config})
    run_stages(config, ["index"], change="update")


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
