"""Tunes the encoder on the pairs, and ships it where it finds no less on dev documents.

The phases (inverse cloze, contrastive, LM-supervised) and their files are in
training/retriever/phases.py; what is served of them in candidates.py.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from rag_ft.config import RetrievalConfig, TrainRetrieverConfig
from rag_ft.run_dir import RunDir
from rag_ft.session import Session
from rag_ft.storage import write_json, write_jsonl

if TYPE_CHECKING:
    from rag_ft.training.retriever.candidates import Candidate, LeftOut, RetrieverTraining
    from rag_ft.training.retriever.dataset import Pairs
    from rag_ft.training.retriever.fusion_choice import FusionChoice
    from rag_ft.training.retriever.ship_gate import DevScores, Selection

logger = logging.getLogger(__name__)
SELECTED_BY_CLOZES = (
    "without dev questions: measured by inverse cloze on dev chunks, where one sentence asks for "
    "the rest of its chunk"
)
SELECTED_BY_HALVES = "all pairs train: each is judged by an encoder that did not see it"
PART_OF_TUNED = "a part of the tuned retriever"  # why the base encoder has no ranker
Counts = dict[str, int | float | str]


def run(session: Session) -> Counts:
    """Writes the training log and the rejects, fusion.json, and retriever/ and retriever_index/
    where the tuned encoder is selected; with LM-supervised retrieval also lm_scores.jsonl.

    Raises:
        DataError: something of a test document is among the pairs to train on.
        ConfigError: there is no such loss, the encoder cannot be loaded or takes no adapter, the
            launcher shards it or started too few processes.
    """
    from rag_ft.training.distributed import join_processes, refuse_sharding
    from rag_ft.training.leakage import TEST_QUESTION
    from rag_ft.training.retriever.candidates import base_candidate, open_training
    from rag_ft.training.retriever.dataset import select_pairs, with_cloze_dev

    config, run_dir, settings = session.config, session.run_dir, session.config.train_retriever
    if settings.enabled:
        refuse_sharding("train_retriever", "encoder")

    # The pairs: those of train documents to train on, those of dev documents to select by.
    processes = join_processes()
    similarity = config.ingest.advanced.near_duplicate_similarity
    pairs = select_pairs(run_dir, session.chunks, similarity)
    pairs = with_cloze_dev(pairs, config.run.seed) if settings.advanced.self_supervised else pairs
    pairs = pool_where_judged(pairs, settings, config.retrieval, run_dir, similarity)
    processes.first(lambda: write_jsonl(run_dir.rejects("train_retriever"), pairs.rejects))
    counts: Counts = {
        "num_train_pairs": len(pairs.train),
        "num_dev_pairs": len(pairs.dev),
        "num_dropped_test_questions": sum(r.reason == TEST_QUESTION for r in pairs.rejects),
    }
    if reason := nothing_to_train_on(settings, pairs):
        processes.first(lambda: counts.update(choose_base_fusion(session, pairs)))
        return {**counts, "shipped": 0, "reason": reason}

    # Training, phase after phase; then the gate selects an encoder.
    training = open_training(session, pairs, processes)
    kept, left_out = train(training, base_candidate(training))
    base, selection = kept[0], select(training, kept[0], kept[-1])

    # The training log, the rejects of the phases, and the selected encoder.
    processes.first(lambda: ship(training, kept, left_out, selection))
    before, after = base.scores.summary, selection.scores.summary
    return {
        **counts,
        "shipped": int(selection.shipped),
        "alpha": selection.interpolation,
        "reason": selection.reason,
        "phases": ", ".join(phase.name for phase in kept[1:]) or "none",
        "left_out": "; ".join(f"{phase.name}: {phase.reason}" for phase in left_out) or "none",
        **fusion_counts({"base": base.scores.fusion, "tuned": selection.scores.fusion}),
        "dev_recall_base": before["dev_served_recall"],
        "dev_recall_tuned": after["dev_served_recall"],
        "dev_dense_recall_base": before["dev_dense_recall"],
        "dev_dense_recall_tuned": after["dev_dense_recall"],
        **{f"lsr_{k}": v for phase in kept for k, v in phase.notes.items() if v is not None},
    }


def choose_base_fusion(session: Session, pairs: Pairs) -> Counts:
    """Writes fusion.json, and the ranker where there is one, for the base encoder; returns its
    choice as counts."""
    from rag_ft.training.retriever.ranker_choice import choose_fusion, rank_train, unmixed

    retrieval, run_dir, seed = session.config.retrieval, session.run_dir, session.config.run.seed
    choice = unmixed(retrieval)
    if retrieval.mode == "hybrid":
        retriever, path = session.plain_retriever(), run_dir.ranker("base")
        unseen = rank_train(retriever, retrieval, pairs, pairs.train)
        choice, _ = choose_fusion(
            retriever, retrieval, pairs, unseen, [], path, seed, session.reranker
        )
    write_fusion(run_dir, {"base": choice})
    return fusion_counts({"base": choice})


def write_fusion(run_dir: RunDir, choices: Mapping[str, FusionChoice]) -> None:
    """Writes fusion.json: a row for the base encoder, and one for the tuned one where it is
    served. A ranker stands in the run's place for it."""
    rows: dict[str, Any] = {"base": None, "tuned": None}
    for name, choice in choices.items():
        place = run_dir.ranker(name).relative_to(run_dir.path).as_posix()
        rows[name] = replace(choice, ranker=place if choice.ranker else None).row()
    write_json(run_dir.fusion, rows, indent=1)


def fusion_counts(choices: Mapping[str, FusionChoice]) -> Counts:
    """What was chosen, and why, for the done-file and the report."""
    counts: Counts = {}
    for name, choice in choices.items():
        counts |= {
            f"lexical_weight_{name}": choice.lexical_weight,
            f"fusion_{name}": choice.reason,
            f"ranker_{name}": int(choice.ranker is not None),
            f"ranker_reason_{name}": choice.ranker_reason,
            **({f"reranker_{name}": choice.rerank_reason} if choice.rerank_reason else {}),
        }
    return counts


def pool_where_judged(
    pairs: Pairs,
    settings: TrainRetrieverConfig,
    retrieval: RetrievalConfig,
    run_dir: RunDir,
    similarity: float,
) -> Pairs:
    """The pairs, with those of dev among the ones to train on where encoders that did not see a
    pair can judge in their place. These are tuned by one contrastive phase, on halves of documents;
    near-duplicates, from `similarity` (0-1) on, are in one half."""
    from rag_ft.training.retriever.dataset import pool
    from rag_ft.training.retriever.phases import chooses, split_halves

    advanced = settings.advanced
    more = advanced.lsr_steps or advanced.rounds > 1 or advanced.self_supervised
    tuned = settings.enabled and settings.epochs and not more
    if not tuned or advanced.crossfit != "always" or not chooses(retrieval):
        return pairs
    whole = pool(pairs)
    return whole if split_halves(whole, run_dir, similarity) else pairs


def nothing_to_train_on(settings: TrainRetrieverConfig, pairs: Pairs) -> str | None:
    """Why no phase is trained, or None."""
    if not settings.enabled:
        return "train_retriever.enabled is false"
    if settings.advanced.self_supervised and len(pairs.chunks) > 1:
        return None
    if len(pairs.train) < 2:
        return (
            "fewer than two questions of train documents: generate more, or set "
            "train_retriever.advanced.self_supervised=true"
        )
    if settings.epochs or settings.advanced.lsr_steps:
        return None
    return "train_retriever.epochs and lsr_steps are 0"


def train(training: RetrieverTraining, base: Candidate) -> tuple[list[Candidate], list[LeftOut]]:
    """The base and the kept phases in order, and the phases that are left out.

    Each phase starts from the weights of the one before. A later contrastive phase is left out,
    and ends the training, where it finds no more on dev than before; an LM-supervised phase is left
    out where it finds less.
    """
    from rag_ft.training.retriever.candidates import LeftOut, first_weights
    from rag_ft.training.retriever.dataset import with_positive
    from rag_ft.training.retriever.phases import (
        cloze_phase,
        contrastive_phase,
        lsr_phase,
        train_halves,
    )

    settings, pairs = training.config.train_retriever, training.pairs
    kept, left_out, newest = [base], list[LeftOut](), first_weights(training, base)
    training.halves = train_halves(training, base)
    if settings.advanced.self_supervised:
        kept.append(newest := cloze_phase(training, newest))
    for number in range(settings.advanced.rounds):
        before = newest
        # Contrastive: the first round is left to the gate, later ones must find more.
        if settings.epochs and len(with_positive(pairs.train, pairs.chunks)) > 1:
            after = contrastive_phase(training, number, before)
            if number and not after.scores.above(before.scores):
                reason = "not better on dev than the round before"
                left_out.append(LeftOut(after.name, reason, after.scores))
                break
            kept.append(newest := after)
        # LM-supervised: must not find less, unless the user switched the gate off.
        if settings.advanced.lsr_steps and pairs.train:
            after_lsr = lsr_phase(training, number, newest)
            if isinstance(after_lsr, LeftOut):
                left_out.append(after_lsr)
            elif after_lsr.scores.not_below(newest.scores) or not settings.advanced.gate:
                kept.append(newest := after_lsr)
            else:
                reason = "worse on dev than without it"
                left_out.append(LeftOut(after_lsr.name, reason, after_lsr.scores))
        if newest is before:
            break
    for phase in left_out:
        logger.warning("%s is left out: %s", phase.name, phase.reason)
    return kept, left_out


def select(training: RetrieverTraining, base: Candidate, tuned: Candidate) -> Selection:
    """The gate: the tuned encoder, one between base and tuned, or the base."""
    from rag_ft.training.retriever.candidates import build_candidate, measure_candidate
    from rag_ft.training.retriever.ship_gate import (
        INTERPOLATIONS,
        Selection,
        describe_change,
        select_encoder,
    )

    dev = training.judges
    if tuned is base:
        return Selection(0.0, base.scores, "no phase was kept")
    if not training.config.train_retriever.advanced.gate:
        change = describe_change(base.scores, tuned.scores, dev)
        return Selection(1.0, tuned.scores, f"not gated; {change}")

    def candidates() -> Iterator[tuple[float, DevScores]]:
        yield 1.0, tuned.scores
        if training.pairs.pooled:
            return  # there are no interpolated encoders that did not see a pair
        # Interpolated encoders are built only where the tuned one is worse than the base.
        training.encoder.load(tuned.state)
        for interpolation in INTERPOLATIONS:
            folder = candidate_folder(training, tuned, interpolation)
            training.processes.first(partial(build_candidate, training, folder, interpolation))
            yield interpolation, measure_candidate(training, folder, folder.path)

    selection = select_encoder(base.scores, candidates(), dev)
    if training.pairs.clozed:
        return replace(selection, reason=f"{selection.reason} ({SELECTED_BY_CLOZES})")
    if training.pairs.pooled:
        return replace(selection, reason=f"{selection.reason} ({SELECTED_BY_HALVES})")
    return selection


def candidate_folder(training: RetrieverTraining, tuned: Candidate, interpolation: float) -> RunDir:
    """Where the encoder base + interpolation x (tuned - base) and its index are kept."""
    if interpolation == 1:
        return tuned.folder
    return RunDir(training.folder / f"interpolation-{interpolation}")


def ship(
    training: RetrieverTraining,
    kept: list[Candidate],
    left_out: list[LeftOut],
    selection: Selection,
) -> None:
    """Writes the training log and the rejects, moves the selected encoder and index to their
    places, writes fusion.json, and removes the folders of the phases."""
    run_dir = training.run_dir
    rejects = [*training.pairs.rejects, *training.rejects]
    write_jsonl(run_dir.rejects("train_retriever"), rejects)
    log = training_log(kept, left_out, selection)
    write_jsonl(run_dir.training_log("train_retriever"), log)

    # What an earlier run shipped goes first: it may be the base that is served now.
    for folder in (run_dir.retriever_index, run_dir.retriever):
        shutil.rmtree(folder, ignore_errors=True)
    choices, places = {"base": kept[0].scores.fusion}, {"base": training.folder / "base"}
    if selection.shipped:
        # What was learned belongs to the tuned retriever: the base stays what it was without it.
        choices["base"] = replace(choices["base"], ranker=None, ranker_reason=PART_OF_TUNED)
        selected = candidate_folder(training, kept[-1], selection.interpolation)
        choices["tuned"], places["tuned"] = selection.scores.fusion, selected.path
        os.replace(selected.retriever, run_dir.retriever)
        os.replace(selected.retriever_index, run_dir.retriever_index)
    shutil.rmtree(run_dir.ranker("base").parent, ignore_errors=True)
    for name, choice in choices.items():
        if choice.ranker:
            run_dir.ranker(name).parent.mkdir(exist_ok=True)
            os.replace(places[name] / choice.ranker, run_dir.ranker(name))
    write_fusion(run_dir, choices)
    shutil.rmtree(training.folder, ignore_errors=True)
    result = "tuned encoder shipped" if selection.shipped else "base encoder kept"
    logger.info("retriever: %s (%s)", result, selection.reason)


def training_log(
    kept: list[Candidate], left_out: list[LeftOut], selection: Selection
) -> Iterator[dict[str, Any]]:
    """The rows of training/train_retriever.jsonl: {stage, step, loss} of every kept phase, each
    followed by a row with its dev recall; {stage, reason} of those left out, with dev recall where
    they were trained; last the row of the gate."""
    for phase in kept:
        yield from ({"stage": phase.name, **row} for row in phase.history)
        yield {"stage": phase.name, **phase.notes, **phase.scores.summary}
    for left in left_out:
        scores = left.scores.summary if left.scores else {}
        yield {"stage": left.name, "reason": f"left out: {left.reason}", **scores}
    yield {
        "stage": "gate",
        "alpha": selection.interpolation,
        "reason": selection.reason,
        **selection.scores.summary,
    }
