"""Stage 4: pairs -> negatives, LM scores -> a tuned encoder and its index, if dev documents say it finds more."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from rag_ft.config import TrainRetrieverConfig
from rag_ft.errors import ConfigError
from rag_ft.paths import RunDir
from rag_ft.records import write_jsonl
from rag_ft.session import Session

if TYPE_CHECKING:
    from rag_ft.training.gate import DevScores, Verdict
    from rag_ft.training.pairs import Pairs
    from rag_ft.training.phases import Candidate, LeftOut, Tuning
    from rag_ft.training.processes import Processes

logger = logging.getLogger(__name__)
BY_CLOZES = "nobody asked about dev documents: their sentences ask for the rest of their chunk"
Counts = dict[str, int | float | str]


def run(session: Session) -> Counts:
    """Writes retriever/, retriever_index/ (where the gate ships them), lm_scores.jsonl and the training log.

    Raises:
        DataError: something of a test document is among the pairs to train on.
        ConfigError: the encoder cannot be loaded or takes no adapter, or fewer processes run than were asked for.
    """
    from rag_ft.training.adapters import sharded
    from rag_ft.training.pairs import select_pairs, with_cloze_dev
    from rag_ft.training.phases import base_candidate
    from rag_ft.training.processes import join_processes

    config, run_dir, settings = session.config, session.run_dir, session.config.train_retriever
    if not settings.enabled:
        return {"shipped": 0, "reason": "train_retriever.enabled is false"}
    if sharded():
        raise ConfigError(
            "with FSDP no process holds the whole encoder, which is small: launch train_retriever with "
            "configs/accelerate/ddp.yaml (the generator may be trained with FSDP)"
        )
    processes = join_processes()
    pairs = select_pairs(run_dir, session.chunks, config.ingest.advanced.near_duplicate_similarity)
    if settings.advanced.self_supervised:
        pairs = with_cloze_dev(pairs, config.run.seed)
    processes.first(lambda: write_jsonl(run_dir.rejects("train_retriever"), pairs.rejects))
    counts: Counts = {"num_train_pairs": len(pairs.train), "num_dev_pairs": len(pairs.dev)}
    counts["num_dropped_test_questions"] = len(pairs.rejects)
    if reason := _nothing_to_train_on(settings, pairs):
        return {**counts, "shipped": 0, "reason": reason}
    tuning = open_tuning(session, pairs, processes)
    base = base_candidate(tuning)
    steps, left_out = train(tuning, base)
    verdict = decide(tuning, base, steps[-1])
    processes.first(
        lambda: _ship(tuning, [*_log_rows(steps, left_out, verdict)], steps[-1], verdict)
    )
    return {**counts, **_summary(steps, left_out, base, verdict)}


def train(t: Tuning, base: Candidate) -> tuple[list[Candidate], list[LeftOut]]:
    """The base and the kept phases in order; each starts from the weights of the one before. A later round, or an LSR
    phase, that finds less on dev than what there was before is left out, and ends the training."""
    from rag_ft.training.pairs import with_positive
    from rag_ft.training.phases import LeftOut, cloze_phase, contrastive_phase, lsr_phase

    knobs, kept, left_out = t.config.train_retriever, [base], list[LeftOut]()
    if knobs.advanced.self_supervised:
        kept.append(cloze_phase(t, kept[-1]))
    for number in range(knobs.advanced.rounds):
        before = kept[-1]
        if knobs.epochs and len(with_positive(t.pairs.train, t.pairs.chunks)) > 1:
            after = contrastive_phase(t, number, kept[-1])
            if number and not after.scores.above(before.scores):
                left_out.append(
                    LeftOut(after.name, "not better on dev than the round before", after.scores)
                )
                break
            kept.append(after)
        if knobs.advanced.lsr_steps and t.pairs.train:
            taught = lsr_phase(t, number, kept[-1])
            if isinstance(taught, LeftOut):
                left_out.append(taught)
            elif taught.scores.not_below(kept[-1].scores) or not knobs.advanced.gate:
                kept.append(taught)
            else:
                left_out.append(LeftOut(taught.name, "worse on dev than without it", taught.scores))
        if kept[-1] is before:
            break
    for phase in left_out:
        logger.warning("%s is left out: %s", phase.name, phase.reason)
    return kept, left_out


def decide(t: Tuning, base: Candidate, tuned: Candidate) -> Verdict:
    """The gate: all of the tuning, part of it, or none."""
    from rag_ft.training.gate import Verdict, describe_change, judge

    if tuned is base:
        return Verdict(0.0, base.scores, "no phase was kept")
    if not t.config.train_retriever.advanced.gate:
        change = describe_change(base.scores, tuned.scores, t.pairs.dev)
        return Verdict(1.0, tuned.scores, f"not gated; {change}")
    verdict = judge(base.scores, _shares(t, tuned), t.pairs.dev)
    return replace(verdict, reason=f"{verdict.reason} ({BY_CLOZES})") if t.pairs.clozed else verdict


def _shares(t: Tuning, tuned: Candidate) -> Iterator[tuple[float, DevScores]]:
    from rag_ft.training.gate import ALPHAS
    from rag_ft.training.phases import build_candidate, measure_candidate

    yield 1.0, tuned.scores
    t.student.load(tuned.state)
    for alpha in ALPHAS:
        place = _share_folder(t, tuned, alpha)
        t.processes.first(partial(build_candidate, t, place, alpha))
        yield alpha, measure_candidate(t, place)


def _share_folder(t: Tuning, tuned: Candidate, alpha: float) -> RunDir:
    return tuned.folder if alpha == 1 else RunDir(t.folder / f"share-{alpha}")


def _nothing_to_train_on(knobs: TrainRetrieverConfig, pairs: Pairs) -> str | None:
    if knobs.advanced.self_supervised and len(pairs.chunks) > 1:
        return None
    if len(pairs.train) < 2:
        return "fewer than two questions of train documents: generate more, or set train_retriever.advanced.self_supervised=true"
    return (
        None
        if knobs.epochs or knobs.advanced.lsr_steps
        else "train_retriever.epochs and lsr_steps are 0"
    )


def open_tuning(session: Session, pairs: Pairs, processes: Processes) -> Tuning:
    """The encoder ready to be trained, with all that the phases need; they keep their files in the run's checkpoints.

    Raises:
        ConfigError: the encoder cannot be loaded or takes no adapter.
    """
    from rag_ft.retrieval.encoder import load_sentence_transformer
    from rag_ft.training.phases import Tuning
    from rag_ft.training.student import make_student

    config, run_dir, knobs = session.config, session.run_dir, session.config.train_retriever
    model = load_sentence_transformer(config.encoder)
    student = make_student(model, knobs.advanced.method, knobs.advanced.rank, config.run.seed)
    folder = run_dir.checkpoints("train_retriever")
    return Tuning(config, run_dir, folder, pairs, student, processes, session.chunks)


def _ship(t: Tuning, log: list[dict[str, Any]], tuned: Candidate, verdict: Verdict) -> None:
    """Moves the chosen encoder and index to their places, writes the log, and removes what is no longer needed."""
    write_jsonl(t.run_dir.training_log("train_retriever"), log)
    for folder in (t.run_dir.retriever_index, t.run_dir.retriever):
        shutil.rmtree(folder, ignore_errors=True)
    if verdict.shipped:
        chosen = _share_folder(t, tuned, verdict.alpha)
        os.replace(chosen.retriever, t.run_dir.retriever)
        os.replace(chosen.retriever_index, t.run_dir.retriever_index)
    shutil.rmtree(t.folder, ignore_errors=True)
    logger.info("retriever: %s (%s)", "shipped" if verdict.shipped else "base kept", verdict.reason)


def _log_rows(
    steps: list[Candidate], left_out: list[LeftOut], verdict: Verdict
) -> Iterator[dict[str, Any]]:
    """{stage, step, loss} rows of every kept phase, each closed by one with its dev recall; {stage, reason} of those
    left out, with their dev recall where they were trained; last the gate's."""
    for step in steps:
        yield from ({"stage": step.name, **row} for row in step.history)
        yield {"stage": step.name, **step.notes, **step.scores.summary}
    for phase in left_out:
        scores = phase.scores.summary if phase.scores else {}
        yield {"stage": phase.name, "reason": f"left out: {phase.reason}", **scores}
    yield {
        "stage": "gate",
        "alpha": verdict.alpha,
        "reason": verdict.reason,
        **verdict.scores.summary,
    }


def _summary(
    steps: list[Candidate], left_out: list[LeftOut], base: Candidate, verdict: Verdict
) -> Counts:
    before, after = base.scores.summary, verdict.scores.summary
    notes = {f"lsr_{k}": v for step in steps for k, v in step.notes.items() if v is not None}
    return {
        "shipped": int(verdict.shipped),
        "alpha": verdict.alpha,
        "reason": verdict.reason,
        "phases": ", ".join(step.name for step in steps if step is not base) or "none",
        "left_out": "; ".join(f"{phase.name}: {phase.reason}" for phase in left_out) or "none",
        "dev_recall_base": before["dev_served_recall"],
        "dev_recall_tuned": after["dev_served_recall"],
        "dev_dense_recall_base": before["dev_dense_recall"],
        "dev_dense_recall_tuned": after["dev_dense_recall"],
        **notes,
    }


def main(arguments: list[str] | None = None) -> int:
    """`python -m rag_ft.train_retriever CONFIG [section.key=value ...]`, what `accelerate launch -m` starts."""
    from rag_ft.cli import main as command
    from rag_ft.training.processes import leave_processes

    code = command(["train_retriever", *(sys.argv[1:] if arguments is None else arguments)])
    if not code:  # else the launcher ends the others, who may still wait for us
        leave_processes()
    return code


if __name__ == "__main__":
    sys.exit(main())
