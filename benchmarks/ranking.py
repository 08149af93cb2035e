"""What the choices of ranking bring on real questions: the share of BM25, and the feature ranker.

    python benchmarks/ranking.py DATA
        [--only halvings,languages,latency,sentences,crossfit,reranker,run,arms] [--work DIR]
        [--halvings 20] [--run RUN] [--llm CONFIG] [--dtype float32]

DATA holds the sets of docs/how-to/questions.md as <set>_train and <set>_dev. Nothing is trained
but rankers, except by `crossfit`, which tunes the encoder on each half of COVID-QA and reports the
other one. `reranker` also tunes a cross-encoder on each half that starts from the encoder, and
reports on the other one every depth and share, and what dev questions of the half choose.
`halvings`: chosen on half of the documents, measured on the other half, against the
plain mixture of the base encoder; no choice may lose more than a point of recall@5 in more than one
of them. `run` reports the retrieval of the finished run RUN, and `arms` what other ways bring over
it (ranking_arms.py): `--llm CONFIG` names the language model that rewords questions.
"""

from __future__ import annotations

import argparse
import itertools
import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from hardware import processor, write_result
from ranking_arms import measure_arms

from rag_ft.config import Config
from rag_ft.config_loader import make_config
from rag_ft.evaluation.metrics.retrieval import score_ranking
from rag_ft.hardware import choose_dtype
from rag_ft.pipeline import run_stage
from rag_ft.relevance import gold_by_pair
from rag_ft.retrieval.feature_ranker import FeatureRanker
from rag_ft.retrieval.fusion import fuse
from rag_ft.retrieval.reranker import Reranker, rerank
from rag_ft.run_dir import RunDir
from rag_ft.schema import QAPair, Score
from rag_ft.session import Session
from rag_ft.storage import content_hash, read_jsonl
from rag_ft.training.retriever.fusion_choice import Ranked, choose_weight, gain_of, rank_questions
from rag_ft.training.retriever.ranker_choice import choose_ranker, train_ranker
from rag_ft.training.retriever.rerank_choice import Asked

SHOWN = ("recall@1", "recall@5", "mrr@10")
LANGUAGES = ("xquad_de", "xquad_es", "xquad_zh", "xquad_ar")
PLAIN = 0.5
SENTENCES = {"advanced": {"sentences": True}}
# As configs/covidqa.yaml.
SHIPPED = {"retrieval": SENTENCES, "train_retriever": {"advanced": {"crossfit": "always"}}}
ALLOWED_LOSS = 0.01  # of recall@5
WAYS = [(0, 0.0), *((depth, w / 10) for depth in (5, 10, 20) for w in range(1, 11))]
ARMS = ("lexical", "dense_base", "mixture_base", "base", "dense_tuned", "mixture_tuned")
ARMS += ("tuned_retriever", "tuned_reranker", "tuned")


def main() -> None:
    parser = argparse.ArgumentParser(description="What the choices of ranking bring")
    parser.add_argument("data", type=Path)
    parser.add_argument("--only", default="halvings,languages,latency")
    parser.add_argument("--sets", default="covidqa,nq_oracle", help="of the halvings")
    parser.add_argument("--halvings", type=int, default=20)
    parser.add_argument("--work", type=Path, default=Path("runs/benchmark-ranking"))
    parser.add_argument("--run", type=Path, help="a finished run, of `run` and `arms`")
    parser.add_argument("--llm", type=Path, help="a configuration, of `arms`")
    parser.add_argument("--dtype", default="float32", help="of the encoder, but in a finished run")
    args = parser.parse_args()
    measures = {
        "halvings": halvings,
        "languages": languages,
        "latency": latency,
        "sentences": sentences,
        "crossfit": crossfit,
        "reranker": reranker,
        "run": lambda args: report_arms({"run": RunDir(args.run)}),
        "arms": arms,
    }
    for name in args.only.split(","):
        found = measures[name](args)
        wanted = config_of(args.run).run.dtype if args.run else args.dtype
        dtype = choose_dtype(wanted, "cuda" if torch.cuda.is_available() else "cpu")
        write_result(f"ranking-{name}", processor(), {"dtype": dtype, name: found})


def arms(args: argparse.Namespace) -> dict[str, Any]:
    """Over the finished run: what other ways bring."""
    return measure_arms(Session.of(config_of(args.run)), Session.of(args.llm) if args.llm else None)


def config_of(run: Path) -> Config:
    """The configuration that a run was made with."""
    values = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
    sections = {name: keys for name, keys in values.items() if name != "name"}
    return make_config(sections | {"run": values["run"] | {"dir": run}})


# Without training: lists of the base encoder.


def halvings(args: argparse.Namespace) -> dict[str, Any]:
    """For each set, the served ranking against the plain mixture, chosen and measured on halves of
    the documents."""
    results: dict[str, Any] = {}
    for name in args.sets.split(","):
        questions = base_lists(args, name)
        documents = sorted({question.document for question in questions})
        rows = []
        for seed in range(args.halvings):
            order = sorted(documents, key=lambda document: content_hash(seed, document))
            chosen = set(order[: len(order) // 2])
            choosing = [question for question in questions if question.document in chosen]
            measured = [question for question in questions if question.document not in chosen]
            served, what = serve(choosing, measured, seed)
            plain = score(measured, [fuse(*q.candidates, PLAIN)[0] for q in measured])
            gain = dict(zip(SHOWN, (served - plain).mean(axis=0).round(4).tolist(), strict=True))
            rows.append({"seed": seed, **what, "gain": gain})
            print(f"{name} {seed}: {what} {gain}", flush=True)
        gains = [row["gain"]["recall@5"] for row in rows]
        losses = sum(gain < -ALLOWED_LOSS for gain in gains)
        mean, worst = 100 * np.mean(gains), 100 * min(gains)
        firsts = 100 * np.mean([row["gain"]["recall@1"] for row in rows])
        print(
            f"{name}: recall@1 {firsts:+.1f}, recall@5 {mean:+.1f} on average, {worst:+.1f} at "
            f"worst, more than a point lost in {losses} of {len(rows)}"
        )
        results[name] = {"num_lost": losses, "halvings": rows}
    return results


def languages(args: argparse.Namespace) -> dict[str, Any]:
    """For each language two documents choose and the others measure, in every way; against BM25
    and the plain mixture."""
    results: dict[str, Any] = {}
    pooled = np.zeros((0, 3))
    for name in LANGUAGES:
        questions = base_lists(args, name, parts=("dev",))
        documents = sorted({question.document for question in questions})
        found = np.zeros((0, 3))
        for chosen in itertools.combinations(documents, 2):
            choosing = [question for question in questions if question.document in chosen]
            measured = [question for question in questions if question.document not in chosen]
            served, _ = serve(choosing, measured, 0)
            arms = [score(measured, [q.candidates.lexical[0] for q in measured])]
            arms.append(score(measured, [fuse(*q.candidates, PLAIN)[0] for q in measured]))
            column = SHOWN.index("recall@5")
            found = np.vstack([found, np.column_stack([a[:, column] for a in (served, *arms)])])
        pooled = np.vstack([pooled, found])
        results[name] = dict(
            zip(("served", "lexical", "plain"), found.mean(0).round(4).tolist(), strict=True)
        )
        print(name, results[name])
    results["pooled"] = dict(
        zip(("served", "lexical", "plain"), pooled.mean(0).round(4).tolist(), strict=True)
    )
    print("pooled", results["pooled"])
    return results


def latency(args: argparse.Namespace) -> dict[str, float]:
    """Milliseconds of one question at a time, half of them slower (p50): the whole search, and
    what fusion and feature ranker take of it."""
    name = args.sets.split(",")[0]
    session = prepare(args, name, ("train", "dev"))
    questions = base_lists(args, name)
    retriever = session.plain_retriever()
    asked = [pair.question for pair in read_jsonl(session.run_dir.qa, QAPair)][:100]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ranker.txt"
        train_ranker(questions[:200], seed=0).save_model(path)
        ranker = FeatureRanker(path)
        seconds: dict[str, list[float]] = {"candidates": [], "mixture": [], "ranker": []}
        for question in asked:
            clock = [time.perf_counter()]
            vectors, [found] = retriever.candidates([question], [{}])
            clock.append(time.perf_counter())
            fuse(*found, PLAIN)
            clock.append(time.perf_counter())
            ranker.rank(*retriever.features(question, vectors[0], found))
            clock.append(time.perf_counter())
            for step, taken in zip(seconds, np.diff(clock), strict=True):
                seconds[step].append(float(taken))
    result = {f"{step}_ms": round(1000 * float(np.median(s)), 2) for step, s in seconds.items()}
    result["num_chunks"] = len(retriever.chunk_ids)
    print(result)
    return result


def sentences(args: argparse.Namespace) -> dict[str, Any]:
    """For each set the encoder and the plain mixture, with and without sentences in the index."""
    results: dict[str, Any] = {}
    for name in args.sets.split(","):
        lists = [base_lists(args, name, with_sentences=wanted) for wanted in (False, True)]
        for arm in ("dense", "mixture"):
            without, found = (
                score(asked, [order_of(arm, question) for question in asked]) for asked in lists
            )
            for column, metric in enumerate(SHOWN):
                documents = [question.document for question in lists[0]]
                gain = gain_of((found - without)[:, column], documents)
                results[f"{name} {arm} {metric}"] = {
                    "without": round(float(without[:, column].mean()), 4),
                    "gain": round(gain.value, 4),
                    "ci95": [round(bound, 4) for bound in gain.ci95 or ()],
                }
                print(name, arm, metric, results[f"{name} {arm} {metric}"], flush=True)
    return results


def order_of(arm: str, question: Ranked) -> np.ndarray:
    """The rows of the encoder alone, or of the plain mixture, best first."""
    if arm == "dense":
        return question.candidates.dense[0]
    return fuse(*question.candidates, PLAIN)[0]


def serve(
    choosing: Sequence[Ranked], measured: Sequence[Ranked], seed: int
) -> tuple[np.ndarray, dict[str, Any]]:
    """Scores of the measured questions as the choice on the others would serve them."""
    weight = choose_weight(choosing).lexical_weight
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ranker.txt"
        choice = choose_ranker(choosing, [], weight, path, forced=False, seed=seed)
        if choice.served:
            ranker = FeatureRanker(path)
            orders = [ranker.rank(*question.features)[0] for question in measured]
        else:
            orders = [fuse(*question.candidates, weight)[0] for question in measured]
    return score(measured, orders), {"lexical_weight": weight, "ranker": choice.served}


def score(questions: Sequence[Ranked], orders: Sequence[np.ndarray]) -> np.ndarray:
    """SHOWN of each question (num_questions, 3)."""
    rows = []
    for question, order in zip(questions, orders, strict=True):
        ranked, gold = [str(row) for row in order[:10]], {str(row) for row in question.gold}
        found = score_ranking(ranked, gold)
        rows.append([found[metric] for metric in SHOWN])
    return np.array(rows)


def base_lists(
    args: argparse.Namespace,
    name: str,
    parts: Sequence[str] = ("train", "dev"),
    with_sentences: bool = False,
) -> list[Ranked]:
    """Every located question of a set as the base encoder and BM25 rank it, over the documents of
    all its parts."""
    more = {"retrieval": SENTENCES} if with_sentences else {}
    session = prepare(args, name, parts, folder=f"{name}-sentences" if more else name, more=more)
    pairs = [pair for pair in read_jsonl(session.run_dir.qa, QAPair) if pair.answerable]
    gold = gold_by_pair(pairs, session.chunks)
    return rank_questions(session.plain_retriever(), pairs, gold)


# With training: a run on each half.


def crossfit(args: argparse.Namespace) -> dict[str, Any]:
    """COVID-QA: trained on half of the documents, measured on the other half, both ways."""
    runs = {}
    for fold in (0, 1):
        settings = {"folds": 2, "fold": fold}
        folder = f"covidqa-{fold}-shipped"
        session = prepare(args, "covidqa", ("train", "dev"), settings, folder, SHIPPED)
        for stage in ("train_retriever", "train_generator", "evaluate"):
            run_stage(stage, session.config)
        runs[f"covidqa-{fold}"] = session.run_dir
    return report_arms(runs)


def reranker(args: argparse.Namespace) -> dict[str, Any]:
    """COVID-QA: a reranker tuned on half of the documents, over the other half, both ways: what
    dev questions choose, and every other way to use it."""
    from rag_ft.training.distributed import join_processes
    from rag_ft.training.reranker.training import RerankerTraining, choose, train_reranker
    from rag_ft.training.retriever.dataset import select_pairs

    results: dict[str, Any] = {}
    tables: dict[str, list[np.ndarray]] = {}
    documents: dict[str, list[str]] = {}
    for fold in (0, 1):
        settings = {"folds": 2, "fold": fold}
        more, folder = {"reranker": {"model": "auto"}}, f"covidqa-{fold}"
        session = prepare(args, "covidqa", ("train", "dev"), settings, folder, more)
        run_stage("train_retriever", session.config)
        pairs = select_pairs(session.run_dir, session.chunks, 0.8)
        training = RerankerTraining(session, pairs, join_processes())
        clock = time.perf_counter()
        rows = training.rows()
        train_reranker(training, rows, 1.0)
        seconds = time.perf_counter() - clock
        for state, tuned in training.states.items():
            choice, milliseconds = choose(training, tuned)
            test = [p for p in read_jsonl(session.run_dir.qa, QAPair) if p.split == "test"]
            asked = ask_served(session, tuned, test)
            scorer = session.open_reranker(training.built)
            table = reranked(scorer, session.retriever(tuned).chunk_ids, asked)
            chosen = WAYS.index((choice.depth, choice.weight))
            tables.setdefault(state, []).append(np.concatenate([table, table[:, [chosen]]], axis=1))
            documents.setdefault(state, []).extend(f"{fold}/{a.document}" for a in asked)
            results[f"{state}-{fold}"] = {
                "num_rows": len(rows),
                "seconds": round(seconds),
                "milliseconds": milliseconds,
                "choice": choice.row(),
            }
            print(fold, state, results[f"{state}-{fold}"], flush=True)
    for state, parts in tables.items():
        whole = np.concatenate(parts)
        for number, way in enumerate([*WAYS, "chosen"]):
            gains = whole[:, number] - whole[:, 0]
            found = {}
            for column, metric in enumerate(SHOWN):
                gain = gain_of(gains[:, column], documents[state])
                found[metric] = {
                    "value": round(float(whole[:, number, column].mean()), 4),
                    "gain": round(gain.value, 4),
                    "ci95": [round(bound, 4) for bound in gain.ci95 or ()],
                }
            results[f"{state} {way}"] = found
            print(state, way, found, flush=True)
    return results


def ask_served(session: Session, tuned: Sequence[str], pairs: Sequence[QAPair]) -> list[Asked]:
    """The questions as the retriever with these tuned components serves them."""
    retriever, gold = session.retriever(tuned), gold_by_pair(pairs, session.chunks)
    located = [pair for pair in pairs if gold[pair.id]]
    hits = retriever.search([pair.question for pair in located], 20)
    return [
        Asked(
            pair.question,
            (np.array([retriever.row_of[i] for i, _ in found]), np.array([s for _, s in found])),
            frozenset(retriever.row_of[i] for i in gold[pair.id]),
            pair.document_id or pair.id,
        )
        for pair, found in zip(located, hits, strict=True)
    ]


def reranked(scorer: Reranker, chunk_ids: Sequence[str], asked: Sequence[Asked]) -> np.ndarray:
    """SHOWN of each question in every one of WAYS: (num_questions, num_ways, 3)."""
    table = np.zeros((len(asked), len(WAYS), len(SHOWN)))
    for number, question in enumerate(asked):
        rows, _ = question.order
        scores = scorer.scores(question.question, [chunk_ids[row] for row in rows])
        gold = {str(row) for row in question.gold}
        for way, (depth, weight) in enumerate(WAYS):
            order = rerank(question.order, scores[:depth], weight)[0] if depth else rows
            found = score_ranking([str(row) for row in order[:10]], gold)
            table[number, way] = [found[metric] for metric in SHOWN]
    return table


def report_arms(runs: Mapping[str, RunDir]) -> dict[str, Any]:
    """Means of every arm over the pooled test questions, and the served ranking against each."""
    values: dict[tuple[str, str], dict[str, float]] = {}
    document_of: dict[str, str] = {}
    choices: dict[str, Any] = {}
    for name, run_dir in runs.items():
        for row in read_jsonl(run_dir.scores, Score):
            values.setdefault((row.system, row.metric), {})[f"{name}/{row.question_id}"] = row.value
        for pair in read_jsonl(run_dir.qa, QAPair):
            document_of[f"{name}/{pair.id}"] = pair.document_id or pair.id
        choices[name] = json.loads(run_dir.fusion.read_text(encoding="utf-8"))
        # Without a ranker the mixture is what is served, before a tuned reranker.
        for state in ("base", "tuned"):
            if not (choices[name][state] or {}).get("ranker"):
                for metric in SHOWN:
                    served = values.get((state, metric), {})
                    if state == "tuned":
                        served = served | values.get(("tuned_retriever", metric), {})
                    own = {i: v for i, v in served.items() if i.startswith(f"{name}/")}
                    values.setdefault((f"mixture_{state}", metric), {}).update(own)
    table: dict[str, Any] = {}
    for arm in ARMS:
        for metric in SHOWN:
            levels = values.get((arm, metric))
            if not levels:
                continue
            served = values["tuned", metric]
            ids = sorted(levels.keys() & served.keys())
            deltas = np.array([served[i] - levels[i] for i in ids])
            gain = gain_of(deltas, [document_of[i] for i in ids])
            mean = float(np.mean([levels[i] for i in ids]))
            interval = gain.interval(4)
            table.setdefault(arm, {})[metric] = {
                "value": round(mean, 4),
                "served_gain": round(gain.value, 4),
                "ci95": interval,
            }
            print(
                f"{arm:14} {metric:9} {100 * mean:5.1f}  served {100 * gain.value:+.1f} {interval}"
            )
    return {"arms": table, "choices": choices}


def prepare(
    args: argparse.Namespace,
    name: str,
    parts: Sequence[str],
    ingest: Mapping[str, Any] | None = None,
    folder: str = "",
    more: Mapping[str, Mapping[str, Any]] | None = None,
    stages: Sequence[str] = ("ingest", "index", "generate"),
) -> Session:
    """A run over a set up to `generate`, without generated pairs. `more` are further settings by
    section."""
    # Where nothing is tested, all documents are train documents.
    split = {} if ingest else {"split": "train"}
    files = [args.data / f"{name}_{part}" for part in parts]
    sections: dict[str, dict[str, Any]] = {
        "run": {"dir": args.work / (folder or name), "dtype": args.dtype},
        "ingest": {
            "sources": [{"path": path / "documents.jsonl", **split} for path in files],
            "test_share": 0.0,
            "dev_share": 0.0,
            "advanced": dict(ingest or {}),
        },
        "retrieval": {"context": "none" if name.startswith("covidqa") else "title"},
        "generate": {
            "pairs_per_chunk": 0,
            "questions": [path / "questions.jsonl" for path in files],
        },
        "llm": {"model": "data/models/demo-lm"},
        "train_generator": {"enabled": False},
        "evaluate": {"answers": False},
    }
    for section, values in (more or {}).items():
        sections[section] = sections.get(section, {}) | values
    config: Config = make_config(sections)
    for stage in stages:
        run_stage(stage, config)
    return Session.of(config)


if __name__ == "__main__":
    main()
