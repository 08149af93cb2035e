"""Scores of chunks by a language model: exact, each computed once, kept for good."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rag_ft.config import LLMConfig
from rag_ft.llm.factory import open_language_model
from rag_ft.prompts.prompt_set import load_prompts
from rag_ft.schema import Chunk, QAPair
from rag_ft.storage import read_rows
from rag_ft.training.retriever.lm_supervision import (
    estimate_cost,
    make_jobs,
    missing_jobs,
    read_scores,
    score_jobs,
)

PROMPTS = load_prompts("compact", "I don't know.")
CHUNKS = {
    n: Chunk(n, n[0], "", text, 0, len(text), 4, "train")
    for n, text in {"a#0": "Ada is 7.", "b#0": "Bo."}.items()
}
PAIRS = [
    QAPair(f"q{n}", question, (answer,), "a#0", "a", None, "factoid", "train", "imported")
    for n, (question, answer) in enumerate([("how old is Ada", "7 years"), ("who is 7", "Ada")])
]


def jobs_of(name: str = "m") -> list[Any]:
    return make_jobs(((p, list(CHUNKS)) for p in PAIRS), CHUNKS, PROMPTS, name, lambda c: c.text)


class Counting:
    """Log-probability -1 for every character; stops working after `limit` calls."""

    name = "counting"

    def __init__(self, limit: int = 100) -> None:
        self.seen: list[str] = []
        self.limit = limit

    def answer_logprobs(self, jobs: Sequence[tuple[Any, str]]) -> list[np.ndarray]:
        if not self.limit:
            raise KeyboardInterrupt
        self.limit -= 1
        self.seen += [answer for _, answer in jobs]
        return [np.full(len(answer), -1.0, np.float32) for _, answer in jobs]

    def count_tokens(self, messages: Any) -> int:
        return 100


def test_scores_equal_a_plain_step_by_step_computation(tiny_lm_dir: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = tmp_path / "lm_scores.jsonl"
    with open_language_model(LLMConfig(model=str(tiny_lm_dir), dtype="float32"), seed=0) as model:
        jobs = jobs_of(model.name)
        score_jobs(jobs, model, path)
    plain = AutoModelForCausalLM.from_pretrained(tiny_lm_dir, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(tiny_lm_dir)
    scores = read_scores(path)
    for job in jobs:
        ids = tokenizer.apply_chat_template(
            list(job.messages), add_generation_prompt=True, return_dict=True
        )["input_ids"]
        logprobs = []
        for token in tokenizer(job.answer, add_special_tokens=False)["input_ids"]:
            with torch.no_grad():
                logits = plain(torch.tensor([ids])).logits[0, -1]
            logprobs.append(torch.log_softmax(logits, -1)[token].item())
            ids = [*ids, token]
        assert scores[job.key] == pytest.approx(np.mean(logprobs), abs=1e-4)


def test_rows_name_pair_and_chunk_and_hold_the_mean_not_the_sum(tmp_path: Path) -> None:
    path = tmp_path / "lm_scores.jsonl"
    assert score_jobs(jobs_of(), Counting(), path) == 4
    rows = list(read_rows(path))
    assert [(row["pair_id"], row["chunk_id"]) for row in rows] == [
        (q, c) for c in ("a#0", "b#0") for q in ("q0", "q1")
    ]
    assert {row["mean_logprob"] for row in rows} == {-1.0}
    assert [row["num_tokens"] for row in rows] == [7, 3, 7, 3]


def test_questions_over_one_chunk_come_together_so_that_a_block_shares_its_beginning() -> None:
    from rag_ft.fast.answer_logprobs import plan_batches

    text = "It stood in the hall all summer. " * 10
    chunks = {
        f"c{n}#0": Chunk(f"c{n}#0", f"c{n}", "", f"Box {n}. {text}", 0, 9, 9, "train")
        for n in range(6)
    }
    jobs = make_jobs(
        ((pair, list(chunks)) for pair in PAIRS), chunks, PROMPTS, "m", lambda c: c.text
    )
    block = [
        (list(str(job.messages).encode()), list(job.answer.encode()))
        for job in jobs[: len(jobs) // 2]
    ]
    shared = {i: common for plan, _ in plan_batches(block, 100_000) for i, common in plan.items()}
    assert len(shared) == 6
    assert min(shared.values()) > len(text)


def test_what_is_in_the_cache_is_not_scored_again(tmp_path: Path) -> None:
    path, model = tmp_path / "lm_scores.jsonl", Counting()
    score_jobs(missing_jobs(jobs_of(), path)[:1], model, path)
    score_jobs(missing_jobs(jobs_of(), path), model, path)
    assert len(model.seen) == 4
    assert missing_jobs(jobs_of(), path) == []


def test_a_kill_between_blocks_loses_and_doubles_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rag_ft.training.retriever import lm_supervision

    monkeypatch.setattr(lm_supervision, "BLOCK", 1)
    whole, broken = tmp_path / "whole.jsonl", tmp_path / "broken.jsonl"
    score_jobs(jobs_of(), Counting(), whole)
    with pytest.raises(KeyboardInterrupt):
        score_jobs(jobs_of(), Counting(limit=2), broken)
    with broken.open("ab") as out:
        out.write(b'{"key": "torn')
    score_jobs(missing_jobs(jobs_of(), broken), Counting(), broken)
    assert broken.read_bytes() == whole.read_bytes()


def test_another_model_prompt_or_answer_is_another_key() -> None:
    keys = {job.key for job in jobs_of("m")}
    assert keys.isdisjoint(job.key for job in jobs_of("n"))
    other = load_prompts("compact", "No idea.")
    titled = make_jobs(((p, list(CHUNKS)) for p in PAIRS), CHUNKS, other, "m", lambda c: c.text)
    assert keys.isdisjoint(job.key for job in titled)


def test_the_log_says_the_cost_before_it_starts(
    caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    assert "400 answers" in estimate_cost(jobs_of() * 100, Counting())
    assert "0.04 million prompt tokens" in estimate_cost(jobs_of() * 100, Counting())
    with caplog.at_level("INFO"):
        score_jobs(jobs_of(), Counting(), tmp_path / "lm_scores.jsonl")
    assert "scoring 4 answers with counting" in caplog.text


def test_no_jobs_cost_nothing(tmp_path: Path) -> None:
    assert score_jobs([], Counting(), tmp_path / "lm_scores.jsonl") == 0
    assert read_scores(tmp_path / "none.jsonl") == {}
