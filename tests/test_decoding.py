"""Decoding: the model's own logits, draws as often as it says, rows that end when they are done."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from rag_ft.fast import decoding
from rag_ft.fast.decoding import Row, choose, decode, left_pad, output_head
from rag_ft.llm.transformers_backend import load_causal_lm


def test_sampling_draws_tokens_as_often_as_the_model_says() -> None:
    logits = torch.tensor([1.0, 0.0, 2.0, float("-inf")])
    draws = (np.arange(1000) + 0.5) / 1000
    rows = [Row([1], 1, temperature=2.0, uniforms=np.array([u])) for u in draws]
    counts = torch.bincount(choose(logits.repeat(1000, 1), rows), minlength=4) / 1000
    torch.testing.assert_close(counts, (logits / 2).softmax(-1), atol=2e-3, rtol=0)


def test_a_temperature_near_zero_is_zero() -> None:
    logits = torch.tensor([[9.0, 12.0, -30.0]])
    for temperature in (5e-324, 1e-38, 1e-6):
        row = Row([1], 1, temperature=temperature, uniforms=np.array([0.999]))
        assert choose(logits.clone(), [row]).tolist() == [1]


def test_the_output_head_equals_the_models_own_logits(tiny_lm_dir: Path) -> None:
    model = load_causal_lm(tiny_lm_dir, "float32", "cpu")
    ids = torch.tensor([[5, 9, 30, 77]])
    with torch.no_grad():
        hidden = model.base_model(ids).last_hidden_state[0]
        torch.testing.assert_close(output_head(model)(hidden), model(ids).logits[0])


def test_rows_end_at_their_own_limits_and_continue_as_generate_does(tiny_lm_dir: Path) -> None:
    model = load_causal_lm(tiny_lm_dir, "float32", "cpu")
    limits = [90, 2, 70, 1, 3]
    rows = [Row(list(range(5, 8 + n)), limit) for n, limit in enumerate(limits)]
    ended = list(decode(model, rows, frozenset(), pad=0))
    assert [len(row.tokens) for row in ended] == sorted(limits)
    assert {row.finish_reason for row in rows} == {"length"}
    for row in rows:
        ids = torch.tensor([row.prompt])
        longest = row.max_tokens
        whole = model.generate(
            ids, max_new_tokens=longest, min_new_tokens=longest, do_sample=False, eos_token_id=None
        )
        assert row.tokens == whole[0, ids.shape[1] :].tolist()


def test_a_padded_width_changes_no_reply(tiny_lm_dir: Path) -> None:
    # In bfloat16 on a CPU prompts are padded to multiples of 32 tokens.
    prompts = [[3, 4, 5], [7], list(range(3, 40))]
    widths = {"float32": 37, "bfloat16": 64}
    for dtype, width in widths.items():
        model = load_causal_lm(tiny_lm_dir, dtype, "cpu")
        assert left_pad(prompts, 0, model)[0].shape == (3, width)

    def replies(model: Any) -> list[list[int]]:
        rows = [Row(prompt, 8) for prompt in prompts]
        list(decode(model, rows, frozenset(), 0))
        return [row.tokens for row in rows]

    # The same numbers under both names: only the width differs.
    exact = load_causal_lm(tiny_lm_dir, "float32", "cpu")
    before = replies(exact)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decoding.torch, "bfloat16", torch.float32)
        assert left_pad(prompts, 0, exact)[0].shape == (3, 64)
        assert replies(exact) == before
