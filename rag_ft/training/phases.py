"""The phases of tuning a retriever: cloze, contrastive, LSR. Each makes rows, trains, indexes, and measures on dev.

A phase has its own folder: rows.json (what it trains on), student.safetensors (the weights after it), retriever/ and
retriever_index/ (as they would be served), dev.json (what they find). Each file is made once, so a killed run goes on.
With several processes, the first one makes the files and all of them train.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from rag_ft.config import Config
from rag_ft.llm.models import open_language_model
from rag_ft.paths import RunDir
from rag_ft.qa.prompts import load_prompts
from rag_ft.records import Chunk, ChunkStore, QAPair, write_text
from rag_ft.retrieval.build import open_vectors, read_manifest
from rag_ft.retrieval.encoder import load_encoder, native_bfloat16
from rag_ft.retrieval.search import (
    Retriever,
    adopt_index,
    build_index,
    chunk_text,
    open_retriever,
    served_tuned,
)
from rag_ft.training.batches import Apart, fitting_batch_size
from rag_ft.training.cloze import make_clozes
from rag_ft.training.fit import WEIGHTS, Schedule, fit
from rag_ft.training.gate import DevScores, measure
from rag_ft.training.leakage import check_chunks_allowed
from rag_ft.training.lm_scores import make_jobs, missing_jobs, read_scores, score_jobs
from rag_ft.training.losses import FrozenChunksLoss, LsrLoss, Teacher, contrastive_loss
from rag_ft.training.lsr import choose_temperature
from rag_ft.training.negatives import DEPTH, mine_negatives
from rag_ft.training.pairs import Pairs, with_positive
from rag_ft.training.processes import Processes
from rag_ft.training.rows import (
    Rows,
    cloze_rows,
    contrastive_rows,
    proving_chunks,
    retrieved_chunks,
)
from rag_ft.training.student import State, Student

logger = logging.getLogger(__name__)
CLOZE_INDEX = "cloze_index"
SEARCHED_SHARE = (
    4  # of k: how much deeper to search, since chunks of dev and test documents are passed over
)


@dataclass(frozen=True)
class Candidate:
    """An encoder as it would be served: a phase's result, or the base (`folder` is then the run's own). `state` are
    the student's weights."""

    name: str
    folder: RunDir
    state: State
    scores: DevScores
    history: list[dict[str, float]]
    notes: dict[str, Any]


@dataclass(frozen=True)
class LeftOut:
    """A phase whose weights are not used, and why; `scores` is None where nothing was trained."""

    name: str
    reason: str
    scores: DevScores | None = None


@dataclass
class Tuning:
    """What every phase needs; `folder` holds the phases' folders."""

    config: Config
    run_dir: RunDir
    folder: Path
    pairs: Pairs
    student: Student
    processes: Processes
    chunks: ChunkStore

    def text_of(self, chunk: Chunk) -> str:
        return chunk_text(chunk, self.config.retrieval.advanced.with_title)

    def once(self, path: Path, make: Callable[[], Any]) -> Any:
        """The JSON value in `path`; the first process makes it where it is missing."""

        def write() -> None:
            if not path.exists():
                write_text(path, json.dumps(make(), ensure_ascii=False))

        self.processes.first(write)
        return json.loads(path.read_text(encoding="utf-8"))

    def open(self, candidate: Candidate) -> Retriever:
        return open_retriever(self.config, candidate.folder, tuned=candidate.name != "base")


def base_candidate(t: Tuning) -> Candidate:
    """The encoder as it is."""
    scores = _dev_scores(t, t.run_dir, t.folder / "base")
    return Candidate("base", t.run_dir, t.student.state(), scores, [], {})


def cloze_phase(t: Tuning, before: Candidate) -> Candidate:
    """Inverse cloze over the chunks of train documents; needs no question."""

    def make() -> Rows:
        return cloze_rows(
            list(make_clozes(t.pairs.chunks.values(), 1, t.config.run.seed)), t.text_of
        )

    return _phase(t, "cloze", before, make, _contrastive(t), _schedule(t, 1.0))


def contrastive_phase(t: Tuning, number: int, before: Candidate) -> Candidate:
    """Questions towards their chunks and away from mined negatives and the batch's other chunks."""
    knobs, seed = t.config.train_retriever, t.config.run.seed + number
    pairs = with_positive(t.pairs.train, t.pairs.chunks)

    def make() -> Rows:
        negatives = mine_negatives(
            pairs,
            t.open(before),
            t.pairs.chunks,
            knobs.advanced.num_negatives,
            knobs.advanced.negative_margin,
            seed,
        )
        return contrastive_rows(pairs, negatives, t.pairs.chunks, t.text_of)

    return _phase(
        t,
        f"round-{number}-contrastive",
        before,
        make,
        _contrastive(t),
        _schedule(t, knobs.epochs, number),
    )


def lsr_phase(t: Tuning, number: int, before: Candidate) -> Candidate | LeftOut:
    """What the LM finds useful among each question's k closest chunks; left out where its scores teach nothing."""
    knobs = t.config.train_retriever
    name = f"round-{number}-lsr"
    rows = _rows(t, name, lambda: _lsr_rows(t, before))
    if rows.notes.get("refusal"):
        return LeftOut(name, rows.notes["refusal"])

    def loss(rows: Rows, batch_size: int) -> nn.Module:
        vectors = _vectors(t, rows) if knobs.advanced.sides == "query" else None
        teacher = Teacher(torch.tensor(rows.scores), rows.notes["tau"], _proving(rows))
        several = t.processes.count > 1
        return LsrLoss(
            t.student.model,
            teacher,
            knobs.advanced.temperature,
            knobs.lsr_kl,
            knobs.lsr_mix,
            vectors,
            several,
        )

    schedule = dataclasses.replace(
        _schedule(t, 0, number),
        steps=knobs.advanced.lsr_steps,
        learning_rate=knobs.advanced.lsr_learning_rate,
    )
    return _phase(t, name, before, lambda: rows, loss, schedule, distinct=False)


def build_candidate(t: Tuning, folder: RunDir, alpha: float = 1.0) -> None:
    """Writes the student as it would be served, with its index, unless that is there."""
    if served_tuned(folder):
        return
    t.student.save(folder.retriever, alpha)
    encoder = load_encoder(t.config.encoder, folder.retriever)
    if t.config.train_retriever.advanced.sides == "query":
        adopt_index(t.run_dir.index, folder.retriever_index, encoder)
    else:
        build_index(t.config, folder.retriever_index, t.chunks, encoder)


def measure_candidate(t: Tuning, folder: RunDir) -> DevScores:
    """Dev scores of what `build_candidate` wrote (or is now made to write)."""
    return _dev_scores(t, folder, folder.path)


def _phase(
    t: Tuning,
    name: str,
    before: Candidate,
    make: Callable[[], Rows],
    make_loss: Callable[[Rows, int], nn.Module],
    schedule: Schedule,
    distinct: bool = True,
) -> Candidate:
    """`distinct`: rows are kept out of a batch in which they would be false negatives."""
    folder = t.folder / name
    rows = _rows(t, name, make)
    t.student.load(before.state)
    apart = rows.apart() if distinct else None
    schedule = dataclasses.replace(schedule, batch_size=_batch_size(t, rows, apart, schedule.seed))
    prompts = t.student.model.prompts
    columns = rows.columns(prompts.get("query") or "", prompts.get("document") or "")
    logger.info("%s: %d rows, batches of %d", name, len(rows.questions), schedule.batch_size)
    history = fit(t.student, columns, apart, make_loss(rows, schedule.batch_size), schedule, folder)
    place = RunDir(folder)
    t.processes.first(lambda: build_candidate(t, place))
    scores = measure_candidate(t, place)
    logger.info("%s: %s", name, scores.summary)
    return Candidate(name, place, load_file(folder / WEIGHTS), scores, history, rows.notes)


def _contrastive(t: Tuning) -> Callable[[Rows, int], nn.Module]:
    knobs, several = t.config.train_retriever, t.processes.count > 1

    def loss(rows: Rows, batch_size: int) -> nn.Module:
        if knobs.advanced.sides == "query":
            return FrozenChunksLoss(
                t.student.model, _vectors(t, rows), knobs.advanced.temperature, several
            )
        return contrastive_loss(t.student.model, knobs.advanced.temperature, batch_size, several)

    return loss


def _rows(t: Tuning, name: str, make: Callable[[], Rows]) -> Rows:
    rows = Rows(**t.once(t.folder / name / "rows.json", lambda: dataclasses.asdict(make())))
    trained = (chunk_id for ids in rows.chunk_ids for chunk_id in ids)
    check_chunks_allowed(trained, t.chunks.of_splits({"test"}), f"chunks of {name}")
    return rows


def _lsr_rows(t: Tuning, before: Candidate) -> Rows:
    knobs, llm = t.config.train_retriever, t.config.llm
    pairs = with_positive(t.pairs.train, t.pairs.chunks) if knobs.lsr_mix else t.pairs.train
    k = min(knobs.advanced.lsr_top_k, len(t.pairs.chunks))
    found = retrieved_chunks(
        pairs, t.open(before), t.pairs.chunks, k, max(DEPTH, SEARCHED_SHARE * k)
    )
    pairs = [pair for pair in pairs if pair.id in found]
    if not pairs or k < 2:
        return Rows([], [], [], [], notes={"refusal": "no question has two chunks to compare"})
    scores = _lm_scores(t, pairs, found, llm)
    teacher = choose_temperature(torch.tensor(scores), knobs.advanced.lsr_temperature)
    ids = [found[pair.id] for pair in pairs]
    known = _agreement(pairs, ids, scores)
    notes = {"tau": teacher.tau, "entropy": teacher.entropy, "refusal": teacher.refusal, **known}
    texts = [[t.text_of(t.pairs.chunks[i]) for i in row] for row in ids]
    proving = proving_chunks(pairs, t.pairs.chunks.values())
    return Rows([pair.question for pair in pairs], ids, texts, proving, scores, notes)


def _lm_scores(
    t: Tuning, pairs: list[QAPair], found: dict[str, list[str]], llm: Any
) -> list[list[float]]:
    prompts = load_prompts(llm.prompts, llm.advanced.abstain)
    with open_language_model(llm, t.config.run.seed, log_path=t.run_dir.vllm_log) as model:
        jobs = make_jobs(
            ((p, found[p.id]) for p in pairs), t.pairs.chunks, prompts, model.name, t.text_of
        )
        score_jobs(missing_jobs(jobs, t.run_dir.lm_scores), model, t.run_dir.lm_scores)
    known = read_scores(t.run_dir.lm_scores)
    of = {(job.pair_id, job.chunk_id): known[job.key] for job in jobs}
    return [[of[pair.id, chunk_id] for chunk_id in found[pair.id]] for pair in pairs]


def _agreement(
    pairs: list[QAPair], ids: list[list[str]], scores: list[list[float]]
) -> dict[str, float]:
    """How often the LM likes the proving chunk best, where it is known (it is then the first one)."""
    known = [
        row for pair, own, row in zip(pairs, ids, scores, strict=True) if own[0] == pair.chunk_id
    ]
    return (
        {"teacher_gold_share": round(float(np.mean([row[0] >= max(row) for row in known])), 4)}
        if known
        else {}
    )


def _dev_scores(t: Tuning, served: RunDir, place: Path) -> DevScores:
    """Of the encoder and index in `served` (the run's own: of the base); kept in `place`."""

    def make() -> dict[str, list[float]]:
        retriever = open_retriever(t.config, served, tuned=served is not t.run_dir)
        if t.pairs.clozed:
            retriever = _over_clozes(t, retriever, place / CLOZE_INDEX)
        scores = measure(retriever, t.pairs.dev, t.pairs.gold)
        return {name: values.tolist() for name, values in dataclasses.asdict(scores).items()}

    return DevScores(
        **{name: np.array(values) for name, values in t.once(place / "dev.json", make).items()}
    )


def _over_clozes(t: Tuning, retriever: Retriever, folder: Path) -> Retriever:
    """The same encoder over an index in which each dev chunk lacks the sentence that asks for it."""
    if (
        t.config.train_retriever.advanced.sides == "query"
        and (base := t.folder / "base" / CLOZE_INDEX) != folder
    ):
        adopt_index(base, folder, retriever.encoder)
    else:
        chunks = (t.pairs.clozed.get(chunk.id, chunk) for chunk in t.chunks)
        build_index(t.config, folder, chunks, retriever.encoder)
    return Retriever(folder, read_manifest(folder), retriever.encoder, t.config.retrieval)


def _schedule(t: Tuning, epochs: float, number: int = 0) -> Schedule:
    knobs = t.config.train_retriever
    device = "cuda" if torch.cuda.is_available() else "cpu"
    native = (
        native_bfloat16(device)
        if t.config.encoder.dtype == "auto"
        else t.config.encoder.dtype == "bfloat16"
    )
    return Schedule(
        batch_size=knobs.batch_size,
        learning_rate=knobs.learning_rate,
        epochs=epochs,
        seed=t.config.run.seed + number,
        bfloat16=native,
    )


def _batch_size(t: Tuning, rows: Rows, apart: Sequence[Apart] | None, seed: int) -> int:
    """As configured, but no larger than the rows allow, and the same for every process."""
    wanted, count = t.config.train_retriever.batch_size, t.processes.count
    if apart is not None:
        return fitting_batch_size(apart, wanted, count, seed) or count
    return max(min(wanted, len(rows.questions)) // count, 1) * count


def _proving(rows: Rows) -> Tensor:
    """(num_rows, m): numbers of the first chunk and of the others that prove the row's answer, equal for equal chunks,
    filled up with -1."""
    number: dict[str, int] = {}
    ids = [
        dict.fromkeys([row[0], *proving])
        for row, proving in zip(rows.chunk_ids, rows.proving, strict=True)
    ]
    numbers = [torch.tensor([number.setdefault(i, len(number)) for i in row]) for row in ids]
    return nn.utils.rnn.pad_sequence(numbers, batch_first=True, padding_value=-1)


def _vectors(t: Tuning, rows: Rows) -> Tensor:
    """(num_rows, num_chunks, dim): the base index's vectors of the rows' chunks."""
    ids = json.loads((t.run_dir.index / "chunk_ids.json").read_text(encoding="utf-8"))
    place = {chunk_id: n for n, chunk_id in enumerate(ids)}
    vectors = open_vectors(t.run_dir.index)
    return torch.from_numpy(np.stack([vectors[[place[i] for i in row]] for row in rows.chunk_ids]))
