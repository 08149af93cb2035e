"""What the server costs over its language model, and what many clients at once meet.

    python benchmarks/serving.py CONFIG [--seconds 20] [--clients 64] [--soak 600] [--llm URL MODEL]

CONFIG is a configuration whose run is finished. A stand-in for a language model writes 20 tokens a
second in each stream. The same clients ask it directly, then through `rag-ft serve`: with chunks,
and the closed-book model, which retrieves nothing. All processes share this machine's cores. With
`--llm` the model is that of another server, such as vLLM, and its tokens a second are what it can
do. Writes results/serving-*.json.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hardware import processor, write_result

from rag_ft.config_loader import load_config

HERE = Path(__file__).parent
Found = dict[str, Any]


@contextmanager
def started(*words: str) -> Iterator[tuple[str, subprocess.Popen[str], float]]:
    """(the first line that a Python process prints, the process, seconds until the line). SIGTERM
    ends it."""
    began = time.monotonic()
    process = subprocess.Popen([sys.executable, *words], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout
        line = process.stdout.readline().strip()
        if not line:
            raise RuntimeError(f"{' '.join(words)} ended before it was ready")
        yield line, process, time.monotonic() - began
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(timeout=60)
        if code not in (0, -signal.SIGTERM):
            raise RuntimeError(f"{words[0]} ended with exit code {code}")


@contextmanager
def llm_server(given: list[str] | None) -> Iterator[tuple[str, str, list[str]]]:
    """(URL, model, processes to watch) of the language model: the stand-in, or the one given."""
    if given:
        yield given[0], given[1], []
        return
    with started(str(HERE / "stand_in_llm.py")) as (url, process, _):
        yield url, "stand-in", [f"llm={process.pid}"]


def ask(url: str, model: str, args: argparse.Namespace, *words: str) -> Found:
    """What the clients met."""
    command = [sys.executable, str(HERE / "streaming_clients.py"), url, model]
    command += ["--clients", str(args.clients), "--warm-up", str(args.warm_up), *words]
    command += ["--any-text"] * bool(args.llm)
    return json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def overhead(direct: Found, served: Found) -> Found:
    """The differences that count: see the names."""
    num_tokens, steps = served["num_tokens"], served["metrics"]
    searches = steps.get("rag_ft_step_seconds_count retrieve", 0)
    retrieval_ms = 1000 * steps.get("rag_ft_step_seconds_sum retrieve", 0) / max(1, searches)
    return {
        "throughput_loss_percent": 100 * (1 - served["tokens_per_s"] / direct["tokens_per_s"]),
        "cpu_ms_per_token": 1000 * served["cpu_seconds"]["server"] / max(1, num_tokens),
        "retrieval_ms": retrieval_ms,
        "added_ms_beyond_retrieval": served["first_token_ms"]
        - direct["first_token_ms"]
        - retrieval_ms,
        "tokens_per_s_direct": direct["tokens_per_s"],
        "tokens_per_s_served": served["tokens_per_s"],
        "ends": served["ends"],
    }


def soak(found: Found) -> Found:
    """Failures, memory and slots of a long run."""
    memory = found["memory_mb"]
    minute = memory[60:] if len(memory) > 120 else memory[len(memory) // 2 :]
    return {
        "seconds": found["seconds"],
        "ends": found["ends"],
        "memory_mb_first_and_last": [minute[0], minute[-1]],
        "memory_growth_percent": 100 * (minute[-1] / minute[0] - 1),
        "in_flight_at_the_end": found["in_flight_at_the_end"],
        "at_once_after": found["at_once_after"],
    }


def main() -> None:
    """Runs the parts and prints their figures."""
    parser = argparse.ArgumentParser(description="cost and endurance of rag-ft serve")
    parser.add_argument("config")
    parser.add_argument("overrides", nargs="*", metavar="section.key=value")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--warm-up", type=float, default=4.0)
    parser.add_argument("--soak", type=float, default=0.0, help="seconds; 0: left out")
    parser.add_argument("--llm", nargs=2, metavar=("URL", "MODEL"), help="instead of the stand-in")
    args = parser.parse_args()

    found: Found = {"clients": args.clients}
    serve = ["-m", "rag_ft", "serve", args.config, *args.overrides, "--port", "0"]
    with started(*serve) as (_, _, seconds):
        found["seconds_to_start"] = seconds
    with llm_server(args.llm) as (url, model, watched):
        lasting = ["--seconds", str(args.seconds)]
        direct = ask(url, model, args, *lasting, "--watch", *watched)
        over = ["llm.backend=openai", f"llm.base_url={url}", f"llm.model={model}"]
        with started(*serve, *over, "--base") as (address, server, _):
            run = load_config(Path(args.config), args.overrides).run_path.name
            watch = ["--watch", *watched, f"server={server.pid}"]
            served = ask(f"{address}/v1", run, args, *lasting, *watch)
            streamed = ask(f"{address}/v1", f"{run}-closed-book", args, *lasting, *watch)
            found["with_retrieval"] = overhead(direct, served)
            found["streaming_alone"] = overhead(direct, streamed)
            if args.soak:
                crowd = ["--seconds", str(args.soak), "--memory", str(server.pid)]
                crowd += ["--leaving", "0.1", "--malformed", "0.01"]
                found["soak"] = soak(ask(f"{address}/v1", run, args, *crowd))
    for name, value in found.items():
        print(f"{name}: {json.dumps(value)}")
    write_result("serving-llm" if args.llm else "serving", processor(), found)


if __name__ == "__main__":
    main()
