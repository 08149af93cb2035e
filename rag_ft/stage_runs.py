"""Runs stages and says in a line what each one did, for the commands that run several."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rag_ft.config import Config
from rag_ft.config_loader import load_config
from rag_ft.errors import RagFtError
from rag_ft.pipeline import Change, run_stage
from rag_ft.stage_table import find_stage
from rag_ft.terminal import note

Counts = Mapping[str, Any]
INTERRUPTED = 130  # the exit code of a command that Ctrl-C has ended


def has_gpu() -> bool:
    """Whether the driver lists a device; asked without importing torch."""
    return os.path.exists("/proc/driver/nvidia/gpus") or os.path.exists("/dev/nvidia0")


def run_command_line(words: Sequence[str], folder: Path | None = None) -> None:
    """Runs `rag-ft WORDS` in a process of its own, in `folder`.

    Ctrl-C reaches that process too. It is waited for, since it stops what it has started, and has
    said that it was interrupted: this one ends without another line.

    Raises:
        RagFtError: the command failed; it has said why.
    """
    command = [sys.executable, "-m", "rag_ft", *words]
    with subprocess.Popen(command, cwd=folder) as process:
        try:
            code = process.wait()
        except KeyboardInterrupt:
            process.wait()
            raise SystemExit(INTERRUPTED) from None
    if code == INTERRUPTED:
        raise SystemExit(code)
    if code:
        raise RagFtError(
            f"{words[0]} ended with exit code {code}; run the same command again to continue"
        )


def run_in_processes(config: Path, names: Sequence[str], words: Sequence[str] = ()) -> None:
    """Runs each stage in a process of its own, which gives all GPU memory back at its end. `words`
    are overrides and flags.

    Raises:
        RagFtError: a stage failed; it has said why.
    """
    for name in names:
        run_command_line([name, str(config), *words])


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


def run_stages_of(
    path: Path, names: list[str], force: bool = False, change: Change | None = None
) -> None:
    """As `run_stages`, of a configuration file; where there is a GPU, in processes of their own."""
    if has_gpu():
        flags = ["--force"] * force + ([f"--{change}"] if change else [])
        run_in_processes(path, names, flags)
    else:
        run_stages(load_config(path), names, force, change=change)


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
