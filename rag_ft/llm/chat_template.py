"""From messages to prompt tokens.

Generation, scoring, training and serving render prompts in the same way.
"""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from rag_ft.errors import ConfigError, first_line
from rag_ft.llm.interface import Messages
from rag_ft.model_files import read_json
from rag_ft.model_loading import (
    check_tokenizer,
    check_tokenizer_code,
    load_errors,
    loading_error,
)
from rag_ft.text import escape_control_tokens

# Replies are short and parsed as they come, so reasoning models answer without reasoning.
# Templates that have no such option ignore it.
TEMPLATE_OPTIONS = {"enable_thinking": False}
SENTINEL = "AnswerStandsHere"
TEMPLATE_SECONDS = 10


def load_chat_tokenizer(folder: Path, trust_code: bool = False) -> Any:
    """The fast tokenizer of a model folder. Its chat template is tried on one question.

    `trust_code`: whether Python code in the folder may run.

    Raises:
        ConfigError: the folder has no tokenizer, or none that can render a chat in the model's
            vocabulary.
    """
    from jinja2 import TemplateError
    from transformers import AutoTokenizer

    check_tokenizer_code(folder, "llm", trust_code)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=trust_code)
    except load_errors() as error:
        if "trust_remote_code" in str(error) or not isinstance(error, OSError | ValueError):
            raise loading_error(folder, "llm", error) from error
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
        sample = _in_time(folder, lambda: _sample_chat(tokenizer))
    except (TemplateError, ValueError, TypeError) as error:
        raise ConfigError(
            f"the chat template of {folder} cannot render a question ({first_line(error)}): "
            "correct chat_template.jinja, or use another model"
        ) from error
    if SENTINEL not in sample:
        raise ConfigError(
            f"the chat template of {folder} leaves out what the user asks: correct "
            "chat_template.jinja, or use another model"
        )
    check_vocabulary(folder, tokenizer, sample)
    return tokenizer


def _sample_chat(tokenizer: Any) -> str:
    """The prompt of a question, and what stands behind an answer."""
    question = render(tokenizer, ({"role": "user", "content": SENTINEL},))
    return question + answer_ending(tokenizer)


def _in_time(folder: Path, work: Callable[[], str]) -> str:
    """What `work` returns, on a thread that is given up after TEMPLATE_SECONDS: a template is code
    from the model's folder, and it may loop for ever."""
    done: list[str] = []
    failed: list[Exception] = []

    def run() -> None:
        try:
            done.append(work())
        except Exception as error:  # raised again by the caller's thread
            failed.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(TEMPLATE_SECONDS)
    if failed:
        raise failed[0]
    if not done:
        raise ConfigError(
            f"the chat template of {folder} takes longer than {TEMPLATE_SECONDS} seconds for one "
            "question: correct chat_template.jinja, or use another model"
        )
    return done[0]


def check_vocabulary(folder: Path, tokenizer: Any, sample: str) -> None:
    """Makes sure that the model has a row for every token of `sample` and of plain texts.

    Raises:
        ConfigError: see check_tokenizer.
    """
    path = folder / "config.json"
    model = read_json(path) if path.exists() else {}
    inner = model.get("text_config")
    rows = model.get("vocab_size") or (inner.get("vocab_size") if isinstance(inner, dict) else 0)
    if not isinstance(rows, int) or not rows:
        return
    used = set(tokenizer(sample, add_special_tokens=False)["input_ids"])
    check_tokenizer(folder, tokenizer, rows, used)


def end_token_ids(folder: Path, tokenizer: Any) -> frozenset[int]:
    """The tokens that end a reply, by the folder's generation_config.json or config.json and by the
    tokenizer; empty where none is named."""
    found: set[int | None] = {tokenizer.eos_token_id}
    for name in ("generation_config.json", "config.json"):
        path = folder / name
        named = read_json(path).get("eos_token_id") if path.exists() else None
        if named is not None:
            found |= set(named) if isinstance(named, list) else {named}
            break
    return frozenset(id for id in found if id is not None)


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


def special_tokens(tokenizer: Any) -> tuple[str, ...]:
    """Every token that the tokenizer reads as a control token: also those that tokenizer.json marks
    as special without naming them in the map of special tokens."""
    return _special_tokens(tokenizer, len(tokenizer))


@functools.lru_cache(maxsize=8)  # some models have thousands
def _special_tokens(tokenizer: Any, size: int) -> tuple[str, ...]:
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    marked = (str(token.content) for token in added if token.special)
    return tuple(dict.fromkeys([*tokenizer.all_special_tokens, *marked]))


def render(tokenizer: Any, messages: Messages) -> str:
    """The prompt text up to and including the opening of the assistant's turn."""
    safe = safe_messages(messages, special_tokens(tokenizer))
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
    texts = [render(tokenizer, m) for m in batch]
    # Callers check the length, so the tokenizer need not warn of it.
    return tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"]


def encode_answers(tokenizer: Any, answers: Sequence[str]) -> list[list[int]]:
    """Answer token ids. Tokenised without the prompt, so that no token spans the boundary."""
    if not answers:
        return []
    specials = special_tokens(tokenizer)
    safe = [escape_control_tokens(answer, specials) for answer in answers]
    return tokenizer(safe, add_special_tokens=False)["input_ids"]
