"""A finished run made without any model: documents, questions, and systems with chosen accuracy."""

from __future__ import annotations

import dataclasses
import json
import random
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from rag_ft.config import Config
from rag_ft.config_loader import make_config
from rag_ft.evaluation.components import COMPONENTS
from rag_ft.evaluation.extras.robustness import probes
from rag_ft.evaluation.metrics.answers import citation_scores, faithfulness, score_answer
from rag_ft.evaluation.metrics.retrieval import score_ranking
from rag_ft.evaluation.systems import SERVED, Ask, asks_of, ranking_name
from rag_ft.pipeline import record_outputs
from rag_ft.relevance import evidence_shown, gold_chunk_ids
from rag_ft.run_dir import RunDir
from rag_ft.schema import Chunk, Document, Evidence, Hit, Prediction, QAPair, Reject, Score
from rag_ft.session import Session
from rag_ft.stage_table import NAMES
from rag_ft.stages import report
from rag_ft.storage import content_hash, write_jsonl, write_text


@dataclasses.dataclass(frozen=True)
class Material:
    """Questions, rankings (retriever -> question id -> chunk ids), gold chunk ids, chunks by id."""

    pairs: list[QAPair]
    rankings: dict[str, dict[str, list[str]]]
    gold: dict[str, set[str]]
    chunks: dict[str, Chunk]


def _words(text: str) -> list[str]:
    return text.split()


# Removed when the process ends.
_KEPT = tempfile.TemporaryDirectory()

QUICK = {"evaluate": {"advanced": {"num_resamples": 300}}}
ABSTAIN = "I don't know."
RIGHT = {"closed_book": 0.02, "closed_book_tuned": 0.02, "base": 0.4, "tuned_generator": 0.6,
         "tuned_retriever": 0.45, "tuned": 0.68, "oracle_base": 0.6, "oracle_tuned": 0.8,
         "withheld_base": 0.3, "withheld_tuned": 0.7}  # fmt: skip
FINDS = {"base": 0.6, "tuned": 0.75, "lexical": 0.5, "dense_base": 0.5, "dense_tuned": 0.7}
FINDS_RERANKED = {"tuned_retriever": 0.7, "tuned_reranker": 0.7}
FIRST = _words("Ada Bo Cleo Dan Eli Fay Gus Hal Ida Jon Kai Lea Mia Ned Ola Pia Rik Sue Tor Uma")
LAST = _words("Abel Brand Corin Dahl Engel Falk Grim Holm Iver Juhl Kron Lind Moen Nord Oberg Palm")
THINGS = _words("mill pier tower lamp bridge garden library chapel harbour barn")


def make_synthetic_run(folder: Path, **choices: Any) -> tuple[Config, RunDir]:
    """(config, run_dir) of a run that is evaluated but not reported. `choices` are sections of the
    configuration and arguments of `_make`. Each choice is made once in a process, and copied."""
    sections = {name: value for name, value in choices.items() if name in Config.model_fields}
    others = {name: value for name, value in choices.items() if name not in sections}
    config = make_config({"name": "synthetic", "run": {"dir": folder}, **sections})
    kept = Path(_KEPT.name) / content_hash(repr(sorted(choices.items())))
    if not kept.exists():
        _make(config, RunDir(kept), **others)
    shutil.copytree(kept, folder, dirs_exist_ok=True)
    return config, RunDir(folder)


def _make(
    config: Config,
    run_dir: RunDir,
    num_documents: int = 12,
    per_document: int = 8,
    origin: str = "generated",
    seed: int = 0,
    tuned: Collection[str] = ("generator", "retriever"),
    right: dict[str, float] | None = None,
    title: str = "The {thing} of {place}",
    opening: str = "This page tells about the {thing}.",
    unplaced: int = 0,
) -> None:
    """`unplaced` answerable questions, spread over the documents where they are few, have no known
    document."""
    rng = random.Random(seed)
    documents, chunks, pairs = [], [], []
    for number in range(num_documents):
        thing = THINGS[number % len(THINGS)]
        text, spans = _text(rng, thing, per_document, opening)
        name = f"places/{thing}-{number}.md"
        shown = title.format(thing=thing, place=rng.choice(LAST))
        metadata = {"language": "en", "source": "north" if number % 2 else "south"}
        documents.append(Document(name, shown, text, name, "test", metadata))
        pieces = _chunks(name, shown, text)
        chunks += pieces
        pairs += [_pair(rng, name, thing, text, span, pieces, origin) for span in spans]
    answerable = [pair.id for pair in pairs if pair.answerable]
    lost = set(answerable[:: max(1, len(answerable) // max(1, unplaced))][:unplaced])
    nowhere: dict[str, Any] = {"document_id": None, "chunk_id": None, "evidence": None}
    pairs = [dataclasses.replace(pair, **nowhere) if pair.id in lost else pair for pair in pairs]
    write_jsonl(run_dir.documents, documents)
    write_jsonl(run_dir.chunks, chunks)
    write_jsonl(run_dir.qa, pairs)
    finds = {**FINDS, **(FINDS_RERANKED if "reranker" in tuned else {})}
    material = _material(rng, pairs, chunks, finds)
    _evaluate(rng, config, run_dir, material, {**RIGHT, **(right or {})}, tuned)
    _other_stages(run_dir, config, pairs, tuned)


def _text(
    rng: random.Random, thing: str, number: int, opening: str
) -> tuple[str, list[tuple[int, int]]]:
    text, spans = opening.format(thing=thing), []
    for item in range(number):
        answer = (
            f"{rng.choice(FIRST)} {rng.choice(LAST)}" if item % 3 else str(rng.randint(1600, 1990))
        )
        text += f" Part {item} of the {thing} was looked after by "
        spans.append((len(text), len(text) + len(answer)))
        text += f"{answer}, as the old books of the parish tell us in a long and winding "
        text += "sentence about it."
    return text, spans


def _chunks(name: str, title: str, text: str, size: int = 420) -> list[Chunk]:
    starts = range(0, len(text), size - 40)
    pieces = [(start, min(start + size, len(text))) for start in starts]
    return [
        Chunk(f"{name}#{i}", name, title, text[a:b], a, b, (b - a) // 4, "test")
        for i, (a, b) in enumerate(pieces)
    ]


def _pair(
    rng: random.Random,
    name: str,
    thing: str,
    text: str,
    span: tuple[int, int],
    pieces: list[Chunk],
    origin: str,
) -> QAPair:
    start, end = span
    number = text[:start].count(" Part ")
    key = f"{name}:{start}"
    if rng.random() < 0.12:
        question, answers = f"What did part {number} of the {thing} cost?", (ABSTAIN,)
        return QAPair(
            key, question, answers, pieces[0].id, name, None, "unanswerable", "test", origin
        )
    kind = rng.choice(["factoid", "factoid", "inference", "summary"])
    home = next(c for c in pieces if c.start <= start and c.end >= end)
    question, evidence = (
        f"Who looked after part {number} of the {thing}?",
        Evidence(text[start:end], start, end),
    )
    return QAPair(key, question, (text[start:end],), home.id, name, evidence, kind, "test", origin)


def _material(
    rng: random.Random, pairs: list[QAPair], chunks: list[Chunk], finds: Mapping[str, float]
) -> Material:
    by_document: dict[str, list[Chunk]] = {}
    for chunk in chunks:
        by_document.setdefault(chunk.document_id, []).append(chunk)
    gold = {
        pair.id: gold_chunk_ids(pair, by_document.get(pair.document_id or "", [])) for pair in pairs
    }
    ids = [chunk.id for chunk in chunks]
    rankings: dict[str, dict[str, list[str]]] = {}
    for name, share in finds.items():
        rankings[name] = {}
        for pair in pairs:
            ranked = [i for i in rng.sample(ids, min(24, len(ids))) if i not in gold[pair.id]]
            if rng.random() < share:
                ranked[rng.choice([0, 0, 1, 2]) : 0] = sorted(gold[pair.id])
            rankings[name][pair.id] = ranked[:20]
    return Material(pairs, rankings, gold, {chunk.id: chunk for chunk in chunks})


def _evaluate(
    rng: random.Random,
    config: Config,
    run_dir: RunDir,
    material: Material,
    right: dict[str, float],
    tuned: Collection[str],
) -> None:
    asks: list[Ask] = []
    for pair in material.pairs:
        found = {
            name: material.rankings[ranking_name(SERVED[name].tuned, tuned)] for name in SERVED
        }
        hits = {name: ranking[pair.id] for name, ranking in found.items()}
        gold, top_k = material.gold[pair.id], config.retrieval.top_k
        asks += asks_of(pair, hits, gold, material.chunks, top_k, tuned)
    if config.evaluate.advanced.robustness:
        asks += probes(
            material.pairs,
            material.rankings["base"],
            material.gold,
            material.chunks,
            config.retrieval,
            config.run.seed,
        )
    for name, ranking in material.rankings.items():
        rows = [
            Hit(q, rank, i, 1 / rank) for q, ids in ranking.items() for rank, i in enumerate(ids, 1)
        ]
        write_jsonl(run_dir.hits(name), rows)
    answered = [(ask, _prediction(rng, ask, right)) for ask in asks]
    for name in dict.fromkeys(ask.system for ask in asks):
        write_jsonl(run_dir.predictions(name), (p for ask, p in answered if ask.system == name))
    scores = [*_retrieval_scores(material), *_answer_scores(config, run_dir, material, answered)]
    write_jsonl(run_dir.scores, scores)
    shipped = {f"{name}_tuned": int(name in tuned) for name in COMPONENTS}
    audit = {
        "training_pairs": 400,
        "heldout_pairs": len(material.pairs),
        "test_documents": 12,
        "left_out": 2,
    }
    counts = {
        "questions": len(material.pairs),
        **shipped,
        **{f"leakage_{k}": v for k, v in audit.items()},
    }
    _done(run_dir, "evaluate", counts)


def _retrieval_scores(material: Material) -> Iterator[Score]:
    for system, ranking in material.rankings.items():
        for pair_id, gold in material.gold.items():
            if gold:
                yield from _rows(pair_id, system, score_ranking(ranking[pair_id], gold))


def _answer_scores(
    config: Config, run_dir: RunDir, material: Material, answered: list[tuple[Ask, Prediction]]
) -> Iterator[Score]:
    """As the evaluation scores answers, without a model."""
    prompt = Session(config, run_dir).answer_prompt
    for ask, prediction in answered:
        abstained = prompt.abstains(prediction.answer)
        values = score_answer(prediction.answer, ask.answers, abstained)
        shown = [material.chunks[i] for i in prediction.chunk_ids]
        if ask.passages is None:
            covered = evidence_shown(ask.pair, shown)
            values |= {} if covered is None else {"evidence_shown": covered}
            gold = material.gold[ask.pair.id]
            values |= citation_scores(prediction.citations, ask.chunk_ids, gold)
            if prediction.citations:
                values["citation_inferred"] = float(prediction.inferred)
        if not abstained and shown:
            read = ask.passages or [prompt.text(chunk) for chunk in shown]
            supported = faithfulness(prediction.answer, read)
            values |= {} if supported is None else {"faithfulness": supported}
        yield from _rows(ask.pair.id, ask.system, values | {"seconds": prediction.seconds})


def _rows(question_id: str, system: str, values: dict[str, float]) -> Iterator[Score]:
    return (Score(question_id, system, name, round(value, 6)) for name, value in values.items())


def _prediction(rng: random.Random, ask: Ask, right: dict[str, float]) -> Prediction:
    chance = right.get(ask.system, 0.7 if "tuned" in ask.system else 0.5)
    answer = ask.answers[0] if ask.answers else ABSTAIN
    wrong = rng.choice(
        [
            f"{rng.choice(FIRST)} {rng.choice(LAST)}",
            f"It was {answer} alone",
            ABSTAIN,
            "nobody at all",
        ]
    )
    said = answer if rng.random() < chance else wrong
    return Prediction(
        ask.pair.id,
        ask.system,
        said,
        ask.chunk_ids,
        ask.chunk_ids[:1],
        round(rng.uniform(0.01, 0.1), 4),
    )


def _other_stages(
    run_dir: RunDir, config: Config, pairs: list[QAPair], tuned: Collection[str]
) -> None:
    _done(run_dir, "ingest", {"num_documents": 40, "num_chunks": 170, "num_rejects": 2})
    _done(run_dir, "index", {"num_chunks": 170, "dim": 384})
    rejected = {"evidence": 60, "round_trip_answer": 120, "closed_book": 4, "stands_alone": 16}
    examples = {
        "evidence": [{"item": "a#1:0", "detail": "'was built in 1700' is not in the chunk"}],
        "round_trip_answer": [
            {"item": "a#2:1", "detail": "Who built it? | Ola Brand | said: Per Holm"}
        ],
    }
    imported = sum(pair.origin == "imported" for pair in pairs)
    kept = {"asked": 600, "accepted": 400, "imported": imported}
    _done(run_dir, "generate", {**kept, "rejected_by_check": rejected, "reject_examples": examples})
    write_jsonl(
        run_dir.rejects("ingest"), [Reject("docs/broken.pdf", "unreadable", "no text in it")]
    )
    trained = {
        "num_train_pairs": 400,
        "shipped": int("retriever" in tuned),
        "reason": "recall on dev rose by 8.0 points",
    }
    _done(run_dir, "train_retriever", trained)
    _done(
        run_dir,
        "train_generator",
        {"steps": 60, "reason": "no pair to train on" if "generator" not in tuned else ""},
    )
    rng = random.Random(1)
    rows: list[dict[str, Any]] = [{"stage": "base", **_dev(0.6)}]
    rows += [{"stage": "round-0-contrastive", "step": s, "loss": 2 / (s + 3)} for s in range(80)]
    rows += [{"stage": "round-0-contrastive", **_dev(0.68)}]
    rows += [{"stage": "round-0-lsr", "step": s, "loss": 1 / (s + 3)} for s in range(20)]
    rows += [
        {
            "stage": "round-0-lsr",
            "tau": 0.31,
            "entropy": 0.45,
            "teacher_gold_share": 0.7,
            **_dev(0.7),
        }
    ]
    rows += [{"stage": "round-1-lsr", "reason": "left out: the scores tell no chunks apart"}]
    rows += [{"stage": "gate", "alpha": 1.0, "reason": "dev recall rose", **_dev(0.7)}]
    write_jsonl(run_dir.training_log("train_retriever"), rows)
    rows = [{"step": s, "loss": 3 / (s + 3) + rng.random() / 20} for s in range(1, 61)]
    rows += [{"step": s, "eval_loss": 3 / (s + 3) + 0.1} for s in range(10, 61, 10)]
    write_jsonl(run_dir.training_log("train_generator"), rows)
    replies = [
        {"key": str(i), "text": "", "prompt_tokens": 300, "completion_tokens": 12}
        for i in range(50)
    ]
    write_jsonl(run_dir.replies("evaluate"), replies)
    if "reranker" in tuned:
        _done(run_dir, "train_reranker", {"shipped": 1, "reason": "MRR@10 on dev rose"})
    for stage in NAMES[:-1]:
        if not run_dir.done(stage).exists():
            continue
        done = json.loads(run_dir.done(stage).read_text(encoding="utf-8"))
        write_text(run_dir.done(stage), json.dumps(done | record_outputs(run_dir, stage)) + "\n")


def _dev(recall: float) -> dict[str, float]:
    return {
        "dev_served_recall": recall,
        "dev_dense_recall": recall - 0.1,
        "dev_served_mrr": recall - 0.2,
    }


def _done(run_dir: RunDir, stage: str, counts: dict[str, Any]) -> None:
    position = NAMES.index(stage)
    done = {
        "fingerprint": f"{position:016x}",
        "config": {},
        "inputs": {},
        "sources": {},
        "counts": counts,
        "seconds": 3.5 * position + 1,
        "peak_memory_gb": 1.25,
        "versions": {"torch": "2.13.0", "transformers": "5.19.0"},
    }
    write_text(run_dir.done(stage), json.dumps(done) + "\n")


def metrics_of(run_dir: RunDir) -> dict[str, Any]:
    return json.loads(run_dir.metrics.read_text())


def reported_with(folder: Path, **changes: Any) -> RunDir:
    config, run_dir = make_synthetic_run(folder, **{**QUICK, **changes})
    report.run(Session(config, run_dir))
    return run_dir
