"""Memory of an encoder and of a language model that are asked questions of many lengths, one at a
time, as a server is.

    python benchmarks/lengths.py [--questions 300] [--dtype bfloat16] [--no-step]

On a CPU oneDNN keeps kernels for each new width of a batch. `--no-step` pads no question to few
widths, as before. Prints MB at the start, halfway and at the end, and writes
benchmarks/results/lengths-<hardware>-<date>.json.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Callable
from pathlib import Path

import psutil
from hardware import processor, write_result

from rag_ft.config import EncoderConfig, LLMConfig
from rag_ft.fast import decoding, encode
from rag_ft.llm.interface import ChatRequest
from rag_ft.llm.transformers_backend import TransformersModel
from rag_ft.retrieval.encoder import load_encoder

HANDBOOK = Path(__file__).parent.parent / "data" / "handbook"
LONGEST = {"encoder": 200, "llm": 700}  # words of a question


def main() -> None:
    parser = argparse.ArgumentParser(description="Memory over questions of many lengths")
    parser.add_argument("--questions", type=int, default=300)
    parser.add_argument("--dtype", choices=["bfloat16", "float32"], default="bfloat16")
    parser.add_argument("--no-step", action="store_true")
    args = parser.parse_args()
    if args.no_step:
        decoding.padded_width = encode.padded_width = lambda longest, *_: longest
    words = " ".join(path.read_text("utf-8") for path in sorted(HANDBOOK.rglob("*.md"))).split()
    rng = random.Random(0)

    def text(longest: int) -> str:
        start = rng.randrange(len(words) - longest)
        return " ".join(words[start : start + rng.randint(3, longest)])

    found: dict[str, object] = {"dtype": args.dtype, "step": not args.no_step}
    encoder = load_encoder(EncoderConfig(model="all-MiniLM-L6-v2", dtype=args.dtype))
    found["encoder_mb"] = measured(
        lambda: encoder.encode_queries([text(LONGEST["encoder"])]), args.questions
    )
    config = LLMConfig(model="data/models/demo-lm", dtype=args.dtype, prompts="compact")
    model = TransformersModel(config, 0, {})

    def ask() -> None:
        message = {"role": "user", "content": text(LONGEST["llm"])}
        list(model.chat([ChatRequest("q", (message,), rng.choice([1, 8, 40]))]))

    found["llm_mb"] = measured(ask, args.questions)
    print(found)
    write_result("lengths", processor(), found)


def measured(ask: Callable[[], object], questions: int) -> list[int]:
    """Resident MB after a tenth, half and all of the questions."""
    process, sizes = psutil.Process(), []
    for number in range(1, questions + 1):
        ask()
        if number in (questions // 10, questions // 2, questions):
            sizes.append(round(process.memory_info().rss / 1e6))
    return sizes


if __name__ == "__main__":
    main()
