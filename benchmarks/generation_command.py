"""The generate stage as users run it, against what its server can give, in the same rounds.

    python benchmarks/generation_command.py [--model data/models/demo-lm] [--chunks 256] [--pairs 8]
    [--rounds 5]

One vLLM server; in every round each pass's own requests go through a bare loop (the ceiling), then
the whole stage runs with all that belongs to it: planning, prompts, checks, files. Of each pass:

* share_of_ceiling: output tokens a second of the stage's pass, as a share of the best bare loop in
  that round. It is wall-clock: run it on a machine that does nothing else.
* steps_share: engine steps of the bare loop, as a share of the stage's: how full the stage keeps
  the engine's batches. Other jobs beside it do not matter.
* client_cpu_ms: what a request costs the client, checks and retrieval included.

Prints, and writes its block into benchmarks/results/generation-<model>-<hardware>.json.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from generation import bare_loop, prompt_counters, spread, write

from rag_ft.config_loader import load_config
from rag_ft.engine import language_model
from rag_ft.llm.factory import open_language_model
from rag_ft.llm.interface import ChatRequest, Reply
from rag_ft.pipeline import run_stage
from rag_ft.run_dir import RunDir
from rag_ft.session import Session
from rag_ft.stages import generate


def main() -> None:
    parser = argparse.ArgumentParser(description="The generate stage against its server's ceiling")
    parser.add_argument("--model", type=Path, default=Path("data/models/demo-lm"))
    parser.add_argument("--documents", type=Path, default=Path("data/handbook"))
    parser.add_argument("--chunks", type=int, default=256)
    parser.add_argument(
        "--pairs", type=int, default=8, help="asked of every chunk, as far as it has sentences"
    )
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument(
        "--concurrency", type=int, nargs="+", default=[128, 256], help="of the bare loop"
    )
    args = parser.parse_args()
    # Lets us empty the prefix cache between the measures.
    os.environ.setdefault("VLLM_SERVER_DEV_MODE", "1")
    write(args, "command", measure(args))


def measure(args: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        config = load_config(Path("configs/demo.yaml"), overrides(args, folder))
        for stage in ("ingest", "index"):
            run_stage(stage, config)
        with open_language_model(config.llm, config.run.seed) as model:
            passes = run_command(config, model)[0]  # warms up
            rounds = [one_round(args, config, model, passes) for _ in range(args.rounds)]
    return {
        "chunks": args.chunks,
        "pairs_per_chunk": args.pairs,
        "max_tokens": args.max_tokens,
        "rounds": args.rounds,
        "requests": {name: len(done.sent) for name, done in passes.items()},
        **{name: spread([found[name] for found in rounds]) for name in rounds[0]},
    }


def overrides(args: argparse.Namespace, folder: str) -> list[str]:
    return [
        f"run.dir={folder}",
        f"ingest.sources=[{args.documents}]",
        "ingest.chunk_tokens=128",
        f"llm.model={args.model}",
        "llm.backend=vllm",
        f"generate.advanced.max_chunks={args.chunks}",
        f"generate.pairs_per_chunk={args.pairs}",
        f"generate.advanced.max_tokens={args.max_tokens}",
        "generate.advanced.temperature=0",
        "generate.questions=[]",
        "generate.advanced.min_kept_share=0",
    ]


def one_round(
    args: argparse.Namespace, config: Any, model: Any, passes: dict[str, Pass]
) -> dict[str, float]:
    """The bare loop over the requests of each pass, then the stage."""
    url = model._sender.base_url
    bare: dict[str, list[tuple[float, float]]] = {name: [] for name in passes}
    for name, known in passes.items():
        for concurrency in args.concurrency:
            before = steps(model)
            rate = bare_loop(url, model, known.sent, concurrency)
            bare[name].append((rate, steps(model) - before))
    prompt_counters(model, url)
    done, seconds = run_command(config, model)
    found: dict[str, float] = {"seconds_around_the_passes": seconds.pop("around")}
    for name, of in done.items():
        rate = of.tokens / seconds[name]
        found |= {
            f"{name}_output_tokens_per_s": rate,
            f"{name}_ceiling_output_tokens_per_s": max(rate for rate, _ in bare[name]),
            f"{name}_share_of_ceiling": rate / max(rate for rate, _ in bare[name]),
            f"{name}_steps_share": min(num for _, num in bare[name]) / of.steps,
            f"{name}_client_cpu_ms": 1000 * of.cpu_seconds / len(of.sent),
        }
    print({name: round(value, 3) for name, value in found.items()}, flush=True)
    return found


def run_command(config: Any, model: Any) -> tuple[dict[str, Pass], dict[str, float]]:
    """The generate stage, nothing kept from before, on a model that is open: its passes that asked
    something, and seconds by pass and around them."""
    run_dir, listener = RunDir(config.run_path), Listener(model)
    run_dir.replies("generate").unlink(missing_ok=True)
    opened = contextlib.nullcontext(listener)
    language_model.open_language_model = lambda *_: opened  # type: ignore[assignment]
    began = time.monotonic()
    seconds = generate.run(Session(config, run_dir))["seconds_by_pass"]
    around = time.monotonic() - began - sum(seconds.values())
    passes = dict(zip(seconds, listener.passes, strict=False))
    return {name: done for name, done in passes.items() if done.sent}, {**seconds, "around": around}


class Pass:
    """What one pass asked, and what it cost."""

    def __init__(self) -> None:
        self.sent: list[ChatRequest] = []
        self.tokens, self.steps, self.cpu_seconds = 0, 0.0, 0.0


class Listener:
    """The language model; counts what each pass asks and costs."""

    window = 1

    def __init__(self, model: Any) -> None:
        self._model, self.name = model, model.name
        self.passes: list[Pass] = []

    def chat(self, requests: Iterable[ChatRequest]) -> Iterator[Reply]:
        done = Pass()
        self.passes.append(done)
        num_steps, cpu = steps(self._model), time.process_time()
        for reply in self._model.chat(done.sent.append(request) or request for request in requests):
            done.tokens += reply.completion_tokens
            yield reply
        done.cpu_seconds = time.process_time() - cpu
        done.steps = steps(self._model) - num_steps


def steps(model: Any) -> float:
    return prompt_counters(model, model._sender.base_url, reset=False)["iteration_tokens"]


if __name__ == "__main__":
    main()
