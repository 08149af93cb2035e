"""How much memory a training of the generator needs, by part, from the model's shape alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rag_ft.config import Config
from rag_ft.hardware import choose_dtype

GIB = 2**30
LIBRARIES_GB = 1.0  # torch, transformers, trl, the retriever before, and what they hold: measured in a CPU process
CUDA_CONTEXT_GB = 0.8
SPARE = 0.92  # share of a device's memory that is planned with
CPU_PASS_TOKENS = 2048  # of one forward pass: larger ones leave the CPU's caches
GPU_PASS_TOKENS = 16384  # more fills no GPU better
BYTES = {"float32": 4.0, "bfloat16": 2.0, "nf4": 0.516}  # nf4: 4 bits and double-quantised scales


@dataclass(frozen=True)
class ModelShape:
    """`adapted`: (inputs, outputs) of every linear layer LoRA is put on; parameters count the whole model, of which
    `table_parameters` are its embeddings and its output head (one table where they are tied)."""

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
        return sum(rank * (inputs + outputs) for inputs, outputs in self.adapted)

    def forward_flops(self, answer_share: float = 1.0, length: float = 0.0) -> float:
        """Floating point operations a token of a forward pass over texts of `length` tokens (their mean over tokens),
        where the output head reads `answer_share` of the positions. Model FLOPs, as model-FLOPs utilisation (MFU)
        counts them: an embedding is looked up, attention is causal, and nothing is computed twice."""
        return 2.0 * self._weights_read(answer_share) + self._attention_flops(length)

    def training_flops(
        self,
        trains_all: bool,
        answer_share: float = 1.0,
        length: float = 0.0,
        adapter_parameters: int = 0,
    ) -> float:
        """As forward_flops, with the backward pass to the inputs, and to the weights where all move; an adapter's
        weights always do."""
        frozen = (6.0 if trains_all else 4.0) * self._weights_read(answer_share)
        return frozen + 3.0 * self._attention_flops(length) + 6.0 * adapter_parameters

    def _weights_read(self, answer_share: float) -> float:
        return (
            self.parameters - self.table_parameters + answer_share * self.vocabulary * self.hidden
        )

    def _attention_flops(self, length: float) -> float:
        """Of a token: its query times half the keys, and their weights times the values, in every layer."""
        return 2.0 * self.query_width * length * self.layers


def read_shape(folder: Path) -> ModelShape:
    """From config.json, with no weights loaded."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    return shape_of(model)


def shape_of(model: Any) -> ModelShape:
    import torch

    text = model.config.get_text_config()
    head = model.get_output_embeddings()
    embeddings = (model.get_input_embeddings(), head)
    tables = {
        id(module.weight): module.weight for module in embeddings if module is not None
    }  # tied: one
    linear = [m for m in model.modules() if isinstance(m, torch.nn.Linear) and m is not head]
    width = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    return ModelShape(
        parameters=model.num_parameters(),  # counts 4-bit weights, which are stored two to a byte, as what they are
        table_parameters=sum(table.numel() for table in tables.values()),
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        feed_forward=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
        query_width=width * text.num_attention_heads,
        key_width=width * heads,
        vocabulary=text.vocab_size,
        adapted=tuple((m.in_features, m.out_features) for m in linear),
    )


def training_memory(
    shape: ModelShape, config: Config, pass_tokens: int, answer_tokens: int, dtype: str, gpu: bool
) -> dict[str, float]:
    """GiB by part, for forward passes of `pass_tokens` tokens of which `answer_tokens` are learned."""
    knobs = config.train_generator
    full = knobs.method == "full"
    trained = shape.parameters if full else shape.adapter_parameters(knobs.advanced.rank)
    stored = "nf4" if knobs.method == "qlora" else "float32" if full else dtype
    layer = layer_activation_bytes(
        shape, knobs.advanced.rank, not full, 2.0 if dtype == "bfloat16" else 4.0
    )
    kept = (
        2.0 * shape.hidden * shape.layers + layer
        if knobs.advanced.gradient_checkpointing
        else layer * shape.layers
    )
    parts = {
        "weights": stored_bytes(shape, stored),
        "adapter": 0.0 if full else trained * 4.0,
        "casts": shape.parameters * 2.0 if full and dtype == "bfloat16" else 0.0,
        "gradients": trained * 4.0,
        "optimiser": trained * 8.0,
        "activations": pass_tokens * kept,
        "logits": answer_tokens * shape.vocabulary * 12.0,
        "fixed": (CUDA_CONTEXT_GB if gpu else LIBRARIES_GB) * GIB,
    }
    return {name: size / GIB for name, size in parts.items()}


def stored_bytes(shape: ModelShape, dtype: str) -> float:
    """Of the weights. Only linear layers are kept in four bits: the tables stay in bfloat16."""
    tables = shape.table_parameters * BYTES["bfloat16" if dtype == "nf4" else dtype]
    return tables + (shape.parameters - shape.table_parameters) * BYTES[dtype]


def layer_activation_bytes(shape: ModelShape, rank: int, adapted: bool, width: float) -> float:
    """Bytes a token that one decoder layer keeps for the backward pass: what two norms keep in float32, queries, keys,
    values and attention output, the feed-forward's four inner tensors, and, for LoRA, each linear layer's own copy of
    its input and of the product with A. With all weights in float32 the residual stream is too, and five linear layers
    keep their input cast to `width`."""
    norms = 2 * shape.hidden * (4 + (width if adapted else 4.0))
    casts = width * 5 * shape.hidden if not adapted and width < 4 else 0.0
    attention = width * (2 * shape.query_width + 2 * shape.key_width)
    feed_forward = width * 4 * shape.feed_forward
    adapters = (
        width * (5 * shape.hidden + shape.query_width + shape.feed_forward + 7 * rank)
        if adapted
        else 0.0
    )
    return norms + casts + attention + feed_forward + adapters


def divisors(number: int) -> list[int]:
    """Largest first."""
    return [d for d in range(number, 0, -1) if number % d == 0]


def largest_pass(
    shape: ModelShape,
    config: Config,
    sizes: Sequence[int],
    lengths: tuple[int, int],
    memory_gb: float,
    gpu: bool,
) -> tuple[int, dict[str, float]] | None:
    """The first of `sizes` (examples of one forward pass, largest first) that fits, with its memory by part.

    `lengths` are an example's tokens, all and learned. A pass larger than a device is fed well by is not chosen unless
    it is the only one asked for. None where not even the last fits.
    """
    dtype = choose_dtype(config.llm.dtype, "cuda" if gpu else "cpu")
    enough = GPU_PASS_TOKENS if gpu else CPU_PASS_TOKENS
    for size in sizes:
        parts = training_memory(shape, config, size * lengths[0], size * lengths[1], dtype, gpu)
        fed = size * lengths[0] <= enough or size == sizes[-1]
        if fed and sum(parts.values()) <= SPARE * memory_gb:
            return size, parts
    return None
