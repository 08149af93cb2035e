"""Continuing and scoring texts as transformers does it, and which models need that.

`fast.decoding` pads rows, shares one cache and computes logits itself. A model that keeps a state
in place of keys and values, or that makes its logits in another way, gives other results there: it
is tried once, and then goes the way of this file.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Sequence
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from transformers import GenerationConfig, LogitsProcessor, StoppingCriteria

from rag_ft.fast.answer_logprobs import Job, score_jobs
from rag_ft.fast.decoding import Row, choose, decode, left_pad, new_cache, output_head
from rag_ft.llm.causal_lm import probe_prompts
from rag_ft.model_loading import load_errors

logger = logging.getLogger(__name__)
# Relative error of logits that rounding explains.
TOLERANCE = {torch.float32: 1e-3, torch.float64: 1e-3}
COARSE_TOLERANCE = 0.1  # of 16 bits and less
_SHARES_BATCHES: WeakKeyDictionary[Any, bool] = WeakKeyDictionary()


def decode_rows(model: Any, rows: list[Row], ends: frozenset[int], pad: int) -> Iterator[Row]:
    """What `fast.decoding.decode` does, in the way that fits the model."""
    plain = plain_model(model)
    yield from (decode if shares_batches(plain) else generate)(plain, rows, ends, pad)


def score(model: Any, jobs: Sequence[Job], batch_tokens: int, pad: int) -> list[np.ndarray]:
    """What `fast.answer_logprobs.score_jobs` does, in the way that fits the model."""
    plain = plain_model(model)
    if shares_batches(plain):
        return score_jobs(plain, jobs, batch_tokens, pad)
    return [_score_one(plain, prompt, answer) for prompt, answer in jobs]


def plain_model(model: Any) -> Any:
    """The model of transformers inside a PEFT model, with the adapter's layers in it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def shares_batches(model: Any) -> bool:
    """Whether padded rows that share a cache get the logits that each row gets alone.

    Tried on three short rows the first time a model is seen: a step, one row taken out, one more
    step.
    """
    if model not in _SHARES_BATCHES:
        unfit: tuple[type[Exception], ...] = (*load_errors(), IndexError, NotImplementedError)
        try:
            _SHARES_BATCHES[model] = _largest_error(model) < TOLERANCE.get(
                model.dtype, COARSE_TOLERANCE
            )
        except unfit:
            _SHARES_BATCHES[model] = False
        if not _SHARES_BATCHES[model]:
            logger.info("%s is continued by transformers' generate", type(model).__name__)
    return _SHARES_BATCHES[model]


@torch.inference_mode()
def generate(model: Any, rows: list[Row], ends: frozenset[int], pad: int) -> Iterator[Row]:
    """Continues the rows by transformers' generate; those of one length together, so that nothing
    is padded. Fills the rows and yields each as its batch ends."""
    for _, group in itertools.groupby(
        sorted(rows, key=lambda row: len(row.prompt)), key=lambda row: len(row.prompt)
    ):
        alike = list(group)
        ids = torch.tensor([row.prompt for row in alike], device=model.device)
        most = max(row.max_tokens for row in alike)
        settings = GenerationConfig(
            do_sample=False,
            max_new_tokens=most,
            eos_token_id=sorted(ends),
            pad_token_id=pad,
            repetition_penalty=1.0,
            num_beams=1,
        )
        model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            generation_config=settings,
            logits_processor=[_Choose(alike, ends)],
            stopping_criteria=[_AllEnded(alike)],
        )
        yield from alike


class _Choose(LogitsProcessor):
    """Takes each row's next token as `fast.decoding.choose` does, and leaves only that one."""

    def __init__(self, rows: list[Row], ends: frozenset[int]) -> None:
        self._rows, self._ends = rows, ends

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        chosen = choose(scores.float(), self._rows)
        for row, token in zip(self._rows, chosen.tolist(), strict=True):
            if not row.finish_reason:
                row.take(token, self._ends)
        forced = torch.full_like(scores, float("-inf"))
        return forced.scatter(1, chosen[:, None], 0.0)


class _AllEnded(StoppingCriteria):
    """A row ends where its grammar, its end token or its own limit ends it."""

    def __init__(self, rows: list[Row]) -> None:
        self._rows = rows

    def __call__(self, input_ids: torch.Tensor, scores: Any, **_: Any) -> torch.Tensor:
        ended = [bool(row.finish_reason) for row in self._rows]
        return torch.tensor(ended, device=input_ids.device)


@torch.inference_mode()
def _score_one(model: Any, prompt: list[int], answer: list[int]) -> np.ndarray:
    if not answer:
        return np.zeros(0, np.float32)
    ids = torch.tensor([prompt + answer[:-1]], device=model.device)
    logprobs = model(input_ids=ids).logits[0, len(prompt) - 1 :].float().log_softmax(-1)
    wanted = torch.tensor(answer, device=model.device)[:, None]
    return logprobs.gather(1, wanted)[:, 0].cpu().numpy()


@torch.inference_mode()
def _largest_error(model: Any) -> float:
    """Relative error of the logits of padded rows with a shared cache, over two steps."""
    prompts = probe_prompts(model.config.get_text_config().vocab_size)
    ids, mask = left_pad(prompts, prompts[0][0], model)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    cache, head, worst = new_cache(model), output_head(model), 0.0
    for _ in range(2):
        hidden = model.base_model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        ).last_hidden_state
        found = head(hidden[:, -1])
        for row, prompt in enumerate(prompts):
            alone = torch.tensor([prompt], device=model.device)
            wanted = model(input_ids=alone).logits[0, -1].float()
            worst = max(worst, float((found[row] - wanted).norm() / wanted.norm().clamp(min=1e-9)))
        # The first row leaves the batch, the others get a token each.
        prompts = [[*prompt, prompt[0]] for prompt in prompts[1:]]
        kept = torch.arange(1, len(mask), device=mask.device)
        cache.batch_select_indices(kept)
        ids = torch.tensor([prompt[-1:] for prompt in prompts], device=model.device)
        mask = torch.cat([mask[kept], mask.new_ones(len(kept), 1)], dim=1)
        positions = positions[kept, -1:] + 1
    return worst
