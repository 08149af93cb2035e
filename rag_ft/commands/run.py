"""`rag-ft run`, `rag-ft STAGE` and `rag-ft status`: runs stages and says in a line what each
did."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

from rag_ft.commands.arguments import config_of
from rag_ft.config import Config
from rag_ft.errors import RagFtError
from rag_ft.pipeline import run_stage, stages_to_run, stages_until, stages_with_llm, status
from rag_ft.run_dir import RunDir
from rag_ft.stage_table import NAMES, find_stage
from rag_ft.storage import read_rows
from rag_ft.terminal import note, say

Counts = Mapping[str, Any]


def run_command(args: argparse.Namespace) -> None:
    """`rag-ft run`: all stages in order, then the result table."""
    config = config_of(args)
    names = stages_until(args.until or NAMES[-1], config.evaluate)

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
    """`rag-ft STAGE`: one stage, after the disabled ones before it."""
    config = config_of(args)
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
    run_stages(config, [last], force, args.drop_replies)


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
    config: Config, names: list[str], force: bool = False, drop_replies: bool = False
) -> None:
    """Runs stages one after the other. Says on stderr what each one does and what came out."""
    for name in names:
        note(f"[{name}] {find_stage(name).does}")
        done = run_stage(name, config, force, drop_replies)
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
    return f"{counts['num_chunks']} vectors of {counts['dim']} numbers{longer}"


def summarise_generate(counts: Counts) -> str:
    """Of accepted and imported pairs."""
    parts = []
    if counts["asked"]:
        share = f"{100 * counts['kept_share']:.0f} %"
        parts.append(f"{counts['accepted']} of {counts['asked']} pairs accepted ({share})")
    if counts["imported"] or counts["imported_rejected"]:
        rejected = counts["imported_rejected"]
        parts.append(f"{counts['imported']} imported" + (f", {rejected} rejected" * bool(rejected)))
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
    "train_generator": summarise_train_generator,
    "evaluate": summarise_evaluate,
    "report": summarise_report,
}
