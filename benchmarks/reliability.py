"""Breaks rag_ft on purpose, and counts what was lost, doubled, wrong without a word, or let out.

    python benchmarks/reliability.py leakage [--encoder MODEL]
    python benchmarks/reliability.py files [--count 500]      # mutated files, and hostile ones
    python benchmarks/reliability.py server [--count 2000]    # 30 % of the replies are faults
    python benchmarks/reliability.py kills [--count 200]      # kill -9 in all stages
    python benchmarks/reliability.py together [--count 60]    # two commands on one run folder
    python benchmarks/reliability.py damage [--count 500]     # files of a finished run
    python benchmarks/reliability.py shortages [--count 72]   # disk, memory, right to write

All draws follow `--seed`. Runs have tiny real models, made here; their commands are forks of this
process, so only Linux and macOS can run it. Each prints what it found and writes
benchmarks/results/reliability-<what>-<hardware>-<date>.json. Exit code 1: something is wrong.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import tiny_run  # first: it sets what libraries read when they are imported
from hardware import processor, write_result

COUNTS = {
    "files": 500,
    "server": 2000,
    "kills": 200,
    "together": 60,
    "damage": 500,
    "shortages": 72,
}
FAULTY_SHARE = 0.3
CHUNK_TOKENS = (25, 60, 200)


def main() -> int:
    """Runs one part."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("what", choices=["leakage", *COUNTS])
    parser.add_argument("--count", type=int, help="how often; the default is in the docs")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--encoder", help="leakage: instead of a tiny one")
    parser.add_argument("--work", type=Path, help="a folder that is kept, with a finished run")
    args = parser.parse_args()
    count = args.count or COUNTS.get(args.what, 1)
    with tempfile.TemporaryDirectory(prefix="reliability-", ignore_cleanup_errors=True) as name:
        work = args.work or Path(name)
        # Commands of another user read in it.
        work.mkdir(parents=True, exist_ok=True)
        work.chmod(0o755)
        found = measured(args.what, count, args.seed, work, args.encoder)
    print(json.dumps(found, indent=1, ensure_ascii=False))
    write_result(f"reliability-{args.what}", processor(), {"seed": args.seed, **found})
    return int(bool(found["wrong"]))


def measured(what: str, count: int, seed: int, work: Path, encoder: str | None) -> dict[str, Any]:
    """The result of one part; "wrong" names everything that is."""
    if what == "leakage":
        return leakage(seed, work, encoder)
    if what == "files":
        import break_files

        mutated, hostile = break_files.mutated(count), break_files.hostile(work / "hostile")
        slow = mutated["slowest_seconds"] > break_files.HANG_SECONDS
        wrong = [*hostile["wrong"], *(["a mutated file took too long"] if slow else [])]
        return {"mutated": mutated, "hostile": hostile, "wrong": wrong}
    if what == "server":
        import break_server

        return break_server.faults(count, FAULTY_SHARE, seed, work / "server")
    import break_damage
    import break_runs

    bench = break_runs.Bench(work, work / "tiny.yaml")
    if bench.before("end").exists():
        tiny_run.import_libraries()
    else:
        bench = break_runs.make_bench(work)
    parts = {
        "kills": break_runs.kills,
        "together": break_runs.together,
        "shortages": break_runs.shortages,
        "damage": break_damage.damage,
    }
    return parts[what](bench, count, seed)


def leakage(seed: int, work: Path, encoder: str | None) -> dict[str, Any]:
    """Hidden test documents at several sizes of chunks, and hidden test questions."""
    import break_leakage

    handbook = tiny_run.ROOT / "data/handbook"
    reworded = tiny_run.ROOT / "benchmarks/handbook_paraphrases.jsonl"
    # The size of chunks in tokens, and so how many are left out, depends on the encoder.
    other_words, named = {}, encoder or "a tiny one"
    if encoder:  # a tiny one knows no words
        other_words = break_leakage.paraphrases(encoder, reworded, handbook)
    else:
        from tiny_models import save_tiny_encoder

        encoder = str(save_tiny_encoder(work / "encoder"))
    documents = {str(n): break_leakage.documents(encoder, seed, n) for n in CHUNK_TOKENS}
    people = handbook / "questions.jsonl"
    asked = [json.loads(line)["question"] for line in people.open(encoding="utf-8")]
    questions = break_leakage.questions(asked, seed)
    parts = [*documents.values(), questions]
    wrong = [f"trained on: {part['trained_on']}" for part in parts if part["trained_on"]]
    found = {"encoder": named, "documents_by_chunk_tokens": documents, "questions": questions}
    return {**found, "questions_in_other_words": other_words, "wrong": wrong}


if __name__ == "__main__":
    raise SystemExit(main())
