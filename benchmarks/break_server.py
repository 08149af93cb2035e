"""Pairs are written by a server that fails in many ways: none is lost, doubled or made of an
error, and the key is written nowhere."""

from __future__ import annotations

import json
import os
import random
import re
import resource
import shutil
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import tiny_run
from hostile_files import ESCAPES, SCRIPT, SECRET

FACT = re.compile(r"Shelf (\d) of box (\d+) holds a ((\w+) (\w+)) number (\d+)\.")
HTML = "<html><body>502 Bad Gateway</body></html>"


def pair_reply(prompt: str) -> dict[str, Any]:
    """What a good model answers: a question about a sentence of the prompt, with its evidence."""
    facts = FACT.findall(prompt)
    shelf, box, thing, *_, count = facts[zlib.crc32(prompt.encode()) % len(facts)]
    text = {
        "evidence": f"Shelf {shelf} of box {box} holds a {thing} number {count}.",
        "question": f"What does shelf {shelf} of box {box} hold?",
        "answer": f"a {thing}",
    }
    return reply(json.dumps(text))


def reply(content: Any, **usage: Any) -> dict[str, Any]:
    """A chat completion."""
    choice = {"index": 0, "message": {"role": "assistant", "content": content},
              "finish_reason": "stop"}  # fmt: skip
    return {"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 2, **usage}}


def odd(change: Callable[[dict[str, Any]], Any]) -> Callable[[Any, str], None]:
    """A fault that answers with a changed good reply."""

    def act(handler: Any, prompt: str) -> None:
        good = pair_reply(prompt)
        changed = change(good)
        handler.send(200, good if changed is None else changed)

    return act


def status(code: int, body: Any = "busy", **headers: str) -> Callable[[Any, str], None]:
    """A fault that answers with a status."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda handler, prompt: handler.send(code, body, names)


def slowly(handler: Any, prompt: str) -> None:
    """A reply that takes its time."""
    time.sleep(0.5)
    handler.send(200, pair_reply(prompt))


def not_text(handler: Any, prompt: str) -> None:
    """Bytes that are no UTF-8."""
    handler.send_response(200)
    handler.send_header("Content-Length", "4")
    handler.end_headers()
    handler.wfile.write(b"\xff\xfe{}")


FAULTS: dict[str, Callable[[Any, str], None]] = {
    "500": status(500, {"error": {"message": "Internal Server Error"}}),
    "502 as a page": status(502, HTML),
    "503": status(503, ""),
    "504": status(504, "timeout"),
    "429": status(429, "slow down", Retry_After="0"),
    "429 without a time": status(429, {"error": "rate"}),
    "408": status(408, "request timeout"),
    "400": status(400, {"error": {"message": "bad request"}}),
    "400 echoes the key": status(400, {"error": {"message": f"Bearer {SECRET} is wrong"}}),
    "500 echoes the key": status(500, f"key={SECRET} Authorization: Bearer {SECRET}"),
    "307": status(307, "", Location="http://127.0.0.1:9/v1/chat/completions"),
    "reset": lambda handler, prompt: handler.reset(),
    "cut body": lambda handler, prompt: handler.send(200, pair_reply(prompt), cut=40),
    "empty body": status(200, ""),
    "no JSON": status(200, "OK"),
    "a page": status(200, HTML),
    "a list": status(200, []),
    "null": status(200, "null"),
    "no choices": odd(lambda good: {**good, "choices": []}),
    "choices null": odd(lambda good: {**good, "choices": None}),
    "no message": odd(lambda good: {**good, "choices": [{"index": 0}]}),
    "no content": lambda handler, prompt: handler.send(200, reply(None)),
    "content is a number": lambda handler, prompt: handler.send(200, reply(7)),
    "content is a list": lambda handler, prompt: handler.send(200, reply([{"text": "x"}])),
    "an error with status 200": status(200, {"error": {"message": "overloaded", "code": 500}}),
    "usage in words": odd(lambda good: {**good, "usage": {"prompt_tokens": "many"}}),
    "usage NaN": odd(lambda good: {**good, "usage": {"prompt_tokens": float("nan")}}),
    "no usage": odd(lambda good: {**good, "usage": None}),
    "reply of a page": lambda handler, prompt: handler.send(200, reply(f"{SCRIPT}{ESCAPES}")),
    "endless blanks": lambda handler, prompt: handler.send(200, reply(" \n" * 20_000)),
    "slow": slowly,
    "not text": not_text,
}


def faults(count: int, share: float, seed: int, folder: Path) -> dict[str, Any]:
    """Writes a pair for each of `count` chunks through a server that fails in `share` of all tries,
    then asks again for those that were lost to the server."""
    from faulty_server import FaultyServer

    shutil.rmtree(folder, ignore_errors=True)
    happened: Counter[str] = Counter()
    answered: Counter[str] = Counter()
    failing = [True]

    def fault(handler: Any, prompt: str, tries: int) -> bool:
        draw = random.Random(f"{seed} {zlib.crc32(prompt.encode())} {tries}")
        if failing[0] and draw.random() < share:
            kind = draw.choice(list(FAULTS))
            happened[kind] += 1
            FAULTS[kind](handler, prompt)
        else:
            answered[prompt] += 1
            handler.send(200, pair_reply(prompt))
        return True

    server = FaultyServer(fault)
    folder.mkdir(parents=True)
    config = tiny_run.make_run(
        folder, num_documents=-(-count // 3),
        llm={"backend": "openai", "base_url": server.url, "model": "echo", "prompts": "compact",
             "max_model_tokens": 4096, "advanced": {"concurrency": 32, "retries": 4}},
        generate={"pairs_per_chunk": 1, "kinds": {"factoid": 1},
                  "advanced": {"checks": ["evidence", "form"], "evidence_similarity": 0,
                               "swaps_per_pair": 0, "min_kept_share": 0}},
    )  # fmt: skip
    wrong: list[str] = []
    for stage in ("ingest", "index"):
        wrong += subcommand([stage, str(config)])[0]
    begin, run = time.monotonic(), folder / "run"
    problems, told = subcommand(["generate", str(config)])
    seconds = time.monotonic() - begin
    first = counts(run)
    lost = first["rejected_by_check"].get("llm_error", 0)
    failing[0] = False
    more, again = subcommand(["generate", str(config), "--retry-rejected"])
    second = counts(run)
    wrong += problems + more + checked(run, told + again, answered)
    server.kill()
    if second["rejected_by_check"].get("llm_error"):
        wrong.append(f"still lost after asking again: {second}")
    return {
        "chunks": first["asked"],
        "share_of_faults": share,
        "kinds_of_faults": len(happened),
        "faults": dict(happened.most_common()),
        "accepted": first["accepted"],
        "rejected": first["rejected_by_check"],
        "lost_to_the_server": lost,
        "accepted_after_asking_again": second["accepted"],
        "seconds": round(seconds, 1),
        "peak_mb": round(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024),
        "wrong": wrong,
    }


def subcommand(words: list[str]) -> tuple[list[str], str]:
    """(what is wrong with how a command ended, all that it printed)."""
    environment = {**os.environ, "OPENAI_API_KEY": SECRET, "PYTHONPATH": str(tiny_run.ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "rag_ft", *words],
        capture_output=True, text=True, env=environment, timeout=900, check=False,
    )  # fmt: skip
    failed = done.returncode or "Traceback" in done.stderr
    wrong = [f"{words[0]}: exit {done.returncode} {done.stderr[-500:]}"] if failed else []
    return wrong, done.stdout + done.stderr


def counts(run: Path) -> dict[str, Any]:
    """asked, accepted and rejected_by_check of the stage generate."""
    found: dict[str, Any] = json.loads((run / "generate.done.json").read_text())["counts"]
    return found


def checked(run: Path, printed: str, answered: Counter[str]) -> list[str]:
    """What is lost, doubled, asked again, made of an error, or written of the key."""
    wrong = []
    pairs = [json.loads(line) for line in (run / "qa.jsonl").open(encoding="utf-8")]
    ids = Counter(pair["id"] for pair in pairs)
    rejected = [json.loads(line) for line in (run / "rejects/generate.jsonl").open()]
    wrong += [f"doubled: {name}" for name, number in ids.items() if number > 1][:3]
    asked = counts(run)["asked"]
    if len(pairs) + len(rejected) != asked:
        wrong.append(f"{asked} asked, {len(pairs)} accepted, {len(rejected)} rejected")
    chunks = sum(1 for _ in (run / "chunks.jsonl").open())
    if asked != chunks:
        wrong.append(f"{chunks} chunks, {asked} asked")
    odd_pairs = [p for p in pairs if not FACT.fullmatch(p["evidence"]["text"])]
    wrong += [f"no fact: {pair}"[:300] for pair in odd_pairs][:3]
    twice = sum(number > 1 for number in answered.values())
    if twice:
        wrong.append(f"{twice} prompts were answered well and asked again")
    for path in run.rglob("*"):
        if path.is_file() and SECRET.encode() in path.read_bytes():
            wrong.append(f"the key stands in {path.relative_to(run)}")
    if SECRET in printed:
        wrong.append("the key was printed")
    return wrong
