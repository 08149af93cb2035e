"""Measures of the model while it is trained: F1 of its answers, asked as serving asks, and its loss
on plain text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional

from rag_ft.evaluation.metrics.answers import score_answer
from rag_ft.fast.decoding import Row
from rag_ft.model_loading import position_limit
from rag_ft.prompts.prompt_set import is_abstention, parse_answer
from rag_ft.storage import batched

ROWS = 32  # of a batch: larger batches are no faster on CPUs, and few questions are asked
PLAIN_TEXT_TOKENS = 512  # read of each plain text


@dataclass(frozen=True)
class DevQuestion:
    """A question as token ids. `prompt` are the tokens that serving sends, with `num_chunks` chunks
    in them; `answers` are the accepted ones, empty where to abstain is right."""

    id: str
    document_id: str | None
    prompt: tuple[int, ...]
    num_chunks: int
    answers: tuple[str, ...]


def answer_f1(
    model: Any, tokenizer: Any, questions: Sequence[DevQuestion], abstain: str, max_tokens: int
) -> list[float]:
    """F1 (0-1) of each question's greedy answer of at most `max_tokens` tokens, in order."""
    rows = [Row(list(question.prompt), max_tokens) for question in questions]
    replies = continue_rows(model, tokenizer, rows)

    # Scored as the evaluation scores: after the citations are taken out of the reply.
    scores = []
    for question, reply in zip(questions, replies, strict=True):
        answer, _ = parse_answer(reply, question.num_chunks)
        abstained = is_abstention(answer, abstain)
        scores.append(score_answer(answer, question.answers, abstained)["f1"])
    return scores


def continue_rows(model: Any, tokenizer: Any, rows: Sequence[Row]) -> list[str]:
    """Fills the rows with a model in training, and returns their replies as text, in order."""
    from rag_ft.llm.plain_decoding import decode_rows
    from rag_ft.llm.transformers_backend import end_tokens

    # Prompts of similar length share a batch, so that little is padded.
    training, ends = model.training, end_tokens(model, tokenizer)
    model.eval()
    by_length = sorted(rows, key=lambda row: len(row.prompt))
    for batch in batched(by_length, ROWS):
        for _ in decode_rows(model, batch, ends, tokenizer.pad_token_id):
            pass  # the rows hold the replies
    model.train(training)
    return tokenizer.batch_decode([row.tokens for row in rows], skip_special_tokens=True)


def mean_f1(
    model: Any, tokenizer: Any, questions: Sequence[DevQuestion], abstain: str, max_tokens: int
) -> float:
    """Mean F1 (0-1), the same in every process: each process answers a part of the questions. All
    processes must call it, each with the whole model."""
    from accelerate import PartialState
    from accelerate.utils import reduce

    state = PartialState()
    mine = questions[state.process_index :: state.num_processes]
    total = float(sum(answer_f1(model, tokenizer, mine, abstain, max_tokens)))
    return float(reduce(torch.tensor(total, device=state.device), "sum")) / len(questions)


def plain_text_loss(model: Any, tokenizer: Any, texts: Sequence[str]) -> float:
    """Mean -log p (nats per token) of plain texts, by a model that is whole in this process; nan
    without texts."""
    total, count = 0.0, 0
    positions = position_limit(model.config) or PLAIN_TEXT_TOKENS
    model.eval()
    with torch.no_grad():
        for text in texts:
            encoded = tokenizer(text, return_tensors="pt", add_special_tokens=False)
            ids = encoded["input_ids"][:, : min(PLAIN_TEXT_TOKENS, positions)]
            if ids.shape[1] > 1:
                ids = ids.to(model.device)
                logits = model(input_ids=ids, use_cache=False).logits[0, :-1].float()
                total += float(functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
                count += ids.shape[1] - 1
    return total / count if count else math.nan
