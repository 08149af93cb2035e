"""Greedy decoding in this process: fast/decoding.py against `model.generate` in sorted batches, in
one run.

    python benchmarks/decoding.py [--model data/models/demo-lm] [--chunks 96] [--rounds 2]

Prompts are chunks of the handbook, each with its own limit of 8 to 128 new tokens, as a stage has
them. Both sort by length and compute 16 rows at once in the same dtype. Rounds are interleaved and
the fastest counts: in CPU seconds on a CPU, in wall seconds on a GPU. Prints a table and writes
benchmarks/results/decoding-<hardware>-<date>.json.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from hardware import processor, write_result

from rag_ft.fast.decoding import Row, decode, left_pad
from rag_ft.hardware import choose_device, choose_dtype
from rag_ft.llm.chat_template import load_chat_tokenizer
from rag_ft.llm.transformers_backend import end_tokens, load_causal_lm
from rag_ft.model_hub import resolve

HANDBOOK = Path(__file__).parent.parent / "data" / "handbook"
BATCH = 16


def main() -> None:
    parser = argparse.ArgumentParser(description="Decoding against model.generate")
    parser.add_argument("--model", default="data/models/demo-lm")
    parser.add_argument("--chunks", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=2)
    args = parser.parse_args()
    device = choose_device()
    dtype = choose_dtype("auto", device)
    folder = resolve(args.model, "llm")
    tokenizer, model = load_chat_tokenizer(folder), load_causal_lm(folder, dtype, device)
    ends = end_tokens(model, tokenizer)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else min(ends)
    text = " ".join(path.read_text(encoding="utf-8") for path in sorted(HANDBOOK.rglob("*.md")))
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    prompts = [ids[n * 97 : n * 97 + 64 + 13 * (n % 12)] for n in range(args.chunks)]
    limits = [8 + 40 * n % 121 for n in range(args.chunks)]
    order = sorted(range(args.chunks), key=lambda n: len(prompts[n]) + limits[n])
    batches = [order[start : start + BATCH] for start in range(0, args.chunks, BATCH)]

    def ours() -> dict[int, list[int]]:
        found = {}
        for batch in batches:
            rows = {n: Row(prompts[n], limits[n]) for n in batch}
            for _ in decode(model, list(rows.values()), ends, pad):
                pass
            found |= {n: row.tokens for n, row in rows.items()}
        return found

    def library() -> dict[int, list[int]]:
        found = {}
        for batch in batches:
            inputs, mask = left_pad([prompts[n] for n in batch], pad, model)
            longest = max(limits[n] for n in batch)
            with torch.inference_mode():
                out = model.generate(
                    inputs,
                    attention_mask=mask,
                    max_new_tokens=longest,
                    do_sample=False,
                    eos_token_id=sorted(ends),
                    pad_token_id=pad,
                )
            for n, row in zip(batch, out[:, inputs.shape[1] :].tolist(), strict=True):
                stop = next((i for i, token in enumerate(row) if token in ends), len(row))
                found[n] = row[: min(stop, limits[n])]
        return found

    clock = time.process_time if device == "cpu" else time.perf_counter
    best, replies = {"generate": float("inf"), "rag-ft": float("inf")}, {}
    for _ in range(args.rounds):
        for name, way in (("generate", library), ("rag-ft", ours)):
            begin = clock()
            replies[name] = way()
            best[name] = min(best[name], clock() - begin)
    same = sum(replies["generate"][n] == replies["rag-ft"][n] for n in order) / args.chunks
    rows = {
        "seconds": {name: round(seconds, 2) for name, seconds in best.items()},
        "times_generate": round(best["generate"] / best["rag-ft"], 2),
        "equal_replies": round(same, 3),
    }
    print(rows)
    name = torch.cuda.get_device_name() if device == "cuda" else processor()
    write_result(
        "decoding", name, {"model": args.model, "dtype": dtype, "chunks": args.chunks, **rows}
    )


if __name__ == "__main__":
    main()
