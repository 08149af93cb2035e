"""How many wrong pairs 150 decisions find in the order `worst`, and at random.

python benchmarks/review.py RUN [--decisions 150] [--share 0.3]

RUN is the folder of a run after generate. A share of its generated pairs is corrupted in four ways,
with the seeds 0 to 2; a decision finds a wrong pair where the pair was corrupted.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from rag_ft.chunk_store import ChunkStore
from rag_ft.review.deck import Order, Wanted, open_deck
from rag_ft.run_dir import RunDir
from rag_ft.schema import QAPair
from rag_ft.storage import read_jsonl, write_jsonl

WAYS = ("answer", "answer and evidence", "question", "answered although unanswerable")


def main() -> None:
    """Prints one line of JSON a seed, and the mean."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--decisions", type=int, default=150)
    parser.add_argument("--share", type=float, default=0.3)
    args = parser.parse_args()
    found: dict[str, list[float]] = {"worst": [], "random": []}
    for seed in range(3):
        for order in ("worst", "random"):
            row = measured(RunDir(args.run), order, seed, args.decisions, args.share)
            print(json.dumps(row))
            found[order].append(row["share_of_findable"])
    print({order: round(statistics.mean(shares), 3) for order, shares in found.items()})


def measured(
    run_dir: RunDir, order: Order, seed: int, num_decisions: int, share: float
) -> dict[str, Any]:
    """The errors that the first decisions of an order find."""
    pairs = list(read_jsonl(run_dir.generated_pairs, QAPair))
    corrupted, ways = corrupt(pairs, share, random.Random(seed))
    with tempfile.TemporaryDirectory() as folder:
        other = RunDir(Path(folder))
        write_jsonl(other.generated_pairs, corrupted)
        deck = open_deck(other, ChunkStore(run_dir.chunks), order, seed=seed)
    queue = [deck.cards[n].pair for n in deck.queue("", Wanted(where="generated"))]
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


def corrupt(
    pairs: list[QAPair], share: float, rng: random.Random
) -> tuple[list[QAPair], dict[str, str]]:
    """(the pairs, {id: how it was corrupted}). Other texts come from pairs of the same document
    where it has any, so that they are plausible."""
    generated = [pair for pair in pairs if pair.origin == "generated"]
    chosen = {pair.id for pair in rng.sample(generated, round(share * len(generated)))}
    of_document: dict[str | None, list[QAPair]] = {}
    for pair in generated:
        of_document.setdefault(pair.document_id, []).append(pair)
    made, ways = [], {}
    for pair in pairs:
        if pair.id in chosen:
            near = [p for p in of_document[pair.document_id] if p.answerable]
            others = [p for p in near if p.answers != pair.answers]
            others = others or [p for p in generated if p.answerable and p.answers != pair.answers]
            other = rng.choice(others)
            if not pair.answerable:
                ways[pair.id] = "answered although unanswerable"
                pair = replace(pair, answers=other.answers, evidence=other.evidence)
                pair = replace(pair, chunk_id=other.chunk_id, kind="factoid")
            elif (way := rng.choice(WAYS[:3])) == "question":
                ways[pair.id] = way
                pair = replace(pair, question=other.question)
            else:
                ways[pair.id] = way
                evidence, chunk_id = pair.evidence, pair.chunk_id
                if way == "answer and evidence":
                    evidence, chunk_id = other.evidence, other.chunk_id
                pair = replace(pair, answers=other.answers, evidence=evidence, chunk_id=chunk_id)
        made.append(pair)
    return made, ways


if __name__ == "__main__":
    main()
