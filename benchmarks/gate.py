"""How often the gate ships an encoder of a given true change: its operating characteristics, by
simulation.

    python benchmarks/gate.py [--changed 0.06] [--draws 4000]

Every dev question is served or not by base and tuned encoder; a share `changed` of them differs (6
% between base and contrastive encoder, hybrid recall@5, on 309 unseen COVID-QA questions), so split
between gained and lost that the expected recall changes by the points on the left. Ranks within
equal recall are drawn at random. Of a refused tuning smaller shares are tried too, which this
leaves out.
"""

from __future__ import annotations

import argparse

import numpy as np

from rag_ft.training.retriever.ship_gate import DevScores

NUM_QUESTIONS = (20, 60, 200, 600)
POINTS = (-5, -2, 0, 2, 5)


def main() -> None:
    parser = argparse.ArgumentParser(
        description="How often the gate ships an encoder of a given true change"
    )
    parser.add_argument(
        "--changed", type=float, default=0.06, help="share of questions that differ, 0-1"
    )
    parser.add_argument("--draws", type=int, default=4000)
    args = parser.parse_args()
    print("true points  " + "".join(f"{num:>6d} questions" for num in NUM_QUESTIONS))
    for points in POINTS:
        shares = [shipped(points / 100, num, args.changed, args.draws) for num in NUM_QUESTIONS]
        print(f"{points:+11d}  " + "".join(f"{share:16.2f}" for share in shares))


def shipped(change: float, num_questions: int, changed: float, draws: int) -> float:
    """The share of `draws` dev sets on which the gate finds the tuned encoder not below the
    base."""
    rng = np.random.default_rng(0)
    gained, lost = (changed + change) / 2, (changed - change) / 2
    passed = 0
    for _ in range(draws):
        delta = rng.choice([1.0, -1.0, 0.0], num_questions, p=[gained, lost, 1 - gained - lost])
        base, tuned = (delta < 0).astype(float), (delta > 0).astype(float)
        rank = rng.normal(0, 0.2, num_questions)
        passed += DevScores(tuned, tuned, rank).not_below(
            DevScores(base, base, np.zeros(num_questions))
        )
    return passed / draws


if __name__ == "__main__":
    main()
