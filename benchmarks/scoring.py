"""log p(answer | chunk, question): ours against one forward pass per job with all logits, in one
run.

    python benchmarks/scoring.py [--model data/models/demo-lm] [--threads 1]

Jobs as LM-supervised retrieval has them: questions over several chunks each, the chunk first in the
prompt. Two models: the given one, and a random one of the same body with a vocabulary of 128,000.
Clock: CPU seconds of this process on a CPU (other jobs beside it then matter little). Prints a
table and writes it to benchmarks/results/ as JSON.
"""

from __future__ import annotations

import argparse
import copy
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hardware import processor, write_result
from transformers import AutoConfig, AutoModelForCausalLM

from rag_ft.fast.answer_logprobs import Job, score_jobs

CHUNKS_PER_QUESTION = 8


def main() -> None:
    parser = argparse.ArgumentParser(description="Answer log-probabilities against the naive way")
    parser.add_argument("--model", type=Path, default=Path("data/models/demo-lm"))
    parser.add_argument("--batch-tokens", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--questions", type=int, default=20)
    parser.add_argument("--vocabulary", type=int, default=128_000, help="of the second model")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    big = AutoConfig.from_pretrained(args.model, vocab_size=args.vocabulary)
    torch.manual_seed(0)
    models = {
        args.model.name: AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32),
        f"same body, vocabulary {args.vocabulary:,}": AutoModelForCausalLM.from_config(
            big, dtype=torch.float32
        ),
    }
    rows = [
        row
        for name, model in models.items()
        for row in measure(name, model.eval(), args.batch_tokens, args.questions)
    ]
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()))
    write_result("scoring", processor(), {"threads": args.threads, "rows": rows})


def measure(name: str, model: Any, batch_tokens: int, num_questions: int) -> list[dict[str, Any]]:
    """One row per dtype. The naive way is timed on a few jobs; ours must equal its values in
    float32."""
    jobs = make_jobs(model.config.vocab_size, num_questions)
    few = jobs[:: max(1, len(jobs) // 16)]
    rows = []
    for dtype in (torch.float32, torch.bfloat16):
        typed = copy.deepcopy(model).to(dtype)
        expected, naive_rate = timed(lambda m=typed: naive(m, few), few)
        found, rate = timed(lambda m=typed: score_jobs(m, jobs, batch_tokens, 0), jobs)
        difference = max(
            np.abs(found[jobs.index(job)] - e).max() for job, e in zip(few, expected, strict=True)
        )
        rows.append(
            {
                "model": name,
                "dtype": str(dtype).removeprefix("torch."),
                "naive_tokens_per_s": round(naive_rate),
                "ours_tokens_per_s": round(rate),
                "times_naive": round(rate / naive_rate, 1),
                "largest_difference": float(f"{difference:.1e}"),
            }
        )
    return rows


def make_jobs(vocabulary: int, num_questions: int) -> list[Job]:
    """Random prompts: each question over several chunks, the chunk first."""
    rng = np.random.default_rng(0)

    def ids(low: int, high: int) -> list[int]:
        return rng.integers(3, vocabulary, int(rng.integers(low, high))).tolist()

    instruction = ids(30, 31)
    chunks = [instruction + ids(140, 220) for _ in range(num_questions)]
    jobs = []
    for _ in range(num_questions):
        question, answer = ids(12, 25), ids(2, 9)
        for chunk in rng.choice(
            len(chunks), CHUNKS_PER_QUESTION, replace=len(chunks) < CHUNKS_PER_QUESTION
        ):
            jobs.append((chunks[chunk] + question, answer))
    return jobs


@torch.inference_mode()
def naive(model: Any, jobs: list[Job]) -> list[np.ndarray]:
    """One job at a time, the log-softmax of every position over the whole vocabulary."""
    results = []
    for prompt, answer in jobs:
        logprobs = model(torch.tensor([prompt + answer])).logits.float().log_softmax(-1)[0]
        told = logprobs[len(prompt) - 1 : len(prompt) - 1 + len(answer)]
        results.append(told.gather(1, torch.tensor(answer)[:, None])[:, 0].numpy())
    return results


def timed(work: Callable[[], list[np.ndarray]], jobs: list[Job]) -> tuple[list[np.ndarray], float]:
    """The result and tokens (prompt and answer) per CPU second."""
    began = time.process_time()
    result = work()
    return result, sum(len(p) + len(a) for p, a in jobs) / (time.process_time() - began)


if __name__ == "__main__":
    main()
