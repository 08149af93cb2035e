"""How many of the generated pairs are right, and how many right ones the checks keep.

    python benchmarks/pairs.py [--part report] [--config configs/demo.yaml] [section.key=value ...]

`pair_labels.jsonl` holds 300 single-fact pairs of the demo model that passed all checks of
2026-11-29, drawn by seed from 578, and labelled by hand before the checks named below were
written. A pair is right if someone who reads the question alone understands what is asked, and the
chunk, with its title and headings, states exactly this answer to it; grammar does not count. The
150 of part `develop` were there to write the checks and to choose their threshold; the 150 of part
`report` are for the result.

Makes the checks `evidence` and `subject`, compares the stored F1 of the round trip with
`round_trip_f1`, and asks for the second opinion of `evidence_similarity`, one after the other.
Prints precision and the share of right pairs kept, with Wilson's 95 % intervals.
Writes benchmarks/results/pairs-<part>-<hardware>-<date>.json.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hardware import processor, write_result
from scipy.stats import binomtest

from rag_ft.config_loader import load_config
from rag_ft.generation.filters import (
    WrittenPair,
    check_evidence,
    check_named,
    told_about,
)
from rag_ft.generation.second_opinion import near_evidence
from rag_ft.retrieval.encoder import load_encoder
from rag_ft.schema import Chunk, Evidence, QAPair

LABELS = Path(__file__).parent / "pair_labels.jsonl"


@dataclass(frozen=True)
class LabelledPair:
    """A pair with its chunk; `reason` says in a few words why it is wrong."""

    pair: QAPair
    chunk: Chunk
    right: bool
    reason: str


def main() -> None:
    args = _arguments()
    config = load_config(args.config, args.overrides)
    labelled = read_labels(args.part, args.pairs)
    settings = config.generate.advanced
    least = settings.evidence_similarity
    encoder = load_encoder(config.encoder)

    def opinion(rows: Sequence[LabelledPair]) -> list[LabelledPair]:
        pairs = [row.pair for row in rows]
        near = near_evidence(pairs, encoder, encoder, least, lambda pair, failure: None)
        ids = {pair.id for pair in near}
        return [row for row in rows if row.pair.id in ids]

    steps: dict[str, Callable[[Sequence[LabelledPair]], list[LabelledPair]]] = {
        "all": list,
        "evidence": lambda rows: [row for row in rows if not _fails_evidence(row)],
        "subject": lambda rows: [row for row in rows if not _fails_subject(row)],
        f"round_trip_f1 {settings.round_trip_f1:g}": lambda rows: [
            # Those below it passed because one answer contained the other, which 1 rules out.
            row
            for row in rows
            if settings.round_trip_f1 < 1 or row.pair.checks["round_trip_f1"] == 1
        ],
        f"evidence_similarity {least}": opinion,
    }
    dtype = str(encoder.sentence_transformer.dtype).removeprefix("torch.")
    found: dict[str, Any] = {"part": args.part, "dtype": dtype}
    rows, num_right = labelled, sum(row.right for row in labelled)
    for name, step in steps.items():
        rows = step(rows)
        right = sum(row.right for row in rows)
        found[name] = {"precision": share(right, len(rows)), "kept": share(right, num_right)}
        print(f"{name:26}" + "".join(f"  {key} {_shown(of)}" for key, of in found[name].items()))
    found["wrong_pairs_left"] = Counter(row.reason for row in rows if not row.right)
    print(dict(found["wrong_pairs_left"]))
    write_result(f"pairs-{args.part}", processor(), found)


def read_labels(part: str, at_most: int) -> list[LabelledPair]:
    """The first `at_most` labelled pairs of a part, in the order in which they were drawn."""
    rows = []
    for line in LABELS.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["part"] == part:
            pair, chunk = row["pair"], row["chunk"]
            pair |= {"evidence": Evidence(**pair["evidence"]), "answers": tuple(pair["answers"])}
            chunk["headings"] = tuple(chunk["headings"])
            rows.append(LabelledPair(QAPair(**pair), Chunk(**chunk), row["right"], row["reason"]))
    return rows[:at_most]


def share(num: int, of: int) -> dict[str, float]:
    """num / of with Wilson's 95 % interval, in shares (0-1)."""
    interval = binomtest(num, of).proportion_ci(method="wilson")
    shares = {"share": num / of, "low": interval.low, "high": interval.high}
    return {"num": num, "of": of} | {name: round(value, 4) for name, value in shares.items()}


def _shown(found: dict[str, float]) -> str:
    low, high = 100 * found["low"], 100 * found["high"]
    return f"{found['num']}/{found['of']} = {100 * found['share']:.1f} % [{low:.1f}, {high:.1f}]"


def _fails_evidence(row: LabelledPair) -> bool:
    written = WrittenPair(_evidence(row).text, row.pair.question, row.pair.answer)
    return check_evidence(written, _span(row), row.chunk.text, row.pair.kind) is not None


def _fails_subject(row: LabelledPair) -> bool:
    told = (told_about(row.chunk.text, _span(row)), row.chunk.title, *row.chunk.headings)
    return check_named(row.pair.question, " ".join(told)) is not None


def _evidence(row: LabelledPair) -> Evidence:
    assert row.pair.evidence is not None  # the labelled pairs are all answerable
    return row.pair.evidence


def _span(row: LabelledPair) -> tuple[int, int]:
    """Where the evidence stands in the text of its chunk."""
    evidence, start = _evidence(row), row.chunk.start
    return evidence.start - start, evidence.end - start


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Precision of the pairs that the checks accept")
    parser.add_argument("overrides", nargs="*", help="section.key=value")
    parser.add_argument("--part", choices=("develop", "report"), default="report")
    parser.add_argument("--config", type=Path, default=Path("configs/demo.yaml"))
    parser.add_argument("--pairs", type=int, default=150, help="at most so many")
    return parser.parse_intermixed_args()


if __name__ == "__main__":
    main()
