"""Questions that the model answers before, during and after its training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rag_ft.prompts.answer_prompt import AnswerPrompt
from rag_ft.prompts.prompt_set import Prompts
from rag_ft.schema import QAPair
from rag_ft.training.generator.context_layouts import (
    Context,
    Encode,
    Example,
    LayoutSettings,
    fit_to_length,
)
from rag_ft.training.generator.dev_f1 import DevQuestion
from rag_ft.training.generator.retrieved import Retrieved
from rag_ft.training.generator.tokenization import Encoded


def make_questions(
    prompt: AnswerPrompt,
    found: Retrieved,
    pairs: Sequence[QAPair],
    encode: Encode,
    layout: LayoutSettings,
) -> Iterator[DevQuestion]:
    """The questions of the pairs as they are served: over the top chunks, as many as fit."""
    for pair in pairs:
        served = tuple(found.chunks[i] for i in found.hits(pair.id)[: layout.top_k])
        context = Context(pair.id, pair.question, served, gold=frozenset(), answer=None)
        example = fit_to_length(context, prompt.messages, prompt.prompts.abstain, encode, layout)
        if isinstance(example, Example):
            yield _dev_question(pair, example.encoded, len(example.chunk_ids))


def closed_book_questions(
    prompts: Prompts, pairs: Sequence[QAPair], encode: Encode, max_tokens: int
) -> Iterator[DevQuestion]:
    """The questions of the answerable pairs, without any context, that fit into `max_tokens` with
    their answers."""
    for pair in pairs:
        if pair.answerable:
            encoded = encode(prompts.closed_book(pair.question), pair.answer)
            if len(encoded.input_ids) <= max_tokens:
                yield _dev_question(pair, encoded, 0)


def question_from(row: dict[str, Any]) -> DevQuestion:
    """A question as it was written to a file."""
    lists = {name: tuple(row[name]) for name in ("prompt", "answers")}
    return DevQuestion(**{**row, **lists})


def _dev_question(pair: QAPair, encoded: Encoded, num_chunks: int) -> DevQuestion:
    answers = pair.answers if pair.answerable else ()
    return DevQuestion(pair.id, pair.document_id, encoded.prompt_ids, num_chunks, answers)
