"""Scoring, resampling and the report against their limits; the statistics against their promises.

    python benchmarks/evaluation.py [--run CONFIG] [--simulations 4000]

Without --run nothing but this file's own synthetic questions is needed. With the configuration of a
finished run, its grid is asked again in a fresh folder and compared with the generation of its
distinct prompts alone, sorted by generator and length, which is the engine's best case. Computation
is timed in this process' CPU seconds (other jobs beside it then matter little), servers and the
browser in wall seconds. Prints a table, writes
benchmarks/results/evaluation-<hardware>-<date>.json, and ends with exit code 1 if a limit is
passed.
"""

from __future__ import annotations

import argparse
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from hardware import processor, write_result

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from synthetic_run import make_synthetic_run
from test_statistics import coverage
from test_verdict import false_alarms

from rag_ft.evaluation.metrics.answers import faithfulness, score_answer
from rag_ft.evaluation.statistics import bootstrap
from rag_ft.session import Session
from rag_ft.stages import report

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
NUM_QUESTIONS, NUM_PREDICTIONS = 5_000, 100_000
Row = dict[str, Any]


def main() -> int:
    args = _arguments()
    rows = [score_predictions(), *resample(), *make_report(), *simulate(args.simulations)]
    if args.run:
        rows.append(ask_grid(args.run, args.overrides))
    for row in rows:
        print(
            f"{'ok ' if row['ok'] else 'OVER'}  {row['what']}: {row['value']} {row['unit']} (limit "
            f"{row['limit']})"
        )
    _write(rows)
    return 0 if all(row["ok"] for row in rows) else 1


def score_predictions() -> Row:
    """All lexical metrics of 100,000 predictions: half short facts, half sentences of 25 words."""
    rng = random.Random(0)
    words = [
        "".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9)))
        for _ in range(2_000)
    ]

    def text(num: int) -> str:
        return " ".join(rng.choices(words, k=num))

    contexts = [[text(90) for _ in range(3)] for _ in range(NUM_QUESTIONS)]
    jobs = []
    for number in range(NUM_PREDICTIONS):
        gold = [text(rng.choice([1, 2, 4])), text(3)] if number % 2 else [text(25)]
        kept = gold[0].split()
        rng.shuffle(kept)
        jobs.append(
            (f"{' '.join(kept[: len(kept) * 2 // 3 + 1])} {text(len(kept) // 3 + 1)}", gold)
        )
    score_answer("a warm start", ["warm start"], abstained=False)
    clock = time.process_time()
    for number, (said, answers) in enumerate(jobs):
        score_answer(said, answers, abstained=False)
        faithfulness(said, contexts[number % NUM_QUESTIONS])
    return _row("scoring 100,000 predictions, one core", time.process_time() - clock, "cpu-s", 60)


def resample() -> list[Row]:
    """20 comparisons of 5,000 questions, 10,000 resamples: of 500 documents, and of one document a
    question."""
    rows = []
    for num_documents in (500, NUM_QUESTIONS):
        rng = np.random.default_rng(0)
        deltas = np.clip(rng.normal(0.02, 0.4, (NUM_QUESTIONS, 20)), -1, 1)
        documents = np.arange(NUM_QUESTIONS) % num_documents
        seconds = _best(lambda d=deltas, c=documents: bootstrap(d, np.ones_like(d), c), rounds=2)
        rows.append(
            _row(
                f"bootstrap, 20 comparisons x 5,000 questions, {num_documents} documents",
                seconds,
                "s",
                10,
            )
        )
    return rows


def make_report() -> list[Row]:
    """A report of 5,000 questions of 500 documents, all nine systems."""
    with tempfile.TemporaryDirectory() as name:
        config, run_dir = make_synthetic_run(Path(name), num_documents=500, per_document=10)
        clock = time.process_time()
        counts = report.run(Session(config, run_dir))
        rows = [
            _row("writing a report of 5,000 questions", time.process_time() - clock, "cpu-s", 60)
        ]
        rows.append(_row("its page", counts["html_mb"], "MB", 15))
        if CHROMIUM:
            rows.append(
                _row("opening it", _opening_seconds(run_dir.report_html, Path(name)), "s", 2)
            )
    return rows


def simulate(num: int) -> list[Row]:
    """Coverage of the interval by number of documents, and false alarms of the verdict over four
    differences."""
    rows = []
    for num_documents in (12, 25, 60, 150):
        share = 100 * coverage(num_documents, num, 2000)
        limits = (92.0, 96.5) if num_documents < 20 else (94.0, 96.0)
        row = _row(
            f"coverage of the 95 % interval, {num_documents} documents", share, "%", list(limits)
        )
        rows.append({**row, "ok": limits[0] <= share <= limits[1]})
    return [*rows, _row("false alarms of the verdict", 100 * false_alarms(num), "%", 5)]


def ask_grid(path: Path, overrides: list[str]) -> Row:
    """Seconds of the whole stage `evaluate` over those of its distinct prompts alone."""
    from rag_ft.config_loader import load_config
    from rag_ft.evaluation import answering
    from rag_ft.llm.factory import open_language_model
    from rag_ft.run_dir import RunDir
    from rag_ft.stages import evaluate

    config = load_config(path, overrides)
    # In one process the processor's seconds say more than the wall's, on a machine that others use
    # too.
    seconds = time.process_time if config.llm.backend == "transformers" else time.perf_counter
    asked: list[Any] = []
    with tempfile.TemporaryDirectory() as name:
        copy = RunDir(Path(name) / "run")
        made = shutil.ignore_patterns("replies", "hits", "predictions", "checkpoints", "*.html")
        shutil.copytree(config.run_path, copy.path, ignore=made)
        original = answering.Requests.__iter__
        # The distinct prompts, as they are asked.
        answering.Requests.__iter__ = lambda self: (asked.append(r) or r for r in original(self))  # type: ignore[method-assign,assignment,func-returns-value]
        clock = seconds()
        evaluate.run(Session(config, copy))
        whole = seconds() - clock
        answering.Requests.__iter__ = original  # type: ignore[method-assign]
        tuned = Session(config, copy).tuned_generator
        with open_language_model(
            config.llm, config.run.seed, {"tuned": tuned} if tuned else {}
        ) as model:
            clock = seconds()
            best = sorted(
                asked, key=lambda r: (r.adapter or "", sum(len(m["content"]) for m in r.messages))
            )
            for _ in model.chat(best):
                pass
            alone = seconds() - clock
    return _row(
        f"the grid over its {len(asked)} distinct prompts alone", whole / alone, "times", 1.5
    )


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Scoring, resampling and reporting against their limits"
    )
    parser.add_argument(
        "--run", type=Path, help="configuration of a finished run whose grid is asked again"
    )
    parser.add_argument("--simulations", type=int, default=4000)
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    return parser.parse_args()


def _best(action: Callable[[], Any], rounds: int) -> float:
    seconds = []
    for _ in range(rounds):
        clock = time.perf_counter()
        action()
        seconds.append(time.perf_counter() - clock)
    return min(seconds)


def _opening_seconds(page: Path, folder: Path) -> float:
    """From start to the end of the load event, less what an empty page takes; the best of three."""
    empty = folder / "empty.html"
    empty.write_text("<!doctype html><title>empty</title>")

    def visit(path: Path) -> None:
        profile = tempfile.mkdtemp(dir=folder)
        flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-sync",
        ]
        flags += [
            "--disable-background-networking",
            "--disable-component-update",
            f"--user-data-dir={profile}",
        ]
        shot = f"--screenshot={folder / 'shot.png'}"
        subprocess.run(
            [str(CHROMIUM), *flags, shot, path.as_uri()],
            capture_output=True,
            timeout=120,
            check=True,
        )

    return _best(lambda: visit(page), 3) - _best(lambda: visit(empty), 3)


def _row(what: str, value: float, unit: str, limit: Any) -> Row:
    ok = not isinstance(limit, int | float) or value <= limit
    return {"what": what, "value": round(value, 2), "unit": unit, "limit": limit, "ok": ok}


def _write(rows: list[Row]) -> None:
    found = {"python": platform.python_version(), "numpy": np.__version__, "rows": rows}
    write_result("evaluation", processor(), found)


if __name__ == "__main__":
    sys.exit(main())
