"""Question generation through a vLLM server: our client against what the same server can give, in
one run.

    python benchmarks/generation.py [--model data/models/demo-lm] [--chunks 256] [--only
    client,server,agreement,engine]

* client: 20,000 requests through a fake server that answers at once: client time a request, memory.
* server: the same prompts (4 questions a chunk, greedy, JSON schema) through `cached_chat`, through
  a bare loop at its best concurrency (the ceiling), and one at a time as several peers do; prompt
  tokens computed with the chunks in order and shuffled, with a cache that does not hold them all.
* engine: the same prompts through vLLM's LLM class in one process, which has no server between, and
  through the bare loop, by turns.
* agreement: greedy replies of the server and of the in-process model, in bfloat16 and in float32.

The stage as users run it is measured by generation_command.py. Rates are wall-clock: run it on a
machine that does nothing else. Prints and writes
benchmarks/results/generation-<model>-<hardware>.json, where each measure has its own date and
hardware.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime
import json
import os
import random
import re
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import aiohttp
from hardware import RESULTS, processor

from rag_ft.config import LLMConfig
from rag_ft.llm.factory import open_language_model
from rag_ft.llm.interface import JSON_STYLE, ChatRequest
from rag_ft.llm.reply_cache import cached_chat

KINDS = ("factoid", "summary", "inference", "unanswerable")
SCHEMA = {
    "type": "object",
    "properties": {name: {"type": "string"} for name in ("evidence", "question", "answer")},
    "required": ["evidence", "question", "answer"],
    "additionalProperties": False,
}
# Small blocks, so that a chunk's own tokens are shared, and room for about 100 prompts of the
# 1,024.
SERVER_ARGUMENTS = ["--block-size", "32", "--num-gpu-blocks-override", "800"]
FAKE_SERVER = """
import asyncio, json, sys
message = {"role": "assistant", "content": "word " * 60}
choice = {"index": 0, "message": message, "finish_reason": "stop"}
chat = {"choices": [choice], "usage": {"prompt_tokens": 200, "completion_tokens": 60}}
def reply(body):
    raw = json.dumps(body).encode()
    head = b"HTTP/1.1 200 OK\\r\\nContent-Type: application/json\\r\\n"
    return head + b"Content-Length: %d\\r\\n\\r\\n" % len(raw) + raw
CHAT, MODELS = reply(chat), reply({"data": [{"id": "fake"}]})
class Fake(asyncio.Protocol):
    def connection_made(self, transport): self.transport, self.seen = transport, b""
    def data_received(self, data):
        self.seen += data
        while (end := self.seen.find(b"\\r\\n\\r\\n")) >= 0:
            head = self.seen[:end].lower()
            at = head.find(b"content-length:")
            length = int(head[at + 15:].split(b"\\r\\n")[0]) if at >= 0 else 0
            if len(self.seen) < end + 4 + length: return
            self.seen = self.seen[end + 4 + length:]
            self.transport.write(CHAT if head.startswith(b"post") else MODELS)
async def main():
    server = await asyncio.get_running_loop().create_server(Fake, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()
asyncio.run(main())
"""
ENGINE = """
import json, sys, time
from vllm import LLM, SamplingParams
from vllm.sampling_params import StructuredOutputsParams
job = json.load(open(sys.argv[1]))
llm = LLM(model=job["model"], max_model_len=1024, enforce_eager=True, enable_chunked_prefill=False,
          max_num_batched_tokens=4096,
          structured_outputs_config={"backend": "guidance", "disable_any_whitespace": True})
rules = StructuredOutputsParams(json=job["schema"])
how = SamplingParams(temperature=0, max_tokens=job["max_tokens"], structured_outputs=rules)
llm.chat(job["messages"][:64], how, use_tqdm=False)
print("RATE ready", flush=True)
for line in sys.stdin:
    llm.reset_prefix_cache()
    began = time.monotonic()
    done = llm.chat(job["messages"], how, use_tqdm=False)
    seconds = time.monotonic() - began
    print("RATE", sum(len(d.outputs[0].token_ids) for d in done) / seconds, flush=True)
"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Generation throughput against the server's own ceiling"
    )
    parser.add_argument("--model", type=Path, default=Path("data/models/demo-lm"))
    parser.add_argument(
        "--documents",
        type=Path,
        default=Path("data/handbook"),
        help="folder with .md and .txt files",
    )
    parser.add_argument("--chunks", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=3, help="of engine")
    parser.add_argument("--requests", type=int, default=20_000, help="through the fake server")
    parser.add_argument("--max-tokens", type=int, default=128)
    parser.add_argument(
        "--concurrency", type=int, nargs="+", default=[64, 128, 256], help="of the bare loop"
    )
    parser.add_argument("--only", help="comma-separated; default: all")
    args = parser.parse_args()
    # Lets us empty the prefix cache between the measures.
    os.environ.setdefault("VLLM_SERVER_DEV_MODE", "1")
    measures = {
        "client": measure_client,
        "server": measure_server,
        "engine": measure_engine,
        "agreement": measure_agreement,
    }
    for name in args.only.split(",") if args.only else measures:
        write(args, name, measures[name](args))


def spread(values: list[float]) -> dict[str, float]:
    digits = 3 if max(values) < 100 else 0
    return {
        "median": round(statistics.median(values), digits),
        "lowest": round(min(values), digits),
        "highest": round(max(values), digits),
    }


def measure_client(args: argparse.Namespace) -> dict[str, Any]:
    """Client seconds a request and memory, with a server that answers at once (its own time is in
    the wall clock)."""
    fake = subprocess.Popen([sys.executable, "-c", FAKE_SERVER], stdout=subprocess.PIPE, text=True)
    assert fake.stdout
    url = f"http://127.0.0.1:{fake.stdout.readline().strip()}/v1"
    config, num_requests = LLMConfig(backend="openai", model="fake", base_url=url), args.requests
    text = "word " * 250

    def requests() -> Iterator[ChatRequest]:
        for i in range(num_requests):
            yield ChatRequest(
                str(i), ({"role": "user", "content": f"{i} {text}"},), 128, 0.7, SCHEMA
            )

    try:
        with open_language_model(config, 0) as model, tempfile.TemporaryDirectory() as folder:
            memory, cpu, wall = [], time.process_time(), time.monotonic()
            for number, reply in enumerate(
                cached_chat(model, requests(), Path(folder) / "replies.jsonl", "client")
            ):
                assert reply.error is None
                if number in (num_requests // 10, num_requests - 1):
                    memory.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
            cpu, wall = time.process_time() - cpu, time.monotonic() - wall
    finally:
        fake.kill()
    return {
        "client_ms_per_request_cpu": round(1000 * cpu / num_requests, 3),
        "client_ms_per_request_wall": round(1000 * wall / num_requests, 3),
        "client_peak_mb_after_a_tenth": round(memory[0]),
        "client_peak_mb_at_the_end": round(memory[-1]),
    }


def measure_server(args: argparse.Namespace) -> dict[str, Any]:
    requests = make_requests(args)
    config = LLMConfig(
        backend="vllm",
        model=str(args.model),
        max_model_tokens=1024,
        advanced={"vllm_args": SERVER_ARGUMENTS},
    )
    with open_language_model(config, 0) as model:
        url = model._sender.base_url
        rate_of_run(model, requests[:64])  # warm up
        shuffled = random.Random(0).sample(requests, len(requests))
        ours, shares = 0.0, []
        for order in (requests, shuffled):
            before = prompt_counters(model, url)
            rate = rate_of_run(model, order)
            ours = max(ours, rate) if order is requests else ours
            shares.append(computed_share(before, prompt_counters(model, url, reset=False)))
        ceilings = {n: bare_loop(url, model, requests, n) for n in args.concurrency}
        ours = max(ours, rate_of_run(model, requests, reset=url))
        single = bare_loop(url, model, requests[: max(16, args.chunks // 8)], 1)
    best = max(ceilings.values())
    return {
        "chunks": args.chunks,
        "requests": len(requests),
        "max_tokens": args.max_tokens,
        "ours_output_tokens_per_s": round(ours),
        "ceiling_output_tokens_per_s": {n: round(rate) for n, rate in ceilings.items()},
        "ours_share_of_ceiling": round(ours / best, 3),
        "one_at_a_time_output_tokens_per_s": round(single),
        "ours_times_one_at_a_time": round(ours / single, 1),
        "prompt_tokens_computed_share_in_chunk_order": round(shares[0], 3),
        "prompt_tokens_computed_share_shuffled": round(shares[1], 3),
        "chunk_order_times_better": round(shares[1] / shares[0], 2),
    }


def measure_engine(args: argparse.Namespace) -> dict[str, Any]:
    """The server's ceiling as a share of the engine's own rate, round by round."""
    requests = make_requests(args)
    job = {
        "model": str(args.model),
        "schema": SCHEMA | {"x-guidance": JSON_STYLE},
        "max_tokens": args.max_tokens,
        "messages": [list(r.messages) for r in requests],
    }
    config = LLMConfig(backend="vllm", model=str(args.model), max_model_tokens=1024)
    with (
        tempfile.NamedTemporaryFile("w", suffix=".json") as file,
        open_language_model(config, 0) as model,
    ):
        json.dump(job, file)
        file.flush()
        url = model._sender.base_url
        bare_loop(url, model, requests[:64], 64)  # warms up
        engine = start_engine(file.name)
        try:
            engine_rate(engine)  # it is ready
            rounds = []
            for _ in range(args.rounds):
                ceiling = max(bare_loop(url, model, requests, n) for n in args.concurrency)
                print("go", file=engine.stdin, flush=True)
                rounds.append((ceiling, engine_rate(engine)))
        finally:
            engine.kill()
    return {
        "chunks": args.chunks,
        "requests": len(requests),
        "max_tokens": args.max_tokens,
        "engine_output_tokens_per_s": spread([engine for _, engine in rounds]),
        "server_ceiling_output_tokens_per_s": spread([server for server, _ in rounds]),
        "server_share_of_engine": spread([server / engine for server, engine in rounds]),
    }


def start_engine(job: str) -> subprocess.Popen[str]:
    ours = {
        "HF_HUB_OFFLINE": "1",
        "VLLM_CPU_KVCACHE_SPACE": "2",
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }
    return subprocess.Popen(
        [".venv-vllm/bin/python", "-c", ENGINE, job],
        stdin=subprocess.PIPE,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=ours | os.environ,
    )


def engine_rate(engine: subprocess.Popen[str]) -> float:
    """Waits for its next word; 0 where that is not a rate."""
    assert engine.stdout
    word = next((line.split()[1] for line in engine.stdout if line.startswith("RATE ")), None)
    if word is None:
        raise SystemExit("the engine died: run .venv-vllm/bin/python by hand")
    return 0.0 if word == "ready" else float(word)


def make_requests(args: argparse.Namespace) -> list[ChatRequest]:
    """Four questions of each passage, the passage first, in passage order."""
    texts = [
        p.read_text(encoding="utf-8", errors="replace")
        for p in sorted(args.documents.rglob("*"))
        if p.suffix in (".md", ".txt")
    ]
    words = " ".join(texts).split()
    passages = [" ".join(words[i : i + 90]) for i in range(0, len(words) - 90, 60)]
    passages = (passages * (1 + args.chunks // len(passages)))[: args.chunks]
    requests = []
    for number, passage in enumerate(passages):
        sentences = passage.split(". ")
        for variant, kind in enumerate(KINDS):
            focus = sentences[variant % len(sentences)]
            prompt = (
                f"Write a question about the passage as JSON.\n\nPassage:\n{passage} ({number})\n\n"
            )
            message = {"role": "user", "content": f"{prompt}Sentence: {focus}\nKind: {kind}"}
            requests.append(
                ChatRequest(f"{number}-{variant}", (message,), args.max_tokens, 0.0, SCHEMA)
            )
    return requests


def rate_of_run(model: Any, requests: list[ChatRequest], reset: str | None = None) -> float:
    """Output tokens a second of `cached_chat`, replies written to a file as in the stage."""
    if reset:
        prompt_counters(model, reset)
    with tempfile.TemporaryDirectory() as folder:
        began = time.monotonic()
        replies = list(cached_chat(model, requests, Path(folder) / "replies.jsonl", "ours"))
        seconds = time.monotonic() - began
    assert not any(reply.error for reply in replies)
    return sum(reply.completion_tokens for reply in replies) / seconds


def bare_loop(url: str, model: Any, requests: list[ChatRequest], concurrency: int) -> float:
    """Output tokens a second of `concurrency` workers that post ready bytes and look at nothing but
    the count."""
    prompt_counters(model, url)
    bodies = iter([json.dumps(model._chat_call(r).body).encode() for r in requests])

    async def worker(session: aiohttp.ClientSession) -> int:
        tokens = 0
        for body in bodies:
            async with session.post(f"{url}/chat/completions", data=body) as response:
                tokens += (await response.json())["usage"]["completion_tokens"]
        return tokens

    async def run() -> int:
        headers = {"Content-Type": "application/json"}
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0), headers=headers
        ) as session:
            return sum(await asyncio.gather(*(worker(session) for _ in range(concurrency))))

    began = time.monotonic()
    return asyncio.run(run()) / (time.monotonic() - began)


def prompt_counters(model: Any, url: str, reset: bool = True) -> dict[str, float]:
    """The server's counts of prompt tokens looked up in (queries) and found in the prefix cache
    (hits), which is emptied first on `reset`, and of its engine's steps (iteration_tokens)."""
    root = url.removesuffix("/v1")

    async def ask() -> str:
        async with aiohttp.ClientSession() as session:
            if reset:
                async with session.post(f"{root}/reset_prefix_cache") as response:
                    response.raise_for_status()
            async with session.get(f"{root}/metrics") as response:
                return await response.text()

    text = asyncio.run(ask())
    names = r"(?:prefix_cache_)?(queries|hits|iteration_tokens)_total(?:_count)?"
    pattern = rf"^vllm:{names}\{{.*\}} ([\d.e+]+)$"
    found = re.findall(pattern, text, re.MULTILINE)
    return {name: float(value) for name, value in found}


def computed_share(before: dict[str, float], after: dict[str, float]) -> float:
    queries, hits = (after[name] - before[name] for name in ("queries", "hits"))
    return (queries - hits) / queries


def measure_agreement(args: argparse.Namespace) -> dict[str, Any]:
    """Share of greedy replies that are the same text from the server and from the in-process model,
    by precision: in bfloat16 two likely tokens can be closer than the rounding, which differs with
    the batch even within one engine."""
    requests, shares = make_requests(args)[:256], {}
    for dtype in ("auto", "float32"):
        config = LLMConfig(
            backend="vllm", model=str(args.model), max_model_tokens=1024, dtype=dtype
        )
        with open_language_model(config, 0) as model:
            theirs = {reply.id: reply.text for reply in model.chat(requests)}
        with open_language_model(config.model_copy(update={"backend": "transformers"}), 0) as here:
            same = sum(theirs[reply.id] == reply.text for reply in here.chat(requests))
        shares[f"greedy_agreement_with_transformers_{dtype}"] = round(same / len(requests), 3)
    return shares


def write(args: argparse.Namespace, name: str, found: dict[str, Any]) -> None:
    """Puts one measure into the results file, beside those of other runs, under its own date and
    hardware."""
    block = {
        "date": datetime.date.today().isoformat(),
        "hardware": f"{os.cpu_count()} x {processor()}",
        "load_at_the_end": round(os.getloadavg()[0], 1),
        **found,
    }
    print(json.dumps({name: block}, indent=1))
    RESULTS.mkdir(exist_ok=True)
    slug = re.sub(r"[^a-z0-9]+", "-", processor().lower()).strip("-")[:24]
    path = RESULTS / f"generation-{args.model.name}-{slug}.json"
    known = json.loads(path.read_text()) if path.exists() else {"model": args.model.name}
    path.write_text(json.dumps(known | {name: block}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
