"""The shape of a model from its config.json and the headers of its weight files: no weight is read,
and torch is not imported, which takes seconds."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

from rag_ft.model_files import read_json
from rag_ft.training.memory_estimate import ModelShape, read_shape

FLOATS = {"F64", "F32", "F16", "BF16"}
BUFFERS = {"I64", "BOOL"}  # positions and masks, which are no parameters
# An embedding or the output head, which LoRA is not put on.
_TABLE = re.compile(r"\b(embed_tokens|word_embeddings|lm_head|embed_out)\.weight$")
_NOT_LINEAR = re.compile(r"embed|norm|lm_head", re.IGNORECASE)


def shape_from_files(folder: Path) -> ModelShape:
    """The shape of a language model or of an encoder's transformer in `folder`.

    Models whose files do not show their layers (quantised weights, experts, a text model inside a
    larger one, transposed weights, no safetensors) are built by transformers, without weights.
    """
    config = read_json(folder / "config.json")
    tensors = read_headers(folder)
    is_plain = bool(tensors) and all(
        dtype in FLOATS and len(shape) <= 2 and "expert" not in name
        for name, (dtype, shape) in tensors.items()
    )
    if not is_plain or "text_config" in config or config.get("model_type", "").startswith("gpt"):
        return read_shape(folder)
    is_tied = config.get("tie_word_embeddings", False)
    if is_tied:  # a head in the files is the embedding again
        tensors = {name: t for name, t in tensors.items() if not name.startswith("lm_head.")}
    sizes = {name: math.prod(shape) for name, (_, shape) in tensors.items()}
    heads, hidden = config["num_attention_heads"], config["hidden_size"]
    width = config.get("head_dim") or hidden // heads
    return ModelShape(
        parameters=sum(sizes.values()),
        table_parameters=sum(size for name, size in sizes.items() if _TABLE.search(name)),
        layers=config["num_hidden_layers"],
        hidden=hidden,
        feed_forward=config.get("intermediate_size") or 4 * hidden,
        query_width=width * heads,
        key_width=width * (config.get("num_key_value_heads") or heads),
        vocabulary=config["vocab_size"],
        adapted=tuple(
            (shape[1], shape[0])
            for name, (_, shape) in tensors.items()
            if len(shape) == 2 and not _NOT_LINEAR.search(name)
        ),
    )


def read_headers(folder: Path) -> dict[str, tuple[str, tuple[int, ...]]]:
    """{name: (dtype, shape)} of every tensor in the folder's model*.safetensors but buffers; empty
    where there is none or a header cannot be read."""
    tensors = {}
    try:
        for path in sorted(folder.glob("model*.safetensors")):
            with path.open("rb") as raw:
                length = int.from_bytes(raw.read(8), "little")
                header = json.loads(raw.read(min(length, path.stat().st_size)))
            for name, tensor in header.items():
                if name != "__metadata__" and tensor["dtype"] not in BUFFERS:
                    tensors[name] = (tensor["dtype"], tuple(tensor["shape"]))
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}  # the command that loads the weights reports what is wrong with them
    return tensors
