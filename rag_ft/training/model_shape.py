"""The shape of a model, on which its memory and computation depend. It is read from config.json and
the headers of the weight files where they show it: torch, which takes seconds, is not imported."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rag_ft.model_files import FLOAT_BYTES, read_json, read_weight_headers

BUFFERS = {"I64", "BOOL"}  # positions and masks, which are no parameters
# An embedding or the output head, which LoRA is not put on.
_TABLE = re.compile(r"\b(embed_tokens|word_embeddings|lm_head|embed_out)\.weight$")
_NOT_LINEAR = re.compile(r"embed|norm|lm_head", re.IGNORECASE)
# The usual names in config.json. Some families have others, which transformers knows.
_NAMES = {"num_attention_heads", "hidden_size", "num_hidden_layers", "vocab_size"}


@dataclass(frozen=True)
class ModelShape:
    """The numbers of a model that decide its memory and computation.

    `parameters` counts the whole model. `table_parameters` are the weights of embeddings and output
    head (one table where they are tied). `adapted`: (inputs, outputs) of every linear layer that
    gets a LoRA adapter. Widths are those of all heads of a layer together.
    """

    parameters: int
    table_parameters: int
    layers: int
    hidden: int
    feed_forward: int
    query_width: int
    key_width: int
    vocabulary: int
    adapted: tuple[tuple[int, int], ...]

    def adapter_parameters(self, rank: int) -> int:
        """Weights of a LoRA adapter of this rank."""
        return sum(rank * (inputs + outputs) for inputs, outputs in self.adapted)

    def forward_flops(self, answer_share: float = 1.0, length: float = 0.0) -> float:
        """Floating point operations of a forward pass for each token.

        These are model FLOPs, as model-FLOPs utilisation (MFU) counts them: an embedding is looked
        up, attention is causal, and nothing is computed twice.

        Args:
            answer_share: share (0-1) of the positions that the output head reads.
            length: tokens of a text; their mean over tokens.
        """
        return 2.0 * self._weights_read(answer_share) + self._attention_flops(length)

    def training_flops(
        self,
        trains_all: bool,
        answer_share: float = 1.0,
        length: float = 0.0,
        adapter_parameters: int = 0,
    ) -> float:
        """Floating point operations of a forward and backward pass for each token.

        The backward pass reaches the inputs of every layer, the weights where `trains_all`, and the
        weights of an adapter. The other arguments are those of `forward_flops`.
        """
        frozen = (6.0 if trains_all else 4.0) * self._weights_read(answer_share)
        return frozen + 3.0 * self._attention_flops(length) + 6.0 * adapter_parameters

    def _weights_read(self, answer_share: float) -> float:
        body = self.parameters - self.table_parameters
        return body + answer_share * self.vocabulary * self.hidden

    def _attention_flops(self, length: float) -> float:
        # In every layer the query meets, on average, every second key and value of the text.
        return 2.0 * self.query_width * length * self.layers


def shape_from_files(folder: Path) -> ModelShape:
    """The shape of a language model or of an encoder's transformer in `folder`.

    Models whose files do not show their layers (quantised weights, experts, a text model inside a
    larger one, transposed weights, other names of the settings, no safetensors) are built by
    transformers, without weights.
    """
    config = read_json(folder / "config.json")
    stored = read_weight_headers(folder)
    tensors = {name: tensor for name, tensor in stored.items() if tensor.dtype not in BUFFERS}
    is_plain = bool(tensors) and all(
        tensor.dtype in FLOAT_BYTES and len(tensor.shape) <= 2 and "expert" not in name
        for name, tensor in tensors.items()
    )
    transposed = config.get("model_type", "").startswith("gpt")
    if not is_plain or "text_config" in config or transposed or not config.keys() >= _NAMES:
        return read_shape(folder)
    is_tied = config.get("tie_word_embeddings", False)
    if is_tied:  # a head in the files is the embedding again
        tensors = {name: t for name, t in tensors.items() if not name.startswith("lm_head.")}
    sizes = {name: math.prod(tensor.shape) for name, tensor in tensors.items()}
    heads, hidden = _widest(config["num_attention_heads"]) or 1, config["hidden_size"]
    width = _widest(config.get("head_dim")) or hidden // heads
    return ModelShape(
        parameters=sum(sizes.values()),
        table_parameters=sum(size for name, size in sizes.items() if _TABLE.search(name)),
        layers=config["num_hidden_layers"],
        hidden=hidden,
        feed_forward=_widest(config.get("intermediate_size")) or 4 * hidden,
        query_width=width * heads,
        key_width=width * (_widest(config.get("num_key_value_heads")) or heads),
        vocabulary=config["vocab_size"],
        adapted=tuple(
            (tensor.shape[1], tensor.shape[0])
            for name, tensor in tensors.items()
            if len(tensor.shape) == 2 and not _NOT_LINEAR.search(name)
        ),
    )


def read_shape(folder: Path) -> ModelShape:
    """The shape of a language model, or of an encoder's transformer, by its config.json; loads no
    weights."""
    import torch
    import transformers
    from transformers import AutoConfig

    from rag_ft.llm.causal_lm import is_causal, model_class
    from rag_ft.model_loading import load_errors, loading_error

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        # No language model of transformers: an encoder such as T5's is built as it was saved.
        saved_as = getattr(transformers, (config.architectures or [""])[0], None)
        with torch.device("meta"):
            if is_causal(config.model_type) or saved_as is None:
                model = model_class(folder, trust_code=False).from_config(config)
            else:
                model = saved_as._from_config(config)
    except load_errors() as error:
        raise loading_error(folder, "llm", error) from error
    return shape_of(model)


def shape_of(model: Any) -> ModelShape:
    """The shape of a transformers model; its weights may be on the meta device."""
    import torch

    text = model.config.get_text_config()
    head = model.get_output_embeddings()

    # Tied embeddings and output head are one table.
    found = [m for m in (model.get_input_embeddings(), head) if m is not None]
    tables = {id(module.weight): module.weight for module in found}
    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head]

    # Configurations leave out what follows from other values; a model without attention has no
    # heads.
    heads = _widest(getattr(text, "num_attention_heads", None)) or 1
    width = _widest(getattr(text, "head_dim", None)) or text.hidden_size // heads
    key_heads = _widest(getattr(text, "num_key_value_heads", None)) or heads
    return ModelShape(
        # Counts each 4-bit weight, although two of them are stored in one byte.
        parameters=model.num_parameters(),
        table_parameters=sum(table.numel() for table in tables.values()),
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        feed_forward=_widest(getattr(text, "intermediate_size", None)) or 4 * text.hidden_size,
        query_width=width * heads,
        key_width=width * key_heads,
        vocabulary=text.vocab_size,
        adapted=tuple((m.in_features, m.out_features) for m in linear),
    )


def _widest(value: Any) -> int | None:
    """A number of the configuration; the largest where it names one for each layer."""
    numbers = value if isinstance(value, list | tuple) else [value]
    return max((number for number in numbers if number), default=None)
