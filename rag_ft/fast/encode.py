"""Benchmark: benchmarks/encoding.py; 2.5 (AMD) or 1.0 (Intel) times SentenceTransformer.encode.

Sentence-transformer texts -> vectors: batches of equal length within a token budget, on every
device at once. `SentenceTransformer.encode` is the plain path; both give the same vectors.

| against SentenceTransformer.encode in float32 | float32 | bfloat16 |
| AMD EPYC with native bfloat16, linear layers packed (packed_linear.py) | 2.51 | 3.78 |
| the same, not packed | 1.20 | 3.48 |
| Intel Xeon without bfloat16 | 1.00 | 0.37, so `auto` computes in float32 there |
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from rag_ft.hardware import padded_width

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

# Tokens of one batch by default: small batches stay in a CPU's cache, large ones fill a GPU.
AUTO_BATCH_TOKENS = {"cpu": 2048, "cuda": 65536}
# On a CPU questions are padded to multiples of so many tokens. In float32 this costs a question one
# or two milliseconds, WIDTH_STEP would cost five.
QUESTION_STEP = 16
GPU_BLOCK = 2048  # texts tokenised at once for each GPU, while it computes the block before
Features = dict[str, list[np.ndarray]]
Batch: TypeAlias = "tuple[np.ndarray, dict[str, torch.Tensor]]"


def encode(
    models: Sequence[SentenceTransformer], texts: Sequence[str], batch_tokens: int = 0
) -> np.ndarray:
    """Texts with their prefixes -> float32 (n, dim), in the order given, not normalised again.

    `models` are copies of one model (see `can_encode`), each on its device: a device that has
    finished a batch takes the next. `batch_tokens` counts padding; 0 chooses by the kind of device.
    The vectors are what the model's last module gives, float32 whatever the model computes in.
    """
    first = models[0]
    kind = first.device.type
    vectors = np.empty((len(texts), int(first.get_embedding_dimension() or 0)), dtype=np.float32)
    if not len(texts):
        return vectors
    budget = batch_tokens or AUTO_BATCH_TOKENS.get(kind, AUTO_BATCH_TOKENS["cpu"])
    # Within a block, the longest texts come first. A CPU gets all texts as one block; for GPUs the
    # next block is tokenised meanwhile.
    block = GPU_BLOCK * len(models) if kind == "cuda" else len(texts)

    def width_of(lengths: np.ndarray) -> int:
        """The width of a batch. Full batches have few widths in all; others, such as one question,
        are padded to few."""
        longest = int(lengths.max())
        is_full = (len(lengths) + 1) * longest > budget
        if kind != "cpu" or is_full or first.tokenizer.pad_token_id is None:
            return longest
        return min(padded_width(longest, QUESTION_STEP), first.max_seq_length or longest)

    def padded() -> Iterator[Batch]:
        """Row numbers of `texts` and their padded tokens, a batch at a time."""
        for start, features in tokenize_ahead(first, list(texts), block):
            lengths = np.array([len(ids) for ids in features["input_ids"]])
            for rows in token_batches(lengths, budget):
                yield start + rows, pad(first.tokenizer, features, rows, width_of(lengths[rows]))

    batches = padded()
    if len(models) == 1:
        _forward_all(first, batches, vectors)
        return vectors

    # A thread per device. A generator serves one thread at a time, so taking a batch is locked.
    lock = threading.Lock()

    def untaken() -> Iterator[Batch]:
        """The batches that no other thread has taken."""
        while True:
            with lock:
                batch = next(batches, None)
            if batch is None:
                return
            yield batch

    with ThreadPoolExecutor(len(models)) as pool:
        running = [pool.submit(_forward_all, model, untaken(), vectors) for model in models]
        for one in running:
            one.result()
    return vectors


def can_encode(model: SentenceTransformer) -> bool:
    """Whether `model` is a text-only transformer that reads the tokens of prefix + text.

    Others (routers, chat templates, pooling without the prefix, limits by task) need
    SentenceTransformer.encode.
    """
    first = model[0]
    config = getattr(first, "modality_config", None)
    if not isinstance(config, dict) or list(config) != ["text"] or first.tokenizer is None:
        return False
    # Set where a model cuts or fills questions and documents differently.
    special = ("query_length", "document_length", "query_expansion")
    by_task = any(getattr(first, name, None) for name in special)
    return not by_task and all(getattr(module, "include_prompt", True) for module in model)


def token_batches(lengths: np.ndarray, budget: int) -> Iterator[np.ndarray]:
    """Row numbers, longest rows first, cut into batches of at most `budget` tokens.

    A batch takes rows x longest tokens with its padding. A row longer than the budget is a batch of
    its own.
    """
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, budget // max(1, int(lengths[order[start]])))
        yield order[start : start + size]
        start += size


def tokenize_ahead(
    model: SentenceTransformer, texts: list[str], block: int
) -> Iterator[tuple[int, Features]]:
    """(number of the first text, tokens) of every `block` texts; a thread is one block ahead."""
    if len(texts) <= block:
        yield 0, tokenize(model, texts)
        return
    starts = range(0, len(texts), block)
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(tokenize, model, texts[:block])
        for start in starts:
            features = ahead.result()
            if start != starts[-1]:
                ahead = pool.submit(tokenize, model, texts[start + block : start + 2 * block])
            yield start, features


def tokenize(model: SentenceTransformer, texts: list[str]) -> Features:
    """The tokenizer's columns by name, an int64 (length,) array per text.

    Special tokens are included; longer texts are cut at the model's limit.
    """
    limit = model.max_seq_length
    encoded = model.tokenizer(texts, truncation=True, max_length=limit, verbose=False)
    return {name: [np.array(row, dtype=np.int64) for row in rows] for name, rows in encoded.items()}


def pad(
    tokenizer: Any, features: Features, rows: np.ndarray, width: int
) -> dict[str, torch.Tensor]:
    """What `tokenizer.pad` gives for these rows and this width, 50 times as fast: a GPU would wait
    for it."""
    import torch

    lengths = np.array([len(features["input_ids"][row]) for row in rows])
    places = np.arange(width)
    left = tokenizer.padding_side == "left"
    starts = (width - lengths if left else 0 * lengths)[:, None]
    # True where a token stands; all tokens of the batch are written there in one assignment.
    filled = (places >= starts) & (places < starts + lengths[:, None])
    filler = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
    padded = {}
    for name, values in features.items():
        table = np.full(filled.shape, filler.get(name, 0), dtype=np.int64)
        table[filled] = np.concatenate([values[row] for row in rows])
        padded[name] = torch.from_numpy(table)
    return padded


def _forward_all(model: SentenceTransformer, batches: Iterator[Batch], vectors: np.ndarray) -> None:
    """Fills the rows of `vectors` (n, dim) that `batches` name."""
    import torch

    in_flight: deque[tuple[np.ndarray, torch.Tensor, Any]] = deque()
    on_cuda = model.device.type == "cuda"
    with torch.inference_mode():
        for rows, padded in batches:
            # Only from pinned memory does a copy to a GPU not wait for what the GPU is doing.
            inputs = {
                name: (tensor.pin_memory() if on_cuda else tensor).to(
                    model.device, non_blocking=on_cuda
                )
                for name, tensor in padded.items()
            }
            found = model({**inputs, "modality": "text"})["sentence_embedding"].float()
            # The copy and the event behind it stand in the stream before the next batch.
            copied = found.to("cpu", non_blocking=on_cuda)
            mark = torch.cuda.current_stream(found.device).record_event() if on_cuda else None
            in_flight.append((rows, copied, mark))
            # Wait for a result only when the next batch is queued: then the GPU never waits for us.
            if len(in_flight) > 1:
                _receive(*in_flight.popleft(), vectors)
    for last in in_flight:
        _receive(*last, vectors)


def _receive(rows: np.ndarray, copied: torch.Tensor, mark: Any, vectors: np.ndarray) -> None:
    """Writes one batch's vectors to their rows, once `mark` says that they have arrived."""
    if mark is not None:
        mark.synchronize()
    vectors[rows] = copied.numpy()
