"""log p(answer | prompt) equals a step-by-step computation, however jobs are batched and shared."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from rag_ft.config import LLMConfig
from rag_ft.errors import ConfigError
from rag_ft.fast.answer_logprobs import plan_batches, score_jobs, share_groups
from rag_ft.llm.factory import open_language_model
from rag_ft.llm.transformers_backend import load_causal_lm


def step_by_step(model: torch.nn.Module, prompt: list[int], answer: list[int]) -> np.ndarray:
    """One forward pass per answer token: its probability given everything before it."""
    logprobs = []
    for t, token in enumerate(answer):
        with torch.no_grad():
            logits = model(torch.tensor([prompt + answer[:t]])).logits[0, -1]
        logprobs.append(float(logits.log_softmax(-1)[token]))
    return np.array(logprobs)


@pytest.fixture(scope="module")
def model(tiny_lm_dir: Path) -> torch.nn.Module:
    return load_causal_lm(tiny_lm_dir, "float32", "cpu")


def some_jobs(seed: int = 0) -> list[tuple[list[int], list[int]]]:
    """Prompts with long shared beginnings, with none, equal ones, and an empty answer.

    One prompt is the beginning of another.
    """
    rng = np.random.default_rng(seed)

    def ids(n: int) -> list[int]:
        return rng.integers(3, 250, n).tolist()

    chunks = [ids(n) for n in (40, 60, 90)]
    jobs = [
        (chunk + ids(int(rng.integers(1, 20))), ids(int(rng.integers(1, 9))))
        for chunk in chunks
        for _ in range(5)
    ]
    jobs += [(ids(n), ids(3)) for n in (1, 5, 70)]
    jobs += [(jobs[0][0], ids(4)), (chunks[1], ids(2)), (chunks[1] + ids(1), ids(2)), (ids(9), [])]
    return [jobs[i] for i in rng.permutation(len(jobs))]


@pytest.mark.parametrize("batch_tokens", [1, 300, 100_000])
def test_log_probabilities_equal_a_step_by_step_computation(
    model: torch.nn.Module, batch_tokens: int
) -> None:
    jobs = some_jobs()
    found = score_jobs(model, jobs, batch_tokens, pad=0)
    for (prompt, answer), logprobs in zip(jobs, found, strict=True):
        assert logprobs.shape == (len(answer),)
        np.testing.assert_allclose(logprobs, step_by_step(model, prompt, answer), atol=1e-4)


def test_every_job_stands_in_one_batch_and_batches_keep_to_the_budget() -> None:
    jobs = some_jobs()
    batches = list(plan_batches(jobs, 200))
    assert sorted(i for _, batch in batches for i in batch) == [
        i for i, (_, answer) in enumerate(jobs) if answer
    ]
    assert len(batches) > 5


def test_a_shared_beginning_leaves_every_prompt_a_token_to_compute() -> None:
    same = list(range(50))
    [(common, members)] = share_groups([same, [*same, 7], same], [4, 5, 6])
    assert common == 49
    assert sorted(members) == [4, 5, 6]


def test_short_common_beginnings_are_not_shared() -> None:
    assert all(common == 0 for common, _ in share_groups([[1, 2, 3], [1, 2, 4]], [0, 1]))


def test_a_soft_capped_models_head_is_capped() -> None:
    from transformers import Gemma2Config, Gemma2ForCausalLM

    torch.manual_seed(0)
    config = Gemma2Config(
        vocab_size=50,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        final_logit_softcapping=0.05,
    )
    model = Gemma2ForCausalLM(config).eval()
    jobs = [([3, 4, 5, 6], [7, 8, 9]), ([3, 4], [1])]
    for (prompt, answer), found in zip(jobs, score_jobs(model, jobs, 100, pad=0), strict=True):
        np.testing.assert_allclose(found, step_by_step(model, prompt, answer), atol=1e-4)


def test_answers_are_scored_after_the_rendered_prompt(
    tiny_lm_dir: Path, model: torch.nn.Module
) -> None:
    messages = ({"role": "user", "content": "What is it?"},)
    with open_language_model(LLMConfig(model=str(tiny_lm_dir), dtype="float32"), seed=0) as llm:
        [logprobs] = llm.answer_logprobs([(messages, "a test")])
        prompt = llm.tokenizer("<|im_start|>user\nWhat is it?<|im_end|>\n<|im_start|>assistant\n")[
            "input_ids"
        ]
        answer = llm.tokenizer("a test")["input_ids"]
    np.testing.assert_allclose(logprobs, step_by_step(model, prompt, answer), atol=1e-4)


def test_a_job_longer_than_the_model_takes_is_refused_with_the_remedy(tiny_lm_dir: Path) -> None:
    config = LLMConfig(model=str(tiny_lm_dir), dtype="float32", max_model_tokens=64)
    with (
        open_language_model(config, seed=0) as llm,
        pytest.raises(ConfigError, match="takes 64: lower"),
    ):
        llm.answer_logprobs([(({"role": "user", "content": "x" * 80},), "y")])
