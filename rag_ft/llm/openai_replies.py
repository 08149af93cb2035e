"""What an OpenAI-compatible server answers -> replies and log-probabilities."""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from rag_ft.llm.http_client import Response
from rag_ft.llm.interface import ChatRequest, Reply, token_count


def read_chat(reply: Any) -> tuple[str, str, int, int]:
    """(text, finish reason, prompt tokens, completion tokens) of a chat completion.

    A reply without text that was cut off is an empty one: the model spent all its tokens on
    reasoning.
    """
    choice = reply["choices"][0]
    text, finish_reason = choice["message"]["content"], choice.get("finish_reason")
    if text is None and finish_reason == "length":
        text = ""
    if not isinstance(text, str):
        raise ValueError("no text in the reply")
    if finish_reason not in ("stop", "length"):
        raise ValueError(f"finish reason {json.dumps(finish_reason)}")
    usage = reply.get("usage")
    counts = usage if isinstance(usage, dict) else {}
    prompt_tokens, completion_tokens = counts.get("prompt_tokens"), counts.get("completion_tokens")
    return text, finish_reason, token_count(prompt_tokens), token_count(completion_tokens)


def read_logprobs(reply: Any, jobs: list[tuple[list[int], list[int]]]) -> list[np.ndarray]:
    """For each (prompt ids, answer ids) float32 (answer length,) log-probabilities."""
    choices = sorted(reply["choices"], key=lambda choice: choice["index"])
    if len(choices) != len(jobs):
        raise ValueError(f"{len(choices)} results for {len(jobs)} prompts")
    results = []
    for choice, (prompt, answer) in zip(choices, jobs, strict=True):
        # An entry per token of prompt and answer: {token id: {"logprob", "rank", ...}}.
        entries = choice["prompt_logprobs"][len(prompt) :]
        values = [
            entry[str(token)]["logprob"] for entry, token in zip(entries, answer, strict=True)
        ]
        scores = np.array(values, np.float32)
        if not np.isfinite(scores).all():
            raise ValueError("a log-probability that is no number")
        results.append(scores)
    return results


def to_reply(request: ChatRequest, response: Response) -> Reply:
    """The reply in a response to `request`, or the failed one that says why there is none."""
    if response.error:
        return Reply(
            request.id, "", "error", 0, 0, response.seconds, response.error, response.too_long
        )
    text, finish_reason, prompt_tokens, completion_tokens = response.result
    counts = (prompt_tokens, completion_tokens)
    return Reply(request.id, text, finish_reason, *counts, response.seconds)
