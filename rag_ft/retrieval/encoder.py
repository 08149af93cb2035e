"""Texts -> unit vectors: loads a sentence encoder with explicit pooling and prefixes.

Nothing is guessed from a model's name: pooling and prefixes come from
the configuration or from the model's own files, and are saved with a tuned encoder, so that
`SentenceTransformer(folder)` alone gives the same vectors by `encode_query` and `encode_document`.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from rag_ft.config import EncoderConfig
from rag_ft.errors import ConfigError
from rag_ft.fast.encode import can_encode, encode
from rag_ft.hardware import choose_dtype
from rag_ft.model_hub import fingerprint, resolve
from rag_ft.storage import content_hash

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

logger = logging.getLogger(__name__)
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
    """A SentenceTransformer that encodes questions and chunks, by fast.encode where it can.

    `sentence_transformer` is held as given: its weights' type and device are those that compute.
    Prefixes are its `prompts`. With several `devices` every device gets a copy of the weights as
    they are at the first call, so leave `devices` out for a model that is still being trained.
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
        """Chunks to encode in one call, so that every device has work; a killed run repeats at most
        these."""
        on_gpu = self.sentence_transformer.device.type == "cuda"
        return 1024 * max(1, len(self._devices)) * (8 if on_gpu else 1)

    @functools.cached_property
    def fingerprint(self) -> str:
        """16 hex digits over weights, tokenizer, modules, prefixes, pooling and length limit; the
        type the weights are computed in does not count. A model without a folder is hashed as it
        stands at the first call."""
        weights = (
            fingerprint(self.folder, exact=True)
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
        """Tokens of each chunk text with prefix and specials; beyond `max_tokens` a text is cut."""
        tokenizer: Any = self.sentence_transformer.tokenizer
        prefixed = [self.chunk_prefix + text for text in texts]
        return [
            len(ids) for ids in tokenizer(prefixed, truncation=False, verbose=False)["input_ids"]
        ]

    def _encode(self, texts: Sequence[str], side: str) -> np.ndarray:
        model = self.sentence_transformer
        model.eval()
        if can_encode(model):
            prefix = self.query_prefix if side == "query" else self.chunk_prefix
            prefixed = [prefix + text for text in texts]
            return _unit(encode(self._models(), prefixed, self._config.advanced.batch_tokens))
        if not len(texts):
            return np.empty((0, self.dim), dtype=np.float32)
        found = model.encode(list(texts), prompt_name=side, convert_to_numpy=True)
        return _unit(np.asarray(found, dtype=np.float32))

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
    """The encoder of the configuration, or the tuned one saved in the folder `path`, ready to
    encode.

    Raises:
        ConfigError: the model cannot be found, is damaged, or does not name its pooling.
    """
    import torch

    from rag_ft.fast.packed_linear import pack_linears

    folder = path or resolve(config.model, "encoder")
    model = load_sentence_transformer(config, folder)
    model.to(getattr(torch, choose_dtype(config.dtype, model.device.type)))
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
    """The float32 model, as training wants it: pooling, prefixes (`prompts`), length limit and a
    final normalisation set explicitly, so that saving it keeps them. A tuned folder (`path`) keeps
    what it was saved with.

    Raises:
        ConfigError: see load_encoder.
    """
    import torch
    from safetensors import SafetensorError
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize

    folder = path or resolve(config.model, "encoder")
    if not (folder / "modules.json").exists() and config.advanced.pooling is None:
        raise ConfigError(
            f"{folder} does not say how its tokens are pooled: set encoder.advanced.pooling to mean, cls "
            "or lasttoken"
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
            f"encoder.advanced.max_tokens is {config.advanced.max_tokens}, but {config.model} has {positions} "
            "positions: lower it"
        )


def _pooling(model: SentenceTransformer) -> Any:
    """The model's pooling module, or None."""
    return next((module for module in model if hasattr(module, "pooling_mode")), None)


def _prompts(model: SentenceTransformer, config: EncoderConfig) -> dict[str, str]:
    """{"query": prefix, "document": prefix}: the configuration's, else the ones in the model's
    files, else none."""
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
