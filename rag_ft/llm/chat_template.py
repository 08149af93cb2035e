"""From messages to prompt tokens: the same rendering for generation, scoring, training and serving."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rag_ft.errors import ConfigError
from rag_ft.llm.interface import Messages
from rag_ft.text import escape_control_tokens

# Answers are to be short and are read as they are: reasoning models answer at once. Templates without a thinking block
# do not look at it.
TEMPLATE_OPTIONS = {"enable_thinking": False}
SENTINEL = "AnswerStandsHere"


def load_chat_tokenizer(folder: Path) -> Any:
    """The fast tokenizer of a model folder, checked to have a chat template and an end token.

    Raises:
        ConfigError: no tokenizer, or none that can render a chat.
    """
    from jinja2 import TemplateError
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        first = str(error).splitlines()[0]
        raise ConfigError(
            f"{folder} has no tokenizer that loads ({first}): save one beside the weights"
        ) from error
    if not tokenizer.chat_template:
        raise ConfigError(
            f"{folder} has no chat template: use an instruction-tuned model, or add chat_template.jinja"
        )
    try:
        render(tokenizer, ({"role": "user", "content": "Question"},))
    except (TemplateError, ValueError, TypeError) as error:
        first = str(error).splitlines()[0]
        raise ConfigError(
            f"the chat template of {folder} renders no question ({first}): mend chat_template"
        ) from error
    return tokenizer


def safe_messages(messages: Messages, specials: Iterable[str] = ()) -> Messages:
    """The messages with every control token escaped outside the assistant's turns; `specials` are those of the model's
    tokenizer."""
    specials = list(specials)
    return tuple(
        m
        if m["role"] == "assistant"
        else {**m, "content": escape_control_tokens(m["content"], specials)}
        for m in messages
    )


def render(tokenizer: Any, messages: Messages) -> str:
    """The prompt text up to and including the opening of the assistant's turn."""
    safe = safe_messages(messages, tokenizer.all_special_tokens)
    return tokenizer.apply_chat_template(
        list(safe), tokenize=False, add_generation_prompt=True, **TEMPLATE_OPTIONS
    )


def answer_ending(tokenizer: Any) -> str:
    """What the template ends an answer with, up to its last mark; where it ends none, the end token."""
    turn = [{"role": "user", "content": "Question"}, {"role": "assistant", "content": SENTINEL}]
    whole = tokenizer.apply_chat_template(turn, tokenize=False, **TEMPLATE_OPTIONS)
    return whole.partition(SENTINEL)[2].rstrip() or tokenizer.eos_token


def encode_prompts(tokenizer: Any, batch: Sequence[Messages]) -> list[list[int]]:
    """Prompt token ids of each; specials come from the template alone, as servers do it."""
    if not batch:
        return []
    return tokenizer([render(tokenizer, m) for m in batch], add_special_tokens=False)["input_ids"]


def encode_answers(tokenizer: Any, answers: Sequence[str]) -> list[list[int]]:
    """Answer token ids, tokenised apart from the prompt so that no token spans the boundary."""
    if not answers:
        return []
    return tokenizer(list(answers), add_special_tokens=False)["input_ids"]
