"""Quantises a language model by llmcompressor; a program of its own, started by quantise.py in the
environment of `make quantise`: llmcompressor needs other versions than rag_ft.

python quantise_model.py MODEL TYPE EXAMPLES TO

TYPE: int8, int4 or fp8. EXAMPLES: a file of JSON lines, each the tokens of a text that the model
reads. TO: the folder that is written.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

BITS = {"int8": 8, "int4": 4}
GROUPS = (128, 64, 32)  # weights that share a scale, as vLLM's kernels know them


def main(argv: list[str]) -> None:
    """Quantises the model."""
    from datasets import Dataset
    from llmcompressor import oneshot
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(argv[0], dtype="auto")
    rows = [json.loads(line) for line in Path(argv[2]).read_text(encoding="utf-8").splitlines()]
    examples = Dataset.from_list(
        [{"input_ids": row, "attention_mask": [1] * len(row)} for row in rows]
    )
    oneshot(
        model=model,
        tokenizer=argv[0],
        recipe=recipe(argv[1], model),
        dataset=examples,
        num_calibration_samples=len(rows),
        max_seq_length=max(map(len, rows)),
        output_dir=argv[3],
    )


def recipe(type: str, model: Any) -> Any:
    """How llmcompressor quantises: whole numbers by GPTQ, which reads the examples."""
    from llmcompressor.modifiers.gptq import GPTQModifier
    from llmcompressor.modifiers.quantization import QuantizationModifier
    from torch import nn

    if type == "fp8":
        return QuantizationModifier(targets="Linear", scheme="FP8_DYNAMIC", ignore=["lm_head"])
    widths = {
        part.in_features
        for name, part in model.named_modules()
        if isinstance(part, nn.Linear) and name != "lm_head"
    }
    group = next((size for size in GROUPS if all(width % size == 0 for width in widths)), None)
    if group is None:
        sys.exit(f"the widths of its layers {sorted(widths)} are no multiples of {GROUPS[-1]}")
    weights = {
        "num_bits": BITS[type],
        "type": "int",
        "symmetric": True,
        "strategy": "group",
        "group_size": group,
    }
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    return GPTQModifier(config_groups=groups, ignore=["lm_head"])


if __name__ == "__main__":
    main(sys.argv[1:])
