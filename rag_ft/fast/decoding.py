"""Benchmark: benchmarks/decoding.py, AMD EPYC, float32; 1.4 times model.generate (sorted batches).

Batched decoding with a causal transformers model: rows with their own limits, temperature and
grammar. `model.generate`, the plain path, holds every row until the slowest has ended and copies
the whole cache each step. Here finished rows leave the batch and the cache grows in place. Greedy
replies are equal.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from transformers.cache_utils import DynamicCache, DynamicLayer

from rag_ft.hardware import padded_width

log = logging.getLogger(__name__)
COMPACT_SHARE = 0.2  # rows are taken out of the batch when so many of it are finished
# Below it the likeliest token is the only one, and logits divided by it can exceed float32.
LEAST_TEMPERATURE = 1e-5
KEPT_SCHEMAS = 8  # a compiled schema of 60 KB takes up to 20 MB


class Grammar:
    """Which tokens may follow in one reply, by an llguidance matcher."""

    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def allowed_bits(self) -> bytes:
        """A bit per token, lowest first: set where the token may follow."""
        return self._matcher.compute_bitmask()

    def accept(self, token: int) -> bool:
        """Takes the chosen token; True when the reply is complete."""
        self._matcher.consume_token(token)
        return self._matcher.is_stopped()


@dataclass
class Row:
    """One prompt (token ids) and its continuation.

    `uniforms` are max_tokens numbers in [0, 1) for sampling, None for greedy decoding. `grammar`
    says what may follow (None: anything). `on_token` sees each token that is kept, and returns
    False to end the row there. `finish_reason` is "" until the row ends, then "stop" or "length".
    """

    prompt: list[int]
    max_tokens: int
    temperature: float = 0.0
    uniforms: np.ndarray | None = None
    grammar: Grammar | None = None
    on_token: Callable[[int], bool] | None = None
    tokens: list[int] = field(default_factory=list)
    finish_reason: str = ""

    def take(self, token: int, ends: frozenset[int]) -> None:
        """Appends the chosen token, or ends the row at one of `ends`, which is not kept."""
        if token in ends:
            self.finish_reason = "stop"
            return
        self.tokens.append(token)
        if self.grammar is not None and self.grammar.accept(token):
            self.finish_reason = "stop"
        elif len(self.tokens) >= self.max_tokens:
            self.finish_reason = "length"
        if self.on_token is not None and not self.on_token(token):
            self.finish_reason = self.finish_reason or "stop"


class GrowingLayer(DynamicLayer):
    """A key-value cache layer with room ahead, so that a step appends without copying the past."""

    ROOM = 64

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Called by transformers with the first keys and values (rows, heads, tokens, size)."""
        super().lazy_initialization(key_states, value_states)
        self._key_store, self._value_store = key_states[:, :, :0], value_states[:, :, :0]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> Any:
        """Appends a step's keys and values; returns all so far, as views of the store."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        past = self.get_seq_length()
        end = past + key_states.shape[-2]
        # Only when the room is used up is the past copied.
        if end > self._key_store.shape[-2]:
            self._key_store = _grown(self.keys, key_states, past, end + self.ROOM)
            self._value_store = _grown(self.values, value_states, past, end + self.ROOM)
        self._key_store[:, :, past:end] = key_states
        self._value_store[:, :, past:end] = value_states
        self.keys, self.values = self._key_store[:, :, :end], self._value_store[:, :, :end]
        return self.keys, self.values

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keeps only these rows, in this order; a row may be chosen more than once."""
        super().batch_select_indices(indices)
        if self.keys is not None and self.values is not None:
            self._key_store, self._value_store = self.keys, self.values


def new_cache(model: Any) -> DynamicCache:
    """An empty cache for `model`, which grows in place.

    Layers of another kind, such as sliding windows, stay those of transformers.
    """
    cache = DynamicCache(config=model.config)
    cache.layers = [
        GrowingLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers
    ]
    return cache


def left_pad(prompts: list[list[int]], pad: int, model: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """(ids, mask) of token ids, both int64 (rows, width) on the model's device, padding first."""
    width, device = max(len(p) for p in prompts), model.device
    # On a CPU oneDNN multiplies in bfloat16, and keeps kernels in memory for every width. In
    # float32 MKL multiplies, which keeps none.
    if device.type == "cpu" and model.dtype == torch.bfloat16:
        width = padded_width(width)
    ids = torch.tensor([[pad] * (width - len(p)) + p for p in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
    return ids, mask


def output_head(model: Any) -> Any:
    """A function from hidden states (n, hidden) to the model's logits (n, vocabulary) in float32.

    It is the model's output layer, with its soft cap (Gemma) or scale (Cohere, Granite) where the
    configuration has one.
    """
    layer, text = model.get_output_embeddings(), model.config.get_text_config()
    cap = getattr(text, "final_logit_softcapping", None)
    scale = getattr(text, "logit_scale", None) or 1 / (getattr(text, "logits_scaling", None) or 1)

    def head(hidden: torch.Tensor) -> torch.Tensor:
        logits = layer(hidden).float() * scale
        return torch.tanh(logits / cap) * cap if cap else logits

    return head


@torch.inference_mode()
def decode(model: Any, rows: list[Row], ends: frozenset[int], pad: int) -> Iterator[Row]:
    """Continues every row until an end token, its grammar's end or its max_tokens.

    Fills the rows and yields each as it ends. End tokens are not kept. `pad` is any token id.
    `model` may be wrapped by PEFT.
    """
    model = model.get_base_model() if hasattr(model, "get_base_model") else model
    ids, mask = left_pad([row.prompt for row in rows], pad, model)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    cache, live, head = new_cache(model), list(rows), output_head(model)
    while True:
        hidden = model.base_model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        # Two dimensions: of a slice of three, PyTorch copies a frozen output layer's weights once
        # for each row.
        chosen = choose(head(hidden[:, -1]), live)

        # A finished row may still be in the batch; its token is ignored.
        ended: list[Row] = []
        for row, token in zip(live, chosen.tolist(), strict=True):
            if row.finish_reason:
                continue
            row.take(token, ends)
            if row.finish_reason:
                ended.append(row)
        yield from ended
        keep = [i for i, row in enumerate(live) if not row.finish_reason]
        if not keep:
            return

        # The next step computes only the chosen tokens. Rows are taken out together, since each
        # time copies the cache.
        ids, positions = chosen[:, None], positions[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(live), 1)], dim=1)
        if len(keep) <= (1 - COMPACT_SHARE) * len(live):
            index = torch.tensor(keep, device=mask.device)
            cache.batch_select_indices(index)
            ids, mask, positions = ids[index], mask[index], positions[index]
            live = [live[i] for i in keep]


def choose(logits: torch.Tensor, rows: list[Row]) -> torch.Tensor:
    """The next token of each row, int64 (rows,), from logits (rows, vocabulary), changed in place.

    It is the likeliest token that the row's grammar allows. With `uniforms` it is the one where the
    row's next uniform number falls in the cumulated distribution at the row's temperature, so that
    a row's draw does not depend on its neighbours.
    """
    # Minus infinity for what the grammars do not allow. A mask has one bit per token.
    ruled = [i for i, row in enumerate(rows) if row.grammar is not None and not row.finish_reason]
    if ruled:
        packed = b"".join(rows[i].grammar.allowed_bits() for i in ruled)  # type: ignore[union-attr]
        bits = np.frombuffer(packed, np.uint8).reshape(len(ruled), -1)
        allowed = np.zeros((len(ruled), logits.shape[-1]), bool)
        # The model may have more logits than the tokenizer has tokens, or fewer than whole bytes.
        unpacked = np.unpackbits(bits, axis=1, bitorder="little")[:, : logits.shape[-1]]
        allowed[:, : unpacked.shape[1]] = unpacked
        forbidden = ~torch.from_numpy(allowed).to(logits.device)
        logits[ruled] = logits[ruled].masked_fill(forbidden, float("-inf"))

    chosen = logits.argmax(-1)
    sampled = [
        i
        for i, row in enumerate(rows)
        if row.uniforms is not None
        and row.temperature >= LEAST_TEMPERATURE
        and not row.finish_reason
    ]
    if not sampled:
        return chosen
    temperatures = torch.tensor([rows[i].temperature for i in sampled], device=logits.device)
    probabilities = (logits[sampled] / temperatures[:, None]).softmax(-1)
    if logits.device.type == "mps":  # Apple's GPUs have no float64
        probabilities = probabilities.cpu()
    cumulated = probabilities.double().cumsum(-1)
    uniforms = [rows[i].uniforms[len(rows[i].tokens)] for i in sampled]  # type: ignore[index]
    draws = torch.tensor(uniforms, dtype=torch.float64, device=cumulated.device)
    # right=True: a token of probability zero is never the one where the draw falls.
    picked = torch.searchsorted(cumulated, (draws * cumulated[:, -1])[:, None], right=True)[:, 0]
    chosen[sampled] = picked.clamp(max=logits.shape[-1] - 1).to(chosen.device)
    return chosen


def _grown(past: torch.Tensor | None, new: torch.Tensor, length: int, room: int) -> torch.Tensor:
    """A store for `room` tokens that begins with the first `length` of the past ones."""
    store = new.new_empty((*new.shape[:2], room, new.shape[-1]))
    if past is not None and length:
        store[:, :, :length] = past
    return store


class GrammarCompiler:
    """JSON schemas as token masks for one tokenizer, by llguidance; the last KEPT_SCHEMAS stay
    compiled.

    `json_style` are llguidance's options. Without that package nothing is enforced, and one warning
    says so.
    """

    def __init__(self, tokenizer: Any, ends: frozenset[int], json_style: dict[str, Any]) -> None:
        self._tokenizer, self._ends, self._json_style = tokenizer, sorted(ends), json_style
        self._vocabulary: Any = None
        self._compiled: dict[str, Any] = {}

    def start(self, schema: dict[str, Any]) -> Grammar | None:
        """A fresh grammar for one reply, or None where llguidance is not installed."""
        compiled = self._matcher(schema)
        return Grammar(compiled.deep_copy()) if compiled is not None else None

    def problem(self, schema: dict[str, Any]) -> str | None:
        """Why the schema cannot be enforced, or None where it can."""
        compiled = self._matcher(schema)
        if compiled is None or not compiled.is_error():
            return None
        # What follows is a dump of the parser's state.
        said, *_ = compiled.get_error().split("<state>")
        return f"JSON schema cannot be enforced: {' '.join(said.split())}"

    def _matcher(self, schema: dict[str, Any]) -> Any:
        key = json.dumps(schema)
        if key in self._compiled:
            return self._compiled[key]
        if find_spec("llguidance") is None:
            if not self._compiled:
                log.warning(
                    "llguidance is not installed: JSON replies are not enforced, only checked"
                )
            self._compiled[key] = None
            return None
        from llguidance import LLMatcher
        from llguidance.hf import from_tokenizer

        # The vocabulary takes seconds for a large tokenizer, so it is read once for all schemas.
        if self._vocabulary is None:
            self._vocabulary = from_tokenizer(self._tokenizer, eos_token=self._ends)
        options: Any = self._json_style
        grammar = LLMatcher.grammar_from_json_schema(key, overrides=options)
        compiled = LLMatcher(self._vocabulary, grammar, log_level=0)
        # A schema that nothing fits, such as one that only refers to itself, fails at the first
        # token.
        first = compiled.deep_copy()
        first.compute_bitmask()
        if len(self._compiled) >= KEPT_SCHEMAS:
            del self._compiled[next(iter(self._compiled))]
        self._compiled[key] = first if first.is_error() else compiled
        return self._compiled[key]
