"""Questions put to the weights as they are in training: the F1 of their answers, asked as serving asks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rag_ft.evaluation.metrics.answers import score_answer
from rag_ft.prompts.prompt_set import is_abstention, parse_answer
from rag_ft.storage import batched

ROWS = 32  # of a batch: more fill a CPU no better, and few questions are asked


@dataclass(frozen=True)
class Question:
    """`prompt` are the tokens that serving sends, over `num_chunks` chunks; `answers` those accepted, none where right
    is to abstain."""

    id: str
    document_id: str | None
    prompt: tuple[int, ...]
    num_chunks: int
    answers: tuple[str, ...]


def answer_f1(
    model: Any, tokenizer: Any, questions: Sequence[Question], abstain: str, max_tokens: int
) -> list[float]:
    """F1 (0-1) of each question's greedy answer of at most `max_tokens` tokens, in order."""
    from rag_ft.fast.decoding import Row, decode
    from rag_ft.llm.transformers_backend import end_tokens

    training, ends = model.training, end_tokens(model, tokenizer)
    model.eval()
    rows = [Row(list(question.prompt), max_tokens) for question in questions]
    by_length = sorted(rows, key=lambda row: len(row.prompt))
    for batch in batched(by_length, ROWS):
        for _ in decode(model, batch, ends, tokenizer.pad_token_id):
            pass  # the rows hold the replies
    model.train(training)
    said = tokenizer.batch_decode([row.tokens for row in rows], skip_special_tokens=True)
    return [_f1(question, text, abstain) for question, text in zip(questions, said, strict=True)]


def mean_f1(
    model: Any, tokenizer: Any, questions: Sequence[Question], abstain: str, max_tokens: int
) -> float:
    """Mean F1 (0-1), the same in every process: each answers its share. All processes must come here, each with the
    whole model."""
    import torch
    from accelerate import PartialState
    from accelerate.utils import reduce

    state = PartialState()
    mine = questions[state.process_index :: state.num_processes]
    total = float(sum(answer_f1(model, tokenizer, mine, abstain, max_tokens)))
    return float(reduce(torch.tensor(total, device=state.device), "sum")) / len(questions)


def _f1(question: Question, text: str, abstain: str) -> float:
    answer, _ = parse_answer(text, question.num_chunks)
    return score_answer(answer, question.answers, is_abstention(answer, abstain))["f1"]
