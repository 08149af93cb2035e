"""Texts -> unit vectors, by a sentence encoder with explicit pooling and prefixes.

Pooling and prefixes come from the configuration or from the model's own files, never from the
model's name. A tuned encoder is saved with them, so that `SentenceTransformer(folder)` alone gives
the same vectors by `encode_query` and `encode_document`.
"""

from __future__ import annotations

import copy
import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from rag_ft.config import EncoderConfig
from rag_ft.errors import ConfigError
from rag_ft.fast.encode import can_encode, encode
from rag_ft.hardware import choose_dtype
from rag_ft.model_files import check_model, transformer_folder
from rag_ft.model_hub import fingerprint, resolve
from rag_ft.model_loading import (
    POSITION_TABLE,
    check_quantisation,
    check_stored,
    check_tokenizer,
    check_tokenizer_code,
    load_errors,
    loading_error,
    position_limit,
    quiet_loading,
)
from rag_ft.retrieval.padding_probe import ignores_padding
from rag_ft.storage import content_hash

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

PROBE_TEXTS = ["The ferry leaves.", "A text that is a little longer than the one before it."]
# Names under which models store the prefix of a chunk; the first that is there counts.
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

    It computes with the weights as they are given, in their type and on their device; the prefixes
    are its `prompts`. With several `devices` each device gets a copy of the weights as they are at
    the first call, so leave `devices` out for a model that is still being trained.
    """

    def __init__(
        self,
        sentence_transformer: SentenceTransformer,
        config: EncoderConfig,
        folder: Path | None = None,
        devices: Sequence[str] = (),
    ) -> None:
        """`folder` is the one the model was loaded from, if any."""
        self.sentence_transformer = sentence_transformer
        self.folder = folder
        self._config = config
        self._devices = list(devices)
        self._copies: list[SentenceTransformer] = []

    @property
    def query_prefix(self) -> str:
        """Stands before every question; may be empty."""
        return self.sentence_transformer.prompts.get("query") or ""

    @property
    def chunk_prefix(self) -> str:
        """Stands before every chunk; may be empty."""
        return self.sentence_transformer.prompts.get("document") or ""

    @property
    def dim(self) -> int:
        """Numbers in a vector."""
        return int(self.sentence_transformer.get_embedding_dimension() or 0)

    @property
    def max_tokens(self) -> int:
        """Tokens that are read of one text, with prefix and special tokens."""
        return int(self.sentence_transformer.max_seq_length or 2**31)

    @property
    def block_size(self) -> int:
        """Chunks to encode in one call: enough to keep every device busy. A build that is killed
        repeats at most these."""
        on_gpu = self.sentence_transformer.device.type == "cuda"
        return 1024 * max(1, len(self._devices)) * (8 if on_gpu else 1)

    @functools.cached_property
    def fingerprint(self) -> str:
        """16 hex digits of a hash of weights, tokenizer, modules, prefixes, pooling and length
        limit, but not of the type the weights are computed in. A model without a folder is hashed
        as it is at the first call."""
        if self.folder:
            weights = fingerprint(self.folder, exact=True)
        else:
            digest = hashlib.sha256()
            for name, tensor in self.sentence_transformer.state_dict().items():
                digest.update(name.encode())
                digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
            weights = digest.hexdigest()
        pooling = _pooling(self.sentence_transformer)
        how = pooling.get_config_dict() if pooling else None
        return content_hash(weights, self.query_prefix, self.chunk_prefix, how, self.max_tokens)

    def encode_queries(self, questions: Sequence[str]) -> np.ndarray:
        """Questions -> float32 (n, dim), unit norm, in the order given."""
        return self._encode(questions, "query", self.query_prefix)

    def encode_chunks(self, texts: Sequence[str]) -> np.ndarray:
        """Chunk texts -> float32 (n, dim), unit norm, in the order given."""
        return self._encode(texts, "document", self.chunk_prefix)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each chunk text with prefix and special tokens; the encoder reads `max_tokens`
        of them."""
        tokenizer: Any = self.sentence_transformer.tokenizer
        prefixed = [self.chunk_prefix + text for text in texts]
        rows = tokenizer(prefixed, truncation=False, verbose=False)["input_ids"]
        return [len(row) for row in rows]

    def _encode(self, texts: Sequence[str], prompt_name: str, prefix: str) -> np.ndarray:
        model = self.sentence_transformer
        if model.training:  # eval() visits every module: 0.3 ms of a question
            model.eval()
        if len(texts) and can_encode(model) and ignores_padding(model):
            # The first call makes the copies for the other devices.
            if not self._copies:
                others = [copy.deepcopy(model).to(device) for device in self._devices[1:]]
                self._copies = [model, *others]
            prefixed = [prefix + text for text in texts]
            vectors = encode(self._copies, prefixed, self._config.advanced.batch_tokens)
        elif len(texts):
            found = model.encode(list(texts), prompt_name=prompt_name, convert_to_numpy=True)
            vectors = np.asarray(found, dtype=np.float32)
        else:
            return np.empty((0, self.dim), dtype=np.float32)
        # bfloat16 weights leave norms that are off by up to 1 %.
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        return vectors / np.maximum(norms, np.float32(1e-12))


def load_encoder(config: EncoderConfig, path: Path | None = None) -> Encoder:
    """The encoder of the configuration, or the tuned one in the folder `path`, ready to encode.

    Raises:
        ConfigError: the model is missing or damaged, or its pooling is unknown.
    """
    import torch

    from rag_ft.fast.packed_linear import pack_linears

    folder = path or resolve(config.model, "encoder")
    model = load_sentence_transformer(config, folder)
    device_type = model.device.type
    model.to(getattr(torch, choose_dtype(config.dtype, device_type)))
    ignores_padding(model)  # a model that cannot encode ends here
    if device_type == "cpu":
        pack_linears(model, lambda: model.encode(PROBE_TEXTS, convert_to_tensor=True))
    # Every process of a distributed run has a GPU of its own; a process alone uses all of them.
    devices: list[str] = []
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if device_type == "cuda" and not distributed:
        devices = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    return Encoder(model, config, folder=folder, devices=devices)


def load_sentence_transformer(
    config: EncoderConfig, path: Path | None = None
) -> SentenceTransformer:
    """The model in float32, as training needs it.

    Pooling, prefixes (`prompts`), length limit and a final normalisation are set explicitly, so
    that saving the model keeps them. A tuned folder (`path`) keeps what it was saved with.

    Raises:
        ConfigError: see load_encoder.
    """
    from sentence_transformers.sentence_transformer.modules import Normalize

    folder, advanced = path or resolve(config.model, "encoder"), config.advanced
    check_model(folder, "encoder")
    if not (folder / "modules.json").exists() and advanced.pooling is None:
        raise ConfigError(
            f"the pooling of {folder} is unknown: set encoder.advanced.pooling to mean, cls or "
            "lasttoken"
        )
    model = _open_model(folder, advanced.trust_remote_code)
    if advanced.pooling is not None:
        pooling = _pooling(model)
        if pooling is None:
            raise ConfigError(
                f"encoder.advanced.pooling={advanced.pooling} has no effect: {config.model} has no "
                "pooling module. Remove the setting"
            )
        pooling.pooling_mode = advanced.pooling
        pooling.pooling_output_dimension = pooling.embedding_dimension
    positions = usable_positions(model)
    if advanced.max_tokens:
        if positions and advanced.max_tokens > positions:
            raise ConfigError(
                f"encoder.advanced.max_tokens is {advanced.max_tokens}, but {config.model} has "
                f"{positions} positions: lower it"
            )
        model.max_seq_length = advanced.max_tokens
    elif positions and (model.max_seq_length or positions + 1) > positions:
        model.max_seq_length = positions  # the tokenizer's limit is not the model's
    if model.truncate_dim:
        _cut_by_module(model)
    if not isinstance(model[-1], Normalize):
        model.append(Normalize())

    # Prefixes: the configuration's, else those of the model's files, else none.
    query, chunk = advanced.query_prefix, advanced.chunk_prefix
    if query is None:
        query = model.prompts.get("query") or ""
    if chunk is None:
        stored = [model.prompts.get(name) for name in DOCUMENT_PROMPTS]
        chunk = next((prompt for prompt in stored if prompt), "")
    model.prompts = {**model.prompts, "query": query, "document": chunk}
    return model


def usable_positions(model: SentenceTransformer) -> int | None:
    """Tokens that the transformer has a position for; None where nothing limits them.

    RoBERTa and its relatives keep the rows of the position table up to the padding token's for
    themselves: of 514 rows 512 count.
    """
    transformer = getattr(model[0], "auto_model", None)
    if transformer is None:
        return None
    for name, module in transformer.named_modules():
        if POSITION_TABLE.search(name) and hasattr(module, "num_embeddings"):
            padding = module.padding_idx
            return module.num_embeddings - (0 if padding is None else padding + 1)
    return position_limit(transformer.config)


def _cut_by_module(model: SentenceTransformer) -> None:
    """Cuts the vectors at the model's `truncate_dim` by a module of the model, so that training and
    every library see the cut vectors; sentence-transformers cuts them in `encode` alone."""
    import torch
    from sentence_transformers.sentence_transformer.modules import Dense

    kept = int(model.truncate_dim or 0)
    model.truncate_dim = None
    width = int(model.get_embedding_dimension() or kept)
    if kept >= width:
        return
    cut = Dense(width, kept, bias=False, activation_function=torch.nn.Identity())
    with torch.no_grad():
        cut.linear.weight.copy_(torch.eye(kept, width))
    model.append(cut.to(model.device))


def _open_model(folder: Path, trust_code: bool) -> SentenceTransformer:
    """The model of a folder in float32 and in evaluation mode, loaded without a progress bar.

    Raises:
        ConfigError: it cannot be loaded, its files lack weights, or it has no tokenizer.
    """
    import torch
    from sentence_transformers import SentenceTransformer

    inner = transformer_folder(folder)
    check_tokenizer_code(inner, "encoder", trust_code)
    check_quantisation(inner, "encoder")
    try:
        with quiet_loading():
            model = SentenceTransformer(
                str(folder),
                local_files_only=True,
                trust_remote_code=trust_code,
                model_kwargs={"dtype": torch.float32},
            )
            transformer = getattr(model[0], "auto_model", None)
            if transformer is not None:
                check_stored(inner, "encoder", transformer)
    except load_errors() as error:
        raise loading_error(folder, "encoder", error) from error
    model.eval()
    tokenizer: Any = model.tokenizer
    if tokenizer is None:
        raise ConfigError(
            f"{folder} has no tokenizer: copy the model's tokenizer files beside its weights"
        )
    if getattr(tokenizer, "pad_token", "") is None:
        # Padding is masked, so any token will do.
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
        if tokenizer.pad_token is None:
            raise ConfigError(
                f"the tokenizer of {folder} has no token to pad with: give it a pad_token and save "
                "it"
            )
    if transformer is not None:
        rows = getattr(transformer.config.get_text_config(), "vocab_size", None) or 2**31
        check_tokenizer(folder, tokenizer, rows, set(tokenizer(PROBE_TEXTS[0])["input_ids"]))
    return model


def _pooling(model: SentenceTransformer) -> Any:
    """The model's pooling module, or None."""
    return next((module for module in model if hasattr(module, "pooling_mode")), None)
