"""Quantises a language model by llmcompressor; a program of its own, started by quantise.py in the
environment of `make quantise`: llmcompressor needs other versions than rag_ft.

python quantise_model.py MODEL TYPE EXAMPLES TO

TYPE: int8, int4 or fp8. EXAMPLES: a file of JSON lines, each the tokens of a text that the model
reads. Two folders are written into TO: quantised/, for vLLM, and rounded/, where the weights have
the same values as plain numbers, which any engine reads.
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

    source, type, examples, to = argv[0], argv[1], Path(argv[2]), Path(argv[3])
    rows = [json.loads(line) for line in examples.read_text(encoding="utf-8").splitlines()]
    columns = [{"input_ids": row, "attention_mask": [1] * len(row)} for row in rows]
    model = AutoModelForCausalLM.from_pretrained(source, dtype="auto")
    oneshot(
        model=model,
        tokenizer=source,
        recipe=recipe(type, model),
        dataset=Dataset.from_list(columns),
        num_calibration_samples=len(rows),
        max_seq_length=max(map(len, rows)),
        output_dir=str(to / "quantised"),
    )
    write_rounded(Path(source), to)


def write_rounded(source: Path, to: Path) -> None:
    """Writes the quantised weights as plain numbers, under the names of the source's files."""
    from safetensors import safe_open
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM, CompressedTensorsConfig

    plain = AutoModelForCausalLM.from_pretrained(
        to / "quantised",
        quantization_config=CompressedTensorsConfig(dequantize=True),
        dtype="auto",
    ).state_dict()
    names: set[str] = set()
    for path in source.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            names |= set(file.keys())
    (to / "rounded").mkdir()
    weights = {name: plain[name].clone().contiguous() for name in names}
    save_file(weights, to / "rounded" / "model.safetensors", metadata={"format": "pt"})


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
