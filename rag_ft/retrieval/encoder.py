"""Texts -> unit vectors: loading a model with its pooling and prefixes made explicit, and encoding fast.

The only place that knows sentence-transformers. Nothing is guessed from a model's name: pooling and prefixes come from
the configuration or from the model's own files, and are saved with a tuned encoder, so that
`SentenceTransformer(folder)` alone gives the same vectors by `encode_query` and `encode_document`.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import numpy as np

from rag_ft.config import EncoderConfig
from rag_ft.errors import ConfigError
from rag_ft.records import content_hash
from rag_ft.retrieval.model_files import fingerprint_files, load_tokenizer, resolve_model_dir

if TYPE_CHECKING:
    import torch
    from sentence_transformers import SentenceTransformer

__all__ = [
    "Encoder",
    "load_encoder",
    "load_sentence_transformer",
    "load_tokenizer",
    "resolve_model_dir",
]

logger = logging.getLogger(__name__)
# Tokens of one batch where `encoder.advanced.batch_tokens` is 0: small batches stay in a CPU's cache, a GPU wants to be filled.
AUTO_BATCH_TOKENS = {"cpu": 2048, "cuda": 65536}
GPU_BLOCK = 2048  # texts tokenised at once for each GPU, while it computes those before
Features = dict[str, list[np.ndarray]]
Batch: TypeAlias = "tuple[np.ndarray, dict[str, torch.Tensor]]"
DOCUMENT_PROMPTS = ("document", "passage", "corpus")


class QueryEncoder(Protocol):
    """What turns questions into vectors."""

    def encode_queries(self, questions: Sequence[str]) -> np.ndarray:
        """float32 (n, dim), unit norm."""
        ...


class ChunkEncoder(Protocol):
    """What turns chunk texts into vectors."""

    def encode_chunks(self, texts: Sequence[str]) -> np.ndarray:
        """float32 (n, dim), unit norm."""
        ...


class Encoder:
    """A SentenceTransformer with a length-sorted, token-budgeted encode loop.

    `sentence_transformer` is held as given: its weights' type and device are those that compute. Prefixes are its
    `prompts`. With several `devices` every device gets a copy of the weights as they are at the first call, so leave
    `devices` out for a model that is still being trained.
    """

    def __init__(
        self,
        sentence_transformer: SentenceTransformer,
        config: EncoderConfig,
        folder: Path | None = None,
        devices: Sequence[str] = (),
    ) -> None:
        self.sentence_transformer = sentence_transformer
        self.folder = folder
        self._config = config
        self._devices = list(devices)
        self._copies: list[SentenceTransformer] = []

    @property
    def query_prefix(self) -> str:
        return self.sentence_transformer.prompts.get("query") or ""

    @property
    def chunk_prefix(self) -> str:
        return self.sentence_transformer.prompts.get("document") or ""

    @property
    def dim(self) -> int:
        return int(self.sentence_transformer.get_embedding_dimension() or 0)

    @property
    def max_tokens(self) -> int:
        """Tokens that are read of one text, prefix and specials included."""
        return int(self.sentence_transformer.max_seq_length or 2**31)

    @property
    def block_size(self) -> int:
        """Chunks to hand over at once so that every device has work; also what a killed run computes again."""
        on_gpu = self.sentence_transformer.device.type == "cuda"
        return 1024 * max(1, len(self._devices)) * (8 if on_gpu else 1)

    @functools.cached_property
    def fingerprint(self) -> str:
        """16 hex digits over weights, tokenizer, modules, prefixes, pooling and length limit; the type the weights
        are computed in does not count. A model without a folder is hashed as it stands at the first call."""
        weights = (
            fingerprint_files(self.folder)
            if self.folder
            else _hash_weights(self.sentence_transformer)
        )
        pooling = _pooling(self.sentence_transformer)
        how = pooling.get_config_dict() if pooling else None
        return content_hash(weights, self.query_prefix, self.chunk_prefix, how, self.max_tokens)

    def encode_queries(self, questions: Sequence[str]) -> np.ndarray:
        """Questions -> float32 (n, dim), unit norm, in the order given."""
        return self._encode(questions, "query")

    def encode_chunks(self, texts: Sequence[str]) -> np.ndarray:
        """Chunk texts -> float32 (n, dim), unit norm, in the order given."""
        return self._encode(texts, "document")

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each chunk text with prefix and specials, uncut: more than `max_tokens` means that it is cut."""
        tokenizer: Any = self.sentence_transformer.tokenizer
        prefixed = [self.chunk_prefix + text for text in texts]
        return [
            len(ids) for ids in tokenizer(prefixed, truncation=False, verbose=False)["input_ids"]
        ]

    def _encode(self, texts: Sequence[str], side: str) -> np.ndarray:
        vectors = np.empty((len(texts), self.dim), dtype=np.float32)
        if len(texts) == 0:
            return vectors
        self.sentence_transformer.eval()
        if not _is_plain(self.sentence_transformer):
            found = self.sentence_transformer.encode(
                list(texts), prompt_name=side, convert_to_numpy=True
            )
            return _unit(np.asarray(found, dtype=np.float32))
        prefix = self.query_prefix if side == "query" else self.chunk_prefix
        self._run(self._batches([prefix + text for text in texts]), vectors)
        return _unit(vectors)

    def _batches(self, texts: list[str]) -> Iterator[Batch]:
        """Rows of `texts` and their padded tokens, longest first: of all texts, or on GPUs of so many that the next are
        tokenised while these are computed."""
        model = self.sentence_transformer
        block = (
            GPU_BLOCK * max(1, len(self._devices)) if model.device.type == "cuda" else len(texts)
        )
        for start, features in _tokenize_ahead(model, texts, block):
            lengths = np.array([len(ids) for ids in features["input_ids"]])
            for rows in token_batches(lengths, self._batch_tokens):
                yield start + rows, _pad(model.tokenizer, features, rows)

    @property
    def _batch_tokens(self) -> int:
        kind = self.sentence_transformer.device.type
        return self._config.advanced.batch_tokens or AUTO_BATCH_TOKENS.get(
            kind, AUTO_BATCH_TOKENS["cpu"]
        )

    def _run(self, batches: Iterator[Batch], vectors: np.ndarray) -> None:
        models = self._models()
        if len(models) == 1:
            _forward_all(models[0], batches, vectors)
            return
        lock = threading.Lock()
        with ThreadPoolExecutor(
            len(models)
        ) as pool:  # a device that is done with its batch takes the next
            running = [
                pool.submit(_forward_all, model, _taking_turns(batches, lock), vectors)
                for model in models
            ]
            for one in running:
                one.result()

    def _models(self) -> list[SentenceTransformer]:
        if len(self._devices) < 2:
            return [self.sentence_transformer]
        if not self._copies:
            others = [
                copy.deepcopy(self.sentence_transformer).to(device) for device in self._devices[1:]
            ]
            self._copies = [self.sentence_transformer, *others]
        return self._copies


def load_encoder(config: EncoderConfig, path: Path | None = None) -> Encoder:
    """The encoder of the configuration, or the tuned one saved in the folder `path`, ready to encode.

    Raises:
        ConfigError: the model cannot be found, is damaged, or says nothing of its pooling (each with its remedy).
    """
    import torch

    from rag_ft.retrieval.packed_linear import pack_linears

    folder = path or resolve_model_dir(config)
    model = load_sentence_transformer(config, folder)
    model.to(_dtype(config.dtype, model.device.type))
    if model.device.type == "cpu":
        pack_linears(model)
    alone = not (torch.distributed.is_available() and torch.distributed.is_initialized())
    devices = (
        [f"cuda:{i}" for i in range(torch.cuda.device_count())]
        if model.device.type == "cuda" and alone
        else []
    )
    return Encoder(model, config, folder=folder, devices=devices)


def load_sentence_transformer(
    config: EncoderConfig, path: Path | None = None
) -> SentenceTransformer:
    """The float32 model, as training wants it: pooling, prefixes (`prompts`), length limit and a final normalisation
    set explicitly, so that saving it keeps them. A tuned folder (`path`) keeps what it was saved with.

    Raises:
        ConfigError: see load_encoder.
    """
    import torch
    from safetensors import SafetensorError
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize

    folder = path or resolve_model_dir(config)
    if not (folder / "modules.json").exists() and config.advanced.pooling is None:
        raise ConfigError(
            f"{folder} does not say how its tokens are pooled: set encoder.advanced.pooling to mean, cls or lasttoken"
        )
    try:
        with _no_progress_bar():
            model = SentenceTransformer(
                str(folder), local_files_only=True, model_kwargs={"dtype": torch.float32}
            )
    except (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"cannot load the encoder {folder} ({reason}): set encoder.model to another"
        ) from error
    model.eval()
    _set_pooling(model, config)
    if config.advanced.max_tokens:
        _check_positions(model, config)
        model.max_seq_length = config.advanced.max_tokens
    if not any(isinstance(module, Normalize) for module in model):
        model.append(Normalize())
    model.prompts = {**model.prompts, **_prompts(model, config)}
    return model


def token_batches(lengths: np.ndarray, budget: int) -> Iterator[np.ndarray]:
    """Row numbers, longest rows first, cut into batches whose padded size (rows x longest) is within `budget` tokens;
    a row longer than the budget is a batch of its own."""
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        size = max(1, budget // max(1, int(lengths[order[start]])))
        yield order[start : start + size]
        start += size


def native_bfloat16(device: str) -> bool:
    """Whether the hardware multiplies bfloat16 itself; elsewhere it is emulated and slower than float32."""
    import torch

    if device == "cuda":
        return torch.cuda.get_device_capability() >= (8, 0)
    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return device == "cpu" and any(getattr(torch.cpu, check, lambda: False)() for check in checks)


@contextlib.contextmanager
def _no_progress_bar() -> Iterator[None]:
    """transformers draws a bar over the weights of even the smallest model."""
    from transformers.utils import logging as transformers_logging

    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()


def _dtype(name: str, device: str) -> torch.dtype:
    import torch

    if name == "auto":
        return torch.bfloat16 if native_bfloat16(device) else torch.float32
    return torch.bfloat16 if name == "bfloat16" else torch.float32


def _set_pooling(model: SentenceTransformer, config: EncoderConfig) -> None:
    if config.advanced.pooling is None:
        return
    pooling = _pooling(model)
    if pooling is None:
        raise ConfigError(
            f"encoder.advanced.pooling is {config.advanced.pooling}, but {config.model} pools nothing: leave it out"
        )
    pooling.pooling_mode = config.advanced.pooling
    pooling.pooling_output_dimension = pooling.embedding_dimension


def _check_positions(model: SentenceTransformer, config: EncoderConfig) -> None:
    own = getattr(getattr(model[0], "auto_model", None), "config", None)
    positions = getattr(own, "max_position_embeddings", None)
    if positions and config.advanced.max_tokens and config.advanced.max_tokens > positions:
        raise ConfigError(
            f"encoder.advanced.max_tokens is {config.advanced.max_tokens}, but {config.model} has {positions} positions: lower it"
        )


def _pooling(model: SentenceTransformer) -> Any:
    """The model's pooling module, or None."""
    return next((module for module in model if hasattr(module, "pooling_mode")), None)


def _prompts(model: SentenceTransformer, config: EncoderConfig) -> dict[str, str]:
    """{"query": prefix, "document": prefix}: the configuration's, else the ones in the model's files, else none."""
    own_query = model.prompts.get("query") or ""
    own_chunk = next(filter(None, (model.prompts.get(name) for name in DOCUMENT_PROMPTS)), "")
    return {
        "query": own_query
        if config.advanced.query_prefix is None
        else config.advanced.query_prefix,
        "document": own_chunk
        if config.advanced.chunk_prefix is None
        else config.advanced.chunk_prefix,
    }


def _is_plain(model: SentenceTransformer) -> bool:
    """A text-only transformer whose inputs are tokens of prefix + text; others go through sentence-transformers' own
    loop (routers, chat templates, pooling without the prefix, limits by task)."""
    first = model[0]
    config = getattr(first, "modality_config", None)
    if not isinstance(config, dict) or list(config) != ["text"] or first.tokenizer is None:
        return False
    by_task = any(
        getattr(first, name, None)
        for name in ("query_length", "document_length", "query_expansion")
    )
    return not by_task and all(getattr(module, "include_prompt", True) for module in model)


def _tokenize(model: SentenceTransformer, texts: list[str]) -> Features:
    encoded = model.tokenizer(
        texts, truncation=True, max_length=model.max_seq_length, verbose=False
    )
    return {name: [np.array(row, dtype=np.int64) for row in rows] for name, rows in encoded.items()}


def _tokenize_ahead(
    model: SentenceTransformer, texts: list[str], block: int
) -> Iterator[tuple[int, Features]]:
    """(number of the first text, tokens) of every `block` texts; a thread is one block ahead."""
    if len(texts) <= block:
        yield 0, _tokenize(model, texts)
        return
    starts = range(0, len(texts), block)
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(_tokenize, model, texts[:block])
        for start in starts:
            features = ahead.result()
            if start != starts[-1]:
                ahead = pool.submit(_tokenize, model, texts[start + block : start + 2 * block])
            yield start, features


def _pad(tokenizer: Any, features: Features, rows: np.ndarray) -> dict[str, torch.Tensor]:
    """What `tokenizer.pad` gives for these rows, which takes fifty times as long: a GPU would wait for it."""
    import torch

    lengths = np.array([len(features["input_ids"][row]) for row in rows])
    places = np.arange(lengths.max())
    longest_missing = (
        lengths.max() - lengths if tokenizer.padding_side == "left" else 0 * lengths
    )[:, None]
    filled = (places >= longest_missing) & (places < longest_missing + lengths[:, None])
    filler = {"input_ids": tokenizer.pad_token_id, "token_type_ids": tokenizer.pad_token_type_id}
    padded = {}
    for name, values in features.items():
        table = np.full(filled.shape, filler.get(name, 0), dtype=np.int64)
        table[filled] = np.concatenate([values[row] for row in rows])
        padded[name] = torch.from_numpy(table)
    return padded


def _forward_all(model: SentenceTransformer, batches: Iterator[Batch], vectors: np.ndarray) -> None:
    """Fills `vectors` (n, dim), rows not yet normalised in float32. A result is waited for when the next batch is
    queued, so that a GPU never waits for us."""
    import torch

    coming: deque[tuple[np.ndarray, torch.Tensor, Any]] = deque()
    with torch.inference_mode():
        for rows, padded in batches:
            inputs = {name: _send(tensor, model.device) for name, tensor in padded.items()}
            found = model({**inputs, "modality": "text"})["sentence_embedding"].float()
            # into pinned memory; the copy and the mark behind it stand in the stream before the next batch
            copied = found.to("cpu", non_blocking=True)
            mark = torch.cuda.current_stream(found.device).record_event() if found.is_cuda else None
            coming.append((rows, copied, mark))
            if len(coming) > 1:
                _receive(*coming.popleft(), vectors)
    for last in coming:
        _receive(*last, vectors)


def _send(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Only from pinned memory does a copy to a GPU not wait for what the GPU is doing."""
    return (
        tensor.pin_memory().to(device, non_blocking=True)
        if device.type == "cuda"
        else tensor.to(device)
    )


def _receive(rows: np.ndarray, copied: torch.Tensor, mark: Any, vectors: np.ndarray) -> None:
    if mark is not None:
        mark.synchronize()
    vectors[rows] = copied.numpy()


def _taking_turns(batches: Iterator[Batch], lock: threading.Lock) -> Iterator[Batch]:
    """For several threads: each gets the batches that no other has taken."""
    while True:
        with lock:
            batch = next(batches, None)
        if batch is None:
            return
        yield batch


def _unit(vectors: np.ndarray) -> np.ndarray:
    """Rows to norm 1 in float32: weights in bfloat16 leave a norm that is off by up to 1 %."""
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.maximum(norms, np.float32(1e-12))


def _hash_weights(model: SentenceTransformer) -> str:
    import hashlib

    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
