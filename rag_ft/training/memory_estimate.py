"""How much memory and computation a training needs, from the shape of the model alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rag_ft.config import TrainGeneratorConfig, TrainRerankerConfig, TrainRetrieverConfig
from rag_ft.hardware import choose_dtype
from rag_ft.training.retriever.loss_settings import MINI_BATCH

GIB = 2**30

# Memory of a CPU process before the training, measured: torch, transformers, TRL, the retriever.
LIBRARIES_GB = 1.0
# The same for the training of the encoder: torch, sentence-transformers, FAISS, BM25.
RETRIEVER_LIBRARIES_GB = 0.9
CUDA_CONTEXT_GB = 0.8

SPARE = 0.92  # share of a device's memory that is planned with
CPU_PASS_TOKENS = 2048  # of one forward pass; larger ones do not fit the CPU's caches
GPU_PASS_TOKENS = 16384  # of one forward pass; larger ones are not faster

# Bytes of a weight; nf4 is 4 bits and its double-quantised scales.
BYTES = {"float32": 4.0, "bfloat16": 2.0, "nf4": 0.516}


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


def read_shape(folder: Path) -> ModelShape:
    """The shape of a language model by its config.json; loads no weights."""
    import torch
    from transformers import AutoConfig

    from rag_ft.llm.causal_lm import model_class
    from rag_ft.model_loading import load_errors, loading_error

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        with torch.device("meta"):
            model = model_class(folder, trust_code=False).from_config(config)
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
    heads = getattr(text, "num_attention_heads", None) or 1
    width = getattr(text, "head_dim", None) or text.hidden_size // heads
    key_heads = getattr(text, "num_key_value_heads", None) or heads
    return ModelShape(
        # Counts each 4-bit weight, although two of them are stored in one byte.
        parameters=model.num_parameters(),
        table_parameters=sum(table.numel() for table in tables.values()),
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        feed_forward=getattr(text, "intermediate_size", None) or 4 * text.hidden_size,
        query_width=width * heads,
        key_width=width * key_heads,
        vocabulary=text.vocab_size,
        adapted=tuple((m.in_features, m.out_features) for m in linear),
    )


def training_memory(
    shape: ModelShape,
    settings: TrainGeneratorConfig,
    pass_tokens: int,
    answer_tokens: int,
    dtype: str,
    gpu: bool,
) -> dict[str, float]:
    """Memory of the generator's training in GiB, by part.

    Args:
        shape: of the generator.
        settings: method, rank and gradient checkpointing are used.
        pass_tokens: tokens of one forward pass.
        answer_tokens: those of them that the loss reads.
        dtype: of the computation, "float32" or "bfloat16".
        gpu: whether it runs on a GPU.
    """
    full, rank = settings.method == "full", settings.advanced.rank
    trained = shape.parameters if full else shape.adapter_parameters(rank)
    stored = "float32" if full else dtype
    if settings.method == "qlora":
        stored = "nf4"

    # Checkpointing keeps the input of every layer, and the activations of one layer at a time.
    layer = layer_activation_bytes(shape, rank, not full, BYTES[dtype])
    kept = layer * shape.layers
    if settings.advanced.gradient_checkpointing:
        kept = 2.0 * shape.hidden * shape.layers + layer

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
    """Bytes of the weights. nf4 applies to linear layers alone: the tables stay in bfloat16."""
    tables = shape.table_parameters * BYTES["bfloat16" if dtype == "nf4" else dtype]
    return tables + (shape.parameters - shape.table_parameters) * BYTES[dtype]


def retriever_memory(
    shape: ModelShape,
    settings: TrainRetrieverConfig,
    chunk_tokens: int,
    question_tokens: int,
    num_chunks: int,
    gpu: bool,
) -> dict[str, float]:
    """Memory of the retriever's training in GiB, by part.

    Args:
        shape: of the encoder, which is trained in float32.
        settings: method, rank, batch size and number of negatives are used.
        chunk_tokens: longest chunk that the encoder reads.
        question_tokens: of a question.
        num_chunks: chunks of the corpus, whose vectors are held before and after the training.
        gpu: whether it runs on a GPU.
    """
    full, rank, size = (
        settings.advanced.method == "full",
        settings.advanced.rank,
        settings.batch_size,
    )
    trained = shape.parameters if full else shape.adapter_parameters(rank)

    # A large batch is encoded in parts of MINI_BATCH texts.
    texts = MINI_BATCH * chunk_tokens
    if size <= MINI_BATCH:
        texts = size * (question_tokens + (1 + settings.advanced.num_negatives) * chunk_tokens)

    layer = layer_activation_bytes(shape, rank, not full, BYTES["float32"])
    parts = {
        # The encoder and its merged copy; the base and two encoders tuned on halves, to compare.
        "weights": 5 * shape.parameters * 4.0,
        "gradients": trained * 4.0,
        "optimiser": trained * 8.0,
        "activations": texts * layer * shape.layers,
        "index": 2 * num_chunks * shape.hidden * 4.0,
        "fixed": (CUDA_CONTEXT_GB if gpu else RETRIEVER_LIBRARIES_GB) * GIB,
    }
    return {name: size / GIB for name, size in parts.items()}


def reranker_memory(
    shape: ModelShape, settings: TrainRerankerConfig, pair_tokens: int, gpu: bool
) -> dict[str, float]:
    """Memory of the reranker's training in GiB, by part.

    Args:
        shape: of the reranker, which is trained in float32.
        settings: method, rank, batch size and number of negatives are used.
        pair_tokens: longest question with a chunk.
        gpu: whether it runs on a GPU.
    """
    advanced = settings.advanced
    full, rank = advanced.method == "full", advanced.rank
    trained = shape.parameters if full else shape.adapter_parameters(rank)
    texts = advanced.batch_size * (1 + advanced.num_negatives) * pair_tokens
    layer = layer_activation_bytes(shape, rank, not full, BYTES["float32"])
    parts = {
        "weights": 2 * shape.parameters * 4.0,  # with the merged copy
        "gradients": trained * 4.0,
        "optimiser": trained * 8.0,
        "activations": texts * layer * shape.layers,
        "fixed": (CUDA_CONTEXT_GB if gpu else RETRIEVER_LIBRARIES_GB) * GIB,
    }
    return {name: size / GIB for name, size in parts.items()}


def layer_activation_bytes(shape: ModelShape, rank: int, adapted: bool, width: float) -> float:
    """Bytes for each token that one decoder layer keeps for the backward pass.

    Args:
        shape: of the model.
        rank: of the LoRA adapter.
        adapted: whether LoRA is trained; False: all weights are, in float32.
        width: bytes of a number of the computation, 2 or 4.
    """
    # What two norms keep in float32. Where all weights are float32, so is the residual stream, and
    # five linear layers keep their input cast to `width`.
    norms = 2 * shape.hidden * (4 + (width if adapted else 4.0))
    casts = width * 5 * shape.hidden if not adapted and width < 4 else 0.0

    # Queries, keys, values and attention output; the four inner tensors of the feed-forward layer.
    attention = width * (2 * shape.query_width + 2 * shape.key_width)
    feed_forward = width * 4 * shape.feed_forward

    # LoRA: the copy that each linear layer keeps of its input, and of the product with A.
    adapters = 0.0
    if adapted:
        inputs = 5 * shape.hidden + shape.query_width + shape.feed_forward
        adapters = width * (inputs + 7 * rank)
    return norms + casts + attention + feed_forward + adapters


def divisors(number: int) -> list[int]:
    """The divisors of a number, largest first."""
    return [d for d in range(number, 0, -1) if number % d == 0]


def largest_pass(
    shape: ModelShape,
    settings: TrainGeneratorConfig,
    dtype: str,
    sizes: Sequence[int],
    lengths: tuple[int, int],
    memory_gb: float,
    gpu: bool,
) -> tuple[int, dict[str, float]] | None:
    """The largest forward pass of the generator's training that fits, with its memory by part.

    Args:
        shape: of the generator.
        settings: of its training.
        dtype: as in `run.dtype`.
        sizes: examples of one forward pass to choose from, largest first.
        lengths: tokens of an example, and those of them that the loss reads.
        memory_gb: of the device, GiB.
        gpu: whether it runs on a GPU.

    Returns:
        The first of `sizes` that fits and is not larger than is useful; the last size is never too
        large to be useful. None where not even the last one fits.
    """
    dtype = choose_dtype(dtype, "cuda" if gpu else "cpu")
    useful = GPU_PASS_TOKENS if gpu else CPU_PASS_TOKENS
    for size in sizes:
        parts = training_memory(shape, settings, size * lengths[0], size * lengths[1], dtype, gpu)
        is_useful = size * lengths[0] <= useful or size == sizes[-1]
        if is_useful and sum(parts.values()) <= SPARE * memory_gb:
            return size, parts
    return None
