"""From messages and an answer to token ids, with the boundary where the loss begins."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from rag_ft.errors import ConfigError
from rag_ft.llm.chat_template import (
    answer_ending,
    end_token_ids,
    load_chat_tokenizer,
    render,
    special_tokens,
)
from rag_ft.llm.interface import Messages
from rag_ft.model_hub import resolve
from rag_ft.text import escape_control_tokens

IGNORED = -100  # the label of a token without a loss, as PyTorch's cross_entropy ignores it


@dataclass(frozen=True)
class Encoded:
    """A prompt and its answer, which ends with the turn. The loss is taken over the answer."""

    input_ids: tuple[int, ...]
    num_prompt_tokens: int

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Encoded:
        """As it was written to a file."""
        return cls(tuple(row["input_ids"]), row["num_prompt_tokens"])

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """What serving sends."""
        return self.input_ids[: self.num_prompt_tokens]

    @property
    def answer_ids(self) -> tuple[int, ...]:
        """The tokens with a loss."""
        return self.input_ids[self.num_prompt_tokens :]

    @property
    def labels(self) -> list[int]:
        """A label per token: IGNORED in the prompt, the token itself in the answer."""
        return [IGNORED] * self.num_prompt_tokens + list(self.answer_ids)

    @property
    def num_answer_tokens(self) -> int:
        """The number of tokens with a loss."""
        return len(self.answer_ids)


class ChatTokens:
    """Tokenises as serving does: the prompt alone, then the answer, so that no token spans both."""

    def __init__(self, tokenizer: Any, ends: Collection[int] = ()) -> None:
        """`ends`: ids of the tokens that end a reply beside the tokenizer's own."""
        if tokenizer.eos_token_id is None:
            raise ConfigError(
                "llm.model has no end-of-sequence token: choose an instruction-tuned model"
            )
        self.tokenizer = tokenizer
        self._ending = answer_ending(tokenizer)
        self._ends = {tokenizer.eos_token_id, *ends}

    def encode(self, messages: Messages, answer: str) -> Encoded:
        """Ids of the prompt as it is served, and of the answer with its end of turn.

        Serving stops at the end-of-turn token, so what a template writes after it is left out. Some
        templates also write into a finished turn before the answer (an empty thinking block): the
        prompt of serving either holds that already or does without, so it is not added here.
        """
        prompt_ids = self._ids(render(self.tokenizer, messages))
        # A control token in an answer would end it, or open another turn.
        safe = escape_control_tokens(answer, special_tokens(self.tokenizer))
        answer_ids = self._ids(safe + self._ending)
        end = next((i for i, id in enumerate(answer_ids) if id in self._ends), None)
        if end is not None:
            answer_ids = answer_ids[: end + 1]
        return Encoded((*prompt_ids, *answer_ids), len(prompt_ids))

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]


def load_chat_tokens(model: str, trust_code: bool = False) -> ChatTokens:
    """The tokenizer of `model` (a folder or a hub id) as training uses it. `trust_code`: whether
    Python code in its folder may run.

    Raises:
        ConfigError: there is no such model, or it has no chat template.
    """
    folder = resolve(model, "llm")
    tokenizer = load_chat_tokenizer(folder, trust_code)
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return ChatTokens(tokenizer, end_token_ids(folder, tokenizer))
