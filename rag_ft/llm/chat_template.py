"""From messages to prompt tokens.

Generation, scoring, training and serving render prompts in the same way.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rag_ft.errors import ConfigError, first_line
from rag_ft.llm.interface import Messages
from rag_ft.text import escape_control_tokens

# Replies are short and parsed as they come, so reasoning models answer without reasoning.
# Templates that have no such option ignore it.
TEMPLATE_OPTIONS = {"enable_thinking": False}
SENTINEL = "AnswerStandsHere"


def load_chat_tokenizer(folder: Path) -> Any:
    """The fast tokenizer of a model folder. Its chat template is tried on one question.

    Raises:
        ConfigError: the folder has no tokenizer, or none that can render a chat.
    """
    from jinja2 import TemplateError
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder)
    except (OSError, ValueError, KeyError) as error:
        raise ConfigError(
            f"{folder} has no tokenizer that loads ({first_line(error)}): save the model's "
            "tokenizer beside its weights"
        ) from error
    if not tokenizer.chat_template:
        raise ConfigError(
            f"{folder} has no chat template: use an instruction-tuned model, or add "
            "chat_template.jinja"
        )
    try:
        render(tokenizer, ({"role": "user", "content": "Question"},))
    except (TemplateError, ValueError, TypeError) as error:
        raise ConfigError(
            f"the chat template of {folder} cannot render a question ({first_line(error)}): "
            "correct chat_template.jinja"
        ) from error
    return tokenizer


def safe_messages(messages: Messages, specials: Iterable[str] = ()) -> Messages:
    """The messages with every control token escaped outside the assistant's turns.

    `specials` are the special tokens of the model's tokenizer, where it is known. A document can
    then neither end its turn nor open another one.
    """
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
    """The text that the template puts after an answer, up to its last mark.

    Where the template puts nothing there, it is the tokenizer's end token.
    """
    turn = [{"role": "user", "content": "Question"}, {"role": "assistant", "content": SENTINEL}]
    whole = tokenizer.apply_chat_template(turn, tokenize=False, **TEMPLATE_OPTIONS)
    return whole.partition(SENTINEL)[2].rstrip() or tokenizer.eos_token


def encode_prompts(tokenizer: Any, batch: Sequence[Messages]) -> list[list[int]]:
    """Prompt token ids of each. Only the template adds special tokens, as in servers."""
    if not batch:
        return []
    return tokenizer([render(tokenizer, m) for m in batch], add_special_tokens=False)["input_ids"]


def encode_answers(tokenizer: Any, answers: Sequence[str]) -> list[list[int]]:
    """Answer token ids. Tokenised without the prompt, so that no token spans the boundary."""
    if not answers:
        return []
    return tokenizer(list(answers), add_special_tokens=False)["input_ids"]
