"""Every family gives what transformers' generate gives, by whichever way."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from tiny_models import make_model

from rag_ft.fast.decoding import Row
from rag_ft.llm.causal_lm import check_language_model, load_causal_lm
from rag_ft.llm.plain_decoding import decode_rows, generate, score, shares_batches

PROMPTS = [[60, 70, 80, 90, 61, 71], [100, 62, 63], [64, 65, 66, 67, 68, 69, 70, 71, 72], [99]]
ENDS = frozenset({3, 40, 41, 42, 43, 44, 45, 46, 47, 48})  # so many that rows end early


@pytest.mark.parametrize(
    ("family", "is_fast"),
    [
        ("llama", True),
        ("bloom", True),
        ("gptj", True),
        ("gptoss", True),
        ("granite", True),
        ("gemma3", True),
        ("mistral3", True),
        ("mamba", False),
        ("falcon_mamba", False),
        ("jamba", False),
        ("lfm2", False),
    ],
)
def test_replies_and_scores_are_those_of_each_prompt_alone(
    family: str, is_fast: bool, tmp_path: Path
) -> None:
    model = load_causal_lm(make_model(family, tmp_path / family), "float32", "cpu")
    check_language_model(model, tmp_path, 128)
    assert shares_batches(model) == is_fast
    rows = [Row(prompt, 4 + n) for n, prompt in enumerate(PROMPTS)]
    assert {id(row) for row in decode_rows(model, rows, ENDS, 0)} == {id(row) for row in rows}
    jobs = [(prompt, [50, 51, 52]) for prompt in PROMPTS] + [([60], [])]
    scores = score(model, jobs, 64, 0)
    with torch.no_grad():
        for row, (prompt, answer), found in zip(rows, jobs, scores, strict=False):
            ids = torch.tensor([prompt])
            said = model.generate(
                input_ids=ids,
                attention_mask=ids * 0 + 1,
                max_new_tokens=row.max_tokens,
                do_sample=False,
                eos_token_id=sorted(ENDS),
            )[0, len(prompt) :].tolist()
            ended = said[-1] in ENDS
            assert row.tokens == (said[:-1] if ended else said)
            assert row.finish_reason == ("stop" if ended else "length")
            logits = model(input_ids=torch.tensor([prompt + answer])).logits[0]
            wanted = logits.log_softmax(-1)[range(len(prompt) - 1, len(prompt) + 2), answer]
            assert torch.allclose(torch.from_numpy(found), wanted, atol=1e-3)
    assert len(scores[-1]) == 0


def test_sampling_does_not_depend_on_the_way(tmp_path: Path) -> None:
    import numpy as np

    model = load_causal_lm(make_model("llama", tmp_path / "llama"), "float32", "cpu")

    def sampled(way: object) -> list[list[int]]:
        draws = np.random.default_rng(0).random((len(PROMPTS), 6))
        rows = [Row(p, 6, 0.9, u) for p, u in zip(PROMPTS, draws, strict=True)]
        assert callable(way) and len(list(way(model, rows, frozenset({3}), 0))) == len(rows)
        return [row.tokens for row in rows]

    assert sampled(generate) == sampled(decode_rows)
