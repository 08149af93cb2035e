"""Clients that stream answers side by side, and what they meet.

    python benchmarks/streaming_clients.py URL MODEL [--clients 64] [--seconds 20] [--warm-up 4]
        [--leaving 0.1] [--malformed 0.01] [--watch NAME=PID ...] [--memory PID] [--any-text]

Each client asks one question after the other. A share of the requests is left midway, a share has
a malformed body. Prints one JSON object about the time after the warm-up: tokens a second, time to
the first token, failed requests, CPU seconds of the processes to watch and of this one, the change
of the server's metrics, and memory each second.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import statistics
import time
from collections import Counter
from typing import Any

import aiohttp
import psutil

QUESTION = "When does the harbour office open on day {}?"
MALFORMED = (
    b"",
    b"{",
    b"[1]",
    b"\xff\xfe",
    b'{"model": "x"}',
    b'{"model": 1, "messages": "hi"}',
    b'{"messages": [{"role": "user", "content": {"a": 1}}], "model": "demo"}',
)
METRIC = re.compile(r'^(\w+?)(?:\{step="(\w+)"\})? ([-+\d.e]+)$', re.MULTILINE)


class Clients:
    """The clients, and their counts since the warm-up."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._args, self._random = args, random.Random(args.seed)
        self.is_counting, self.num_tokens = False, 0
        self.first_seconds: list[float] = []
        self.ends: Counter[str] = Counter()
        self._url = args.url.rstrip("/") + "/chat/completions"

    async def run(self, session: aiohttp.ClientSession, number: int, until: float) -> None:
        """One client, until it is `until` by the monotonic clock."""
        args = self._args
        # Clients that all begin at once would go on side by side, answer after answer.
        await asyncio.sleep(number / args.clients * args.warm_up * 0.75)
        while time.monotonic() < until:
            dice = self._random.random()
            if dice < args.malformed:
                await self._malformed(session)
            else:
                leaving = dice < args.malformed + args.leaving
                await self.ask(session, self._random.randrange(20) if leaving else None)

    async def ask(self, session: aiohttp.ClientSession, leave_after: int | None = None) -> None:
        """One answer; the connection is closed after so many pieces of it."""
        body = {
            "model": self._args.model,
            "messages": [
                {"role": "user", "content": QUESTION.format(self._random.randrange(1000))}
            ],
            "stream": True,
        }
        began, pieces = time.monotonic(), list[str]()
        end = "cut off"
        try:
            async with session.post(self._url, json=body) as response:
                if response.status != 200:
                    self.ends[f"status {response.status}"] += 1
                    return
                async for line in response.content:
                    if not line.startswith(b"data:"):
                        continue
                    if line.strip() == b"data: [DONE]":
                        right = self._args.any_text or "".join(pieces).endswith("[1].")
                        end = "whole" if right else "wrong text"
                        continue
                    for piece in _pieces(line):
                        if not pieces and self.is_counting:
                            self.first_seconds.append(time.monotonic() - began)
                        pieces.append(piece)
                        self.num_tokens += self.is_counting
                    if leave_after is not None and len(pieces) >= leave_after:
                        response.close()
                        end = "left"
                        break
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
            end = f"{type(error).__name__}: {error}"
        self.ends[end] += 1

    async def _malformed(self, session: aiohttp.ClientSession) -> None:
        data = self._random.choice(MALFORMED)
        headers = {"Content-Type": "application/json"}
        async with session.post(self._url, data=data, headers=headers) as response:
            await response.read()
            is_told = response.status in (400, 404)
            self.ends["malformed, told" if is_told else f"malformed: {response.status}"] += 1


def _pieces(line: bytes) -> list[str]:
    event = json.loads(line[5:])
    if event.get("error"):
        raise ValueError(str(event["error"]))
    texts = [(choice.get("delta") or {}).get("content") for choice in event.get("choices", [])]
    return [text for text in texts if text]


async def metrics(session: aiohttp.ClientSession, url: str) -> dict[str, float]:
    """The server's metrics by name, and by name and step."""
    async with session.get(url.rsplit("/v1", 1)[0] + "/metrics") as response:
        text = await response.text() if response.status == 200 else ""
    return {f"{name} {step}".strip(): float(value) for name, step, value in METRIC.findall(text)}


async def measure(args: argparse.Namespace) -> dict[str, Any]:
    clients, began = Clients(args), time.monotonic()
    until = began + args.warm_up + args.seconds
    watched = dict(pair.split("=") for pair in args.watch)
    processes = {name: psutil.Process(int(pid)) for name, pid in watched.items()}
    processes["clients"] = psutil.Process()
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector) as session:
        working = [
            asyncio.ensure_future(clients.run(session, n, until)) for n in range(args.clients)
        ]
        await asyncio.sleep(args.warm_up)
        # The time that counts.
        clients.is_counting, start = True, time.monotonic()
        cpu, before = _cpu(processes), await metrics(session, args.url)
        memory = await _memory_until(args.memory, until)
        seconds, clients.is_counting = time.monotonic() - start, False
        used = {name: value - cpu[name] for name, value in _cpu(processes).items()}
        after = await metrics(session, args.url)
        await asyncio.gather(*working)
        await asyncio.sleep(0.5)
        left = await metrics(session, args.url)
        at_once = await _all_at_once(args, session) if args.memory else None
    return {
        "seconds": seconds,
        "num_tokens": clients.num_tokens,
        "tokens_per_s": clients.num_tokens / seconds,
        "first_token_ms": 1000 * statistics.fmean(clients.first_seconds or [0.0]),
        "num_requests": len(clients.first_seconds),
        "ends": dict(clients.ends),
        "cpu_seconds": used,
        "metrics": {name: after[name] - before.get(name, 0.0) for name in after},
        "in_flight_at_the_end": left.get("rag_ft_in_flight"),
        "at_once_after": at_once,
        "memory_mb": memory,
    }


async def _memory_until(pid: int | None, until: float) -> list[float]:
    """Resident memory (MB) of a process, each second."""
    process = psutil.Process(pid) if pid else None
    samples = []
    while (left := until - time.monotonic()) > 0:
        if process:
            samples.append(round(process.memory_info().rss / 1e6, 1))
        await asyncio.sleep(min(1.0, left))
    return samples


async def _all_at_once(args: argparse.Namespace, session: aiohttp.ClientSession) -> dict[str, int]:
    """How as many requests end as there are clients, all sent at the same time."""
    clients = Clients(args)
    await asyncio.gather(*(clients.ask(session) for _ in range(args.clients)))
    return dict(clients.ends)


def _cpu(processes: dict[str, psutil.Process]) -> dict[str, float]:
    times = {name: process.cpu_times() for name, process in processes.items()}
    return {name: spent.user + spent.system for name, spent in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description="Clients that stream answers side by side")
    parser.add_argument("url", help="base URL that ends with /v1")
    parser.add_argument("model")
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--warm-up", type=float, default=4.0)
    parser.add_argument("--leaving", type=float, default=0.0, help="share of requests left midway")
    parser.add_argument("--malformed", type=float, default=0.0, help="share of malformed bodies")
    parser.add_argument("--watch", nargs="*", default=[], metavar="NAME=PID")
    parser.add_argument("--memory", type=int, metavar="PID")
    parser.add_argument(
        "--any-text", action="store_true", help="the model is not the stand-in: any answer is right"
    )
    parser.add_argument("--seed", type=int, default=0)
    print(json.dumps(asyncio.run(measure(parser.parse_args()))))


if __name__ == "__main__":
    main()
