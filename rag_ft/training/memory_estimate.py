"""How much memory and computation a training needs, from the shape of the model alone."""

from __future__ import annotations

from collections.abc import Sequence

from rag_ft.config import TrainGeneratorConfig, TrainRerankerConfig, TrainRetrieverConfig
from rag_ft.hardware import GIB, choose_dtype
from rag_ft.training.model_shape import ModelShape
from rag_ft.training.retriever.loss_settings import MINI_BATCH

# Memory of a CPU process before the training, measured: torch, transformers, TRL, the retriever.
LIBRARIES_GB = 1.0
# The same for the training of the encoder: torch, sentence-transformers, FAISS, BM25.
RETRIEVER_LIBRARIES_GB = 0.9
CUDA_CONTEXT_GB = 0.8

SPARE = 0.92  # share of a device's memory that is planned with
# Of one forward pass, for each thread: larger ones do not fit the CPU's caches, and smaller ones
# leave threads waiting for each other.
CPU_PASS_TOKENS = 2048
GPU_PASS_TOKENS = 16384  # of one forward pass; larger ones are not faster

# Bytes of a weight; nf4 is 4 bits and its double-quantised scales.
BYTES = {"float32": 4.0, "bfloat16": 2.0, "nf4": 0.516}


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
    advanced, size = settings.advanced, settings.batch_size
    # A large batch is encoded in parts of MINI_BATCH texts.
    tokens = MINI_BATCH * chunk_tokens
    if size <= MINI_BATCH:
        tokens = size * (question_tokens + (1 + advanced.num_negatives) * chunk_tokens)
    # The encoder, its merged copy and the base; with cross-fitting two encoders tuned on halves.
    num_copies = 3 if advanced.crossfit == "never" else 5
    parts = _encoder_memory(shape, advanced.method, advanced.rank, tokens, num_copies)
    parts["index"] = 2 * num_chunks * shape.hidden * 4.0
    parts["fixed"] = (CUDA_CONTEXT_GB if gpu else RETRIEVER_LIBRARIES_GB) * GIB
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
    tokens = advanced.batch_size * (1 + advanced.num_negatives) * pair_tokens
    # The reranker and its merged copy.
    parts = _encoder_memory(shape, advanced.method, advanced.rank, tokens, num_copies=2)
    parts["fixed"] = (CUDA_CONTEXT_GB if gpu else RETRIEVER_LIBRARIES_GB) * GIB
    return {name: size / GIB for name, size in parts.items()}


def _encoder_memory(
    shape: ModelShape, method: str, rank: int, tokens: int, num_copies: int
) -> dict[str, float]:
    """Bytes by part of an encoder or reranker that is trained in float32. `tokens` are those of a
    forward pass, `num_copies` the copies of the weights."""
    full = method == "full"
    trained = shape.parameters if full else shape.adapter_parameters(rank)
    layer = layer_activation_bytes(shape, rank, not full, BYTES["float32"])
    return {
        "weights": num_copies * shape.parameters * 4.0,
        "gradients": trained * 4.0,
        "optimiser": trained * 8.0,
        "activations": tokens * layer * shape.layers,
    }


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
    threads: int,
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
        threads: that compute, where it runs on a CPU.

    Returns:
        The first of `sizes` that fits and is not larger than is useful; the last size is never too
        large to be useful. None where not even the last one fits.
    """
    dtype = choose_dtype(dtype, "cuda" if gpu else "cpu")
    useful = GPU_PASS_TOKENS if gpu else CPU_PASS_TOKENS * threads
    for size in sizes:
        parts = training_memory(shape, settings, size * lengths[0], size * lengths[1], dtype, gpu)
        is_useful = size * lengths[0] <= useful or size == sizes[-1]
        if is_useful and sum(parts.values()) <= SPARE * memory_gb:
            return size, parts
    return None
