"""How many wrong pairs 150 decisions find in the order `worst`, and what that is worth in F1.

python benchmarks/review.py RUN [--decisions 150] [--share 0.3] [--seeds 0 1 2]
python benchmarks/review.py RUN --f1 FOLDER [--generated-only] [--seeds 0 1 2]
python benchmarks/review.py FOLDER --page

RUN is the folder of a run after generate. A share of its generated pairs is corrupted in four ways;
a decision finds a wrong pair where the pair was corrupted. What could be found are all wrong pairs,
or as many as there are decisions.

--f1 tunes a generator and evaluates it, in folders below FOLDER, three times for each seed: with
the corrupted pairs, reviewed (the first decisions correct the wrong pairs that they find and accept
the others), and without the corrupted pairs that they find. RUN must have a tuned retriever, which
stays; F1 is that of both tuned components. Differences are paired, with documents resampled; "all"
averages each question over the seeds. --generated-only leaves the train and dev questions that
people wrote out of the tuning of the generator: what is wrong in the generated pairs weighs more
there. --against without leaves the corrupted run out. Run it again to continue where it was killed.

--page measures the server of the review page in FOLDER, over 20,000 made-up pairs: CPU
milliseconds from a request to the whole answer, guard and JSON included.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from hardware import processor, write_result

from rag_ft.chunk_store import ChunkStore
from rag_ft.config_loader import load_config, make_config
from rag_ft.evaluation.answering import answer_all
from rag_ft.evaluation.comparisons import ScoreTable
from rag_ft.evaluation.statistics import Estimate, bootstrap
from rag_ft.evaluation.systems import SYSTEMS, ask_of, ranking_name
from rag_ft.hardware import choose_device, choose_dtype
from rag_ft.report.run_comparison import load_table
from rag_ft.review.deck import Order, open_deck
from rag_ft.review.filtering import Wanted
from rag_ft.review.store import decided, key_of
from rag_ft.run_dir import RunDir
from rag_ft.schema import Place, QAPair, Review
from rag_ft.session import Session
from rag_ft.stages import evaluate, generate, train_generator
from rag_ft.storage import read_jsonl, write_jsonl

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))
ORDERS: tuple[Order, ...] = ("worst", "random")
WAYS = ("answer", "answer and evidence", "question", "answered although unanswerable")
CONDITIONS = ("reviewed", "without", "corrupted")
SYSTEM = next(system for system in SYSTEMS if system.name == "tuned")


def main() -> None:
    """Prints one line of JSON a seed, and the mean; writes a result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--decisions", type=int, default=150)
    parser.add_argument("--share", type=float, default=0.3)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--f1", type=Path, metavar="FOLDER")
    parser.add_argument("--generated-only", action="store_true")
    parser.add_argument("--against", nargs="+", choices=CONDITIONS[1:], default=CONDITIONS[1:])
    parser.add_argument("--page", action="store_true")
    args = parser.parse_args()
    if args.page:
        print(json.dumps(measured_page(args.run)))
        return
    run_dir = RunDir(args.run)
    dtype = choose_dtype(load_config(run_dir.config).run.dtype, choose_device())
    about = {"dtype": dtype, "decisions": args.decisions, "share_wrong": args.share}
    if args.f1:
        conditions = [each for each in CONDITIONS if each in ("reviewed", *args.against)]
        found_f1 = measured_f1(
            run_dir,
            args.f1,
            args.seeds,
            args.decisions,
            args.share,
            args.generated_only,
            conditions,
        )
        name = "review-f1-generated-only" if args.generated_only else "review-f1"
        write_result(name, processor(), about | found_f1)
        return
    rows, means = [], {}
    for order in ORDERS:
        for seed in args.seeds:
            rows.append(measured(run_dir, order, seed, args.decisions, args.share))
            print(json.dumps(rows[-1]))
        shares = [row["share_of_findable"] for row in rows if row["order"] == order]
        means[order] = round(statistics.mean(shares), 3)
    print(means)
    write_result("review-finding", processor(), about | {"rows": rows, "mean": means})


def measured(
    run_dir: RunDir, order: Order, seed: int, num_decisions: int, share: float
) -> dict[str, Any]:
    """The errors that the first decisions of an order find."""
    pairs = list(read_jsonl(run_dir.generated_pairs, QAPair))
    corrupted, ways = corrupt(pairs, share, random.Random(seed))
    queue = in_order(run_dir, corrupted, order, seed)
    first = [pair.id for pair in queue[:num_decisions]]
    by_way = {way: sum(w == way for w in ways.values()) for way in WAYS}
    hit = {way: sum(ways.get(pair_id) == way for pair_id in first) for way in WAYS}
    findable = min(num_decisions, len(ways))
    return {
        "seed": seed,
        "order": order,
        "pairs": len(queue),
        "wrong": len(ways),
        "found": sum(hit.values()),
        "share_of_findable": round(sum(hit.values()) / findable, 3),
        "by_way": {way: f"{hit[way]} of {by_way[way]}" for way in WAYS},
    }


def in_order(run_dir: RunDir, pairs: Sequence[QAPair], order: Order, seed: int) -> list[QAPair]:
    """The generated ones among the pairs in the order in which they are reviewed."""
    with tempfile.TemporaryDirectory() as folder:
        other = RunDir(Path(folder))
        write_jsonl(other.generated_pairs, pairs)
        deck = open_deck(other, ChunkStore(run_dir.chunks), order, seed=seed)
    return [deck.cards[n].pair for n in deck.queue("", Wanted(where="generated"))]


def measured_f1(
    run_dir: RunDir,
    folder: Path,
    seeds: Sequence[int],
    num_decisions: int,
    share: float,
    generated_only: bool,
    conditions: Sequence[str],
) -> dict[str, Any]:
    """F1 on the test questions under these conditions, of each seed and of all."""
    pairs = list(read_jsonl(run_dir.generated_pairs, QAPair))
    if generated_only:
        pairs = [pair for pair in pairs if pair.split == "test" or pair.origin == "generated"]
    truth = {pair.id: pair for pair in pairs}
    tables: dict[str, list[ScoreTable]] = {condition: [] for condition in conditions}
    found: dict[str, Any] = {}
    for seed in seeds:
        corrupted, ways = corrupt(pairs, share, random.Random(seed))
        first = in_order(run_dir, corrupted, "worst", seed)[:num_decisions]
        wrong = {pair.id for pair in first} & ways.keys()
        reviews = [review_of(pair, truth[pair.id], ways) for pair in first]
        material: dict[str, tuple[list[QAPair], list[Review]]] = {
            "reviewed": (corrupted, reviews),
            "without": ([pair for pair in corrupted if pair.id not in wrong], []),
            "corrupted": (corrupted, []),
        }
        for condition in conditions:
            used, decisions = material[condition]
            place = RunDir(folder / f"{condition}-{seed}")
            tune_and_evaluate(run_dir, place, used, decisions)
            tables[condition].append(load_table(place))
        last = {condition: each[-1:] for condition, each in tables.items()}
        found[f"seed {seed}"] = {"wrong": len(ways), "found": len(wrong), **compared(last)}
        print(json.dumps({f"seed {seed}": found[f"seed {seed}"]}), flush=True)
    found["all"] = compared(tables)
    print(json.dumps({"all": found["all"]}))
    return found


def compared(tables: Mapping[str, Sequence[ScoreTable]]) -> dict[str, Any]:
    """F1 of each condition in points, and what the reviewed run gains with its interval."""
    row: dict[str, Any] = {
        name: round(100 * float(mean_f1(each).mean()), 2) for name, each in tables.items()
    }
    row["questions"] = len(tables["reviewed"][0].pairs)
    for before in [name for name in tables if name != "reviewed"]:
        change = gain(tables[before], tables["reviewed"])
        low, high = change.ci95 or (float("nan"), float("nan"))
        row[f"reviewed - {before}"] = [round(100 * x, 2) for x in (change.value, low, high)]
    return row


def mean_f1(tables: Sequence[ScoreTable]) -> np.ndarray:
    """F1 (0-1) of SYSTEM on each question, as the mean over tables of the same questions."""
    return np.asarray(np.mean([table.values[SYSTEM.name, "f1"] for table in tables], axis=0))


def gain(before: Sequence[ScoreTable], after: Sequence[ScoreTable]) -> Estimate:
    """What SYSTEM gains in F1, paired by question, with documents resampled."""
    delta = (mean_f1(after) - mean_f1(before))[:, None]
    [found] = bootstrap(delta, np.ones_like(delta), after[0].documents)
    return found


def review_of(pair: QAPair, truth: QAPair, ways: Mapping[str, str]) -> Review:
    """The decision of a reviewer who knows the truth: accept, or correct."""
    if pair.id not in ways:
        return decided(pair, "accept", "truth")
    places: tuple[Place, ...] = ()
    if truth.evidence and truth.chunk_id:
        places = (Place(truth.chunk_id, truth.evidence.start, truth.evidence.end),)
    answers = truth.answers if truth.answerable else ()
    changes = {"question": truth.question, "answers": answers, "evidence": places}
    return decided(pair, "edit", "truth", key=key_of(pair), **changes)


def tune_and_evaluate(
    run_dir: RunDir, place: RunDir, pairs: Sequence[QAPair], reviews: Sequence[Review]
) -> None:
    """Tunes and evaluates a generator in a copy of the run with these pairs and reviews, unless
    that is done; a killed one continues."""

    def change(copied: RunDir) -> None:
        write_jsonl(copied.generated_pairs, pairs)
        write_jsonl(copied.reviews, reviews)

    made_anew = ("generator", "checkpoints", "hits", "predictions", "scores.jsonl")
    copy_run(run_dir, place, made_anew, change)
    session = session_of(place)
    if not place.generator.exists():
        generate.apply_reviews(session)
        train_generator.run(session)
    if not place.scores.exists():
        answer_test_questions(session)


def copy_run(
    run_dir: RunDir, place: RunDir, left_out: Sequence[str], change: Callable[[RunDir], None]
) -> None:
    """Copies a run without the files of these names, and changes the copy, unless that is done."""
    if not place.path.exists():
        copied = place.path.with_name(f"{place.path.name}.tmp")
        shutil.rmtree(copied, ignore_errors=True)
        shutil.copytree(run_dir.path, copied, ignore=shutil.ignore_patterns(".lock", *left_out))
        change(RunDir(copied))
        copied.rename(place.path)


def session_of(place: RunDir) -> Session:
    """A session of a run that was copied."""
    values = yaml.safe_load(place.config.read_text(encoding="utf-8"))
    values["run"]["dir"] = str(place.path)
    return Session(make_config(values), place)


def answer_test_questions(session: Session) -> None:
    """Writes scores.jsonl as evaluate does, of SYSTEM alone: the others take four times as long."""
    pairs = [pair for pair in read_jsonl(session.run_dir.qa, QAPair) if pair.split == "test"]
    rankings = evaluate.retrieve(session, pairs)
    material = evaluate.read_material(session.chunks, pairs, rankings, shown=True)
    session.close_retrievers()
    ranking = material.rankings[ranking_name(SYSTEM.tuned, session.tuned_components)]
    top_k, asks = session.config.retrieval.num_shown, []
    for pair in pairs:
        hits, gold = {SYSTEM.ranking: ranking[pair.id]}, material.gold[pair.id]
        asks.append(ask_of(SYSTEM, pair, hits, gold, material.chunks, top_k))
    answered, _, _ = answer_all(session, asks, material.chunks)
    scores = evaluate.answer_scores(session.answer_prompt, material, answered)
    write_jsonl(session.run_dir.scores, scores)


# What the page asks for, by what the user does.
DECISION = {"reviewer": "ann", "seen": 0}
FILTERS = {
    "filter: none": {},
    "filter: two letters": {"text": "mi"},
    "filter: a word": {"text": "painted"},
    "filter: a number": {"text": "rank>2"},
    "filter: kind and split": {"kind": "factoid", "split": "train"},
    "filter: decided": {"status": "decided"},
}


def measured_page(folder: Path, repeats: int = 30) -> dict[str, Any]:
    """CPU milliseconds of each request, the median and the largest."""
    # Imported here: the other measurements need no server.
    from review_run import make_review_run, review_state
    from starlette.testclient import TestClient

    from rag_ft.serving.review_app import make_review_app

    session = make_review_run(folder, num_documents=400, pairs_each=50)
    times: dict[str, list[float]] = {}
    with TestClient(
        make_review_app(review_state(session), session.config.serve), base_url="http://localhost"
    ) as client:

        def timed(name: str, method: str, path: str, **rest: Any) -> Any:
            began = time.process_time()
            found = client.request(method, path, **rest)
            times.setdefault(name, []).append(1000 * (time.process_time() - began))
            assert found.status_code == 200, found.text
            return found.json()

        seen = 0
        for number in range(repeats):
            for decision in ("accept", "undo"):
                body = {**DECISION, "numbers": [number], "decision": decision, "seen": seen}
                seen = timed(decision, "POST", "/review/decisions", json=body)["seen"]
            for number_again in range(number * 20, number * 20 + 20):  # what stays decided
                body = {**DECISION, "numbers": [number_again], "decision": "accept", "seen": seen}
                seen = client.post("/review/decisions", json=body).json()["seen"]
            timed("card", "GET", f"/review/cards/{number}?reviewer=ann")
            for name, query in FILTERS.items():
                timed(name, "GET", "/review/queue", params={"reviewer": "ann", **query})
    return {
        name: [round(statistics.median(each), 1), round(max(each), 1)]
        for name, each in times.items()
    }


def corrupt(
    pairs: list[QAPair], share: float, rng: random.Random
) -> tuple[list[QAPair], dict[str, str]]:
    """(the pairs, {id: how it was corrupted}). Other texts come from pairs of the same document
    where it has any, so that they are plausible. Two pairs exchange their questions: generation
    keeps no question twice, and a review is about every pair of a document that asks the same."""
    generated = [pair for pair in pairs if pair.origin == "generated"]
    of_document: dict[str | None, list[QAPair]] = {}
    for pair in generated:
        of_document.setdefault(pair.document_id, []).append(pair)
    made: dict[str, QAPair] = {}
    ways: dict[str, str] = {}
    for pair in rng.sample(generated, len(generated)):
        if len(ways) >= round(share * len(generated)):
            break
        if pair.id in ways:
            continue
        near = [p for p in of_document[pair.document_id] if p.answerable]
        others = [p for p in near if p.answers != pair.answers]
        others = others or [p for p in generated if p.answerable and p.answers != pair.answers]
        other = rng.choice(others)
        free = [p for p in near if p.id != pair.id and p.id not in ways]
        # An exchange makes two wrong pairs: it is drawn half as often.
        way = rng.choices(WAYS[:3], [2, 2, 1 if free else 0])[0] if pair.answerable else WAYS[3]
        ways[pair.id] = way
        if way == "question":
            twin = rng.choice(free)
            ways[twin.id] = way
            made[twin.id] = replace(twin, question=pair.question)
            made[pair.id] = replace(pair, question=twin.question)
        elif way == "answer":
            made[pair.id] = replace(pair, answers=other.answers)
        else:
            kind = pair.kind if pair.answerable else "factoid"
            made[pair.id] = replace(pair, kind=kind, answers=other.answers)
            place = {"evidence": other.evidence, "chunk_id": other.chunk_id}
            made[pair.id] = replace(made[pair.id], **place)
    return [made.get(pair.id, pair) for pair in pairs], ways


if __name__ == "__main__":
    main()
