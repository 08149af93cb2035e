"""`rag-ft sweep`: every combination of some settings, measured on questions that no test contains.

Nothing is trained. Documents and index are made once for all combinations with the same chunks and
encoder, and a prompt that several combinations share is answered once, so a second sweep over more
values only adds what is new. Questions about test documents are never asked.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from rag_ft.config import Config
from rag_ft.config_loader import apply_override, flat, load_config, move_settings
from rag_ft.errors import ConfigError, DataError
from rag_ft.evaluation.answering import answer_all
from rag_ft.evaluation.metric_table import (
    DECIDING_ANSWER,
    DECIDING_RETRIEVAL,
    FIRST,
    LABELS,
    RANK,
)
from rag_ft.evaluation.metrics.answers import score_answer
from rag_ft.evaluation.metrics.retrieval import score_ranking
from rag_ft.evaluation.sampling import spread_over_documents
from rag_ft.evaluation.statistics import bootstrap
from rag_ft.evaluation.systems import Ask
from rag_ft.pipeline import run_stage
from rag_ft.relevance import gold_by_pair
from rag_ft.report.rendering import aligned
from rag_ft.retrieval.encoder import Encoder, load_encoder
from rag_ft.retrieval.retriever import open_retriever
from rag_ft.run_dir import RunDir
from rag_ft.schema import Chunk, QAPair
from rag_ft.session import Session
from rag_ft.storage import content_hash, write_json, write_text
from rag_ft.terminal import say
from rag_ft.training.dev_split import ENOUGH_QUESTIONS
from rag_ft.training.retriever.dataset import select_pairs

# What changes the index; a combination shares it with all others that agree in these.
OF_INDEX = ("ingest", "encoder", "retrieval.context", "retrieval.advanced.faiss", "run.dtype")
SWEPT = ("ingest", "encoder", "retrieval", "llm")
# Settings by which documents change their split: a test document could become a question's.
OF_SPLIT = re.compile(r"ingest\.(sources|test_share|dev_share|advanced\.(folds?|near_dup.*))$")
_COMMA = re.compile(r",(?![^\[{]*[\]}])")  # not inside a list or a mapping
MIN_HITS = 10
SHOWN = (FIRST, DECIDING_RETRIEVAL, RANK, DECIDING_ANSWER)
TOKENS, SECONDS = "tokens shown", "seconds"


@dataclass(frozen=True)
class Combination:
    """`values` are the swept settings as they were typed."""

    values: dict[str, str]
    config: Config

    def in_folder(self, place: Path) -> Config:
        """The configuration with the run folder of its chunks and encoder, in `place`."""
        same = {
            key: value
            for key, value in flat(self.config).items()
            if any(f"{key}.".startswith(f"{part}.") for part in OF_INDEX)
        }
        run = self.config.run.model_copy(update={"dir": place / content_hash(same)[:12]})
        return self.config.model_copy(update={"run": run})


@dataclass(frozen=True)
class Measured:
    """A combination with {metric: value of each question}: SHOWN (0-1), tokens shown to the
    generator, and its seconds."""

    combination: Combination
    scores: dict[str, np.ndarray]


def combinations(path: Path, words: Sequence[str]) -> list[Combination]:
    """Every combination of the words' values, the first values first. A word is
    `section.key=value,value,...`; with one value it holds for all combinations.

    Raises:
        ConfigError: a word is malformed, or names a setting that no combination can differ in; or
            no word has several values.
    """
    axes: dict[str, list[str]] = {}
    for word in words:
        key, equals, text = word.partition("=")
        if not equals:
            raise ConfigError(f"'{word}' is not of the form section.key=value,value")
        values = [value.strip() for value in _COMMA.split(text)]
        if len(values) > 1 and (key.split(".")[0] not in SWEPT or OF_SPLIT.match(key)):
            raise ConfigError(
                f"{key} cannot be swept: nothing is trained, and every document keeps its split; "
                f"choose settings of {', '.join(SWEPT)}"
            )
        axes[key] = values
    if all(len(values) == 1 for values in axes.values()):
        raise ConfigError("give a setting several values, such as retrieval.top_k=3,5")
    found = []
    for choice in itertools.product(*axes.values()):
        chosen = dict(zip(axes, choice, strict=True))
        config = load_config(path, [f"{key}={value}" for key, value in chosen.items()])
        varied = {key: value for key, value in chosen.items() if len(axes[key]) > 1}
        found.append(Combination(varied, config))
    return found


def sweep(
    combined: Sequence[Combination], run_dir: RunDir, pairs: Sequence[QAPair]
) -> list[Measured]:
    """Measures every combination on the same questions; `run_dir` is the run that they are of.

    Raises:
        ConfigError: a combination does not fit its models.
    """
    place = run_dir.path.with_name(f"{run_dir.path.name}-sweep")
    encoders: dict[str, Encoder] = {}
    measured, asks = list[Measured](), list[Ask]()
    for number, combination in enumerate(combined):
        config = combination.in_folder(place)
        for stage in ("ingest", "index"):
            run_stage(stage, config)
        key = content_hash(config.encoder.model_dump(mode="json"))
        if key not in encoders:
            encoders[key] = load_encoder(config.encoder)
        scores, asked = retrieve(Session.of(config), encoders[key], pairs, str(number))
        measured.append(Measured(combination, scores))
        asks += asked if config.evaluate.answers else []

    # Combinations of the same language model share one, and one file of replies.
    groups: dict[str, list[Ask]] = {}
    for ask in asks:
        llm = combined[int(ask.system)].config.llm
        groups.setdefault(content_hash(llm.model_dump(mode="json")), []).append(ask)
    for group in groups.values():
        config = combined[int(group[0].system)].config
        add_answers(Session(config, RunDir(place / "answers")), group, pairs, measured)
    return measured


def questions_of(session: Session, most: int) -> list[QAPair]:
    """At most `most` answerable questions with known evidence about dev documents, and about train
    documents too where these are few. Nothing is trained, so both are unseen; test documents are
    left out.

    Raises:
        DataError: the run has no such questions yet.
    """
    config, run_dir = session.config, session.run_dir
    if not run_dir.qa.exists():
        raise DataError(
            f"{run_dir.path} has no questions to measure by: run `rag-ft run CONFIG --until "
            "generate` first"
        )
    similarity = config.ingest.advanced.near_duplicate_similarity
    pairs = select_pairs(run_dir, session.chunks, similarity)
    chosen = pairs.dev if len(pairs.dev) >= ENOUGH_QUESTIONS else [*pairs.dev, *pairs.train]
    # Evidence has its place in the document; a chunk's id means another text in other chunks.
    located = [
        dataclasses.replace(pair, chunk_id=None)
        for pair in chosen
        if pair.evidence is not None and pair.kind != "multi_hop"
    ]
    if not located:
        raise DataError(f"{run_dir.qa} has no question with evidence outside test documents")
    return spread_over_documents(located, most, config.run.seed)


def retrieve(
    session: Session, encoder: Encoder, pairs: Sequence[QAPair], name: str
) -> tuple[dict[str, np.ndarray], list[Ask]]:
    """Scores of the retrieval and of its cost, and what the generator is asked, as system `name`.

    Raises:
        DataError: documents of the questions are not among those of the combination.
    """
    retrieval, prompt = session.config.retrieval, session.answer_prompt
    chunks = session.chunks.of_documents({pair.document_id for pair in pairs})
    gold = gold_by_pair(pairs, chunks)
    retriever = open_retriever(session.run_dir, retrieval, encoder, chosen=False)
    questions, filters = [pair.question for pair in pairs], [pair.filters for pair in pairs]
    found = retriever.search(questions, max(MIN_HITS, retrieval.top_k), filters=filters)
    rows, asks = [], []
    for pair, hits in zip(pairs, found, strict=True):
        ranked = [chunk_id for chunk_id, _ in hits]
        shown = [session.chunks[chunk_id] for chunk_id in ranked[: retrieval.num_shown]]
        values = score_ranking(ranked, gold[pair.id])
        values[TOKENS] = float(sum(tokens_of(chunk, prompt.shown(chunk)) for chunk in shown))
        rows.append(values)
        texts = tuple(prompt.text(chunk) for chunk in shown)
        # Without ids: one id has another text in each combination, and nobody asks for citations.
        asks.append(Ask(pair, name, "base", (), pair.answers, texts))
    metrics = [metric for metric in (*SHOWN, TOKENS) if metric in rows[0]]
    return {metric: np.array([row[metric] for row in rows], float) for metric in metrics}, asks


def tokens_of(chunk: Chunk, shown: Chunk) -> float:
    """Tokens of what is shown of a chunk: with neighbours as many more as it has characters."""
    return chunk.num_tokens * len(shown.text) / max(len(chunk.text), 1)


def add_answers(
    session: Session, asks: Sequence[Ask], pairs: Sequence[QAPair], measured: Sequence[Measured]
) -> None:
    """Answers all asks with one model and adds F1 and seconds to the scores of their systems; a
    question whose prompt failed has NaN."""
    row_of = {pair.id: row for row, pair in enumerate(pairs)}
    for number in {int(ask.system) for ask in asks}:
        for metric in (DECIDING_ANSWER, SECONDS):
            measured[number].scores[metric] = np.full(len(pairs), np.nan)
    answered, _, _ = answer_all(session, asks, {})
    for ask, prediction in answered:
        scores = measured[int(ask.system)].scores
        abstained = session.answer_prompt.abstains(prediction.answer)
        values = score_answer(prediction.answer, ask.answers, abstained)
        scores[DECIDING_ANSWER][row_of[ask.pair.id]] = values[DECIDING_ANSWER]
        scores[SECONDS][row_of[ask.pair.id]] = prediction.seconds


def mean_of(values: np.ndarray) -> float:
    """The mean of what was answered; NaN where nothing was: chunks that are larger than the model's
    context, say."""
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else math.nan


def best_of(measured: Sequence[Measured]) -> int:
    """The number of the combination with the highest F1, without answers with the highest mrr@10;
    of equal ones the one that shows the fewest tokens."""
    metric = DECIDING_ANSWER if DECIDING_ANSWER in measured[0].scores else RANK
    return max(
        range(len(measured)),
        key=lambda number: (
            round(np.nan_to_num(mean_of(measured[number].scores[metric]), nan=-1.0), 6),
            -float(measured[number].scores[TOKENS].mean()),
        ),
    )


def table(measured: Sequence[Measured], pairs: Sequence[QAPair]) -> str:
    """A row for each combination: its values, each metric in percent with the 95 % interval of its
    change from the first row, and the cost; a star marks the best one."""
    metrics = [metric for metric in SHOWN if metric in measured[0].scores]
    keys = list(measured[0].combination.values)
    head = ["", *keys, *(LABELS[metric] for metric in metrics), TOKENS]
    head += ["LLM s"] if SECONDS in measured[0].scores else []
    rows, best = [head], best_of(measured)
    for number, one in enumerate(measured):
        row = ["*" if number == best else "", *one.combination.values.values()]
        row += [cell(one.scores[metric], measured[0].scores[metric], pairs) for metric in metrics]
        row.append(f"{one.scores[TOKENS].mean():.0f}")
        if SECONDS in one.scores:
            row.append(f"{mean_of(one.scores[SECONDS]):.2f}")
        rows.append(row)
    documents = len({pair.document_id for pair in pairs})
    return "\n".join(
        [
            f"{len(pairs)} questions about {documents} documents, none of them test documents; "
            "base models; change from the first row with its 95 % interval",
            *aligned(rows),
        ]
    )


def cell(values: np.ndarray, first: np.ndarray, pairs: Sequence[QAPair]) -> str:
    """ "64.1 +2.0 [-1.1, 5.0]": a mean in percent, and its change."""
    if math.isnan(mean_of(values)):
        return "no answer"
    text = f"{100 * mean_of(values):.1f}"
    deltas = (values - first)[:, None]
    if not np.nan_to_num(deltas).any():
        return text
    _, documents = np.unique([pair.document_id or pair.id for pair in pairs], return_inverse=True)
    counts = (~np.isnan(deltas)).astype(float)
    change = bootstrap(np.nan_to_num(deltas), counts, documents)[0]
    interval = ""
    if change.ci95:
        interval = f" [{100 * change.ci95[0]:.1f}, {100 * change.ci95[1]:.1f}]"
    return f"{text} {100 * change.value:+.1f}{interval}"


def write_best(path: Path, best: Combination, to: Path) -> None:
    """The configuration file with the best combination's values, as YAML."""
    values: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    values, _ = move_settings(values)
    for key, value in best.values.items():
        apply_override(values, f"{key}={value}")
    said = ", ".join(f"{key}={value}" for key, value in best.values.items())
    text = yaml.safe_dump(values, sort_keys=False, allow_unicode=True)
    write_text(to, f"# {path.name} with the best combination of a sweep: {said}\n{text}")


def sweep_command(args: argparse.Namespace) -> None:
    """`rag-ft sweep`."""
    combined = combinations(args.config, args.overrides)
    run_dir = RunDir(combined[0].config.run_path)
    pairs = questions_of(Session(combined[0].config, run_dir), args.questions)
    measured = sweep(combined, run_dir, pairs)
    say(table(measured, pairs))
    to = args.to or args.config.with_suffix(".best.yaml")
    write_best(args.config, measured[best_of(measured)].combination, to)
    rows = [
        {**one.combination.values, "scores": {m: v.tolist() for m, v in one.scores.items()}}
        for one in measured
    ]
    write_json(to.with_suffix(".json"), rows)
    say(f"written: {to}")
