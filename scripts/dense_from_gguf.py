"""A GGUF file -> a model folder with plain weights, which rag-ft takes as `llm.model`.

    pip install gguf
    python scripts/dense_from_gguf.py MODEL.gguf OUT [--dtype float32]

Any GGUF file that transformers reads: its weights are dequantised and written as safetensors,
beside the configuration and the tokenizer with its chat template and end token. Training needs
such plain weights. They are as exact as the quantised ones: where the model before quantisation is
to be had, take that one.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rag_ft.errors import ConfigError, RagFtError
from rag_ft.llm.chat_template import load_chat_tokenizer

DTYPES = ("bfloat16", "float16", "float32")


def main(argv: list[str] | None = None) -> int:
    """Converts, and prints what came out. Returns 1 with one line of what is wrong."""
    parser = argparse.ArgumentParser(description="a GGUF file -> a dense model folder")
    parser.add_argument("model", type=Path, help="a .gguf file")
    parser.add_argument("to", type=Path, help="the folder to write")
    parser.add_argument("--dtype", choices=DTYPES, default=DTYPES[0], help="of the weights written")
    args = parser.parse_args(argv)
    try:
        num_parameters = make_dense(args.model, args.to, args.dtype)
    except RagFtError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{args.to}: {num_parameters / 1e6:.0f} million parameters in {args.dtype}")
    return 0


def make_dense(file: Path, to: Path, dtype: str) -> int:
    """Writes the model of a GGUF file to the folder `to`, which appears complete or not at all;
    returns its number of parameters.

    Raises:
        ConfigError: the file or the package gguf is missing, `to` is there already, transformers
            does not read the file, or it has no chat template that works.
    """
    if find_spec("gguf") is None:
        raise ConfigError("reading GGUF files needs a package: pip install gguf")
    if not file.is_file():
        raise ConfigError(f"{file} is no file")
    if to.exists():
        raise ConfigError(f"{to} is there already: name a new folder")
    model, tokenizer = _read(file, dtype)
    if not tokenizer.chat_template:
        raise ConfigError(f"{file} has no chat template: take an instruction-tuned model")

    unfinished = to.with_name(f"{to.name}.unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    try:
        model.save_pretrained(unfinished)
        tokenizer.save_pretrained(unfinished)
        load_chat_tokenizer(unfinished)  # tries its template
        unfinished.rename(to)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return int(model.num_parameters())


def _read(file: Path, dtype: str) -> tuple[Any, Any]:
    """(model, tokenizer) of a GGUF file, by transformers."""
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    where = {"pretrained_model_name_or_path": str(file.parent), "gguf_file": file.name}
    try:
        tokenizer = AutoTokenizer.from_pretrained(**where)
        model = AutoModelForCausalLM.from_pretrained(
            **where, dtype=dtype, quantization_config=GgufConfig(dequantize=True)
        )
    # transformers names no type for what it does not know in a GGUF file.
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ConfigError(f"transformers cannot read {file}: {first[:300]}") from error
    return model, tokenizer


if __name__ == "__main__":
    sys.exit(main())
