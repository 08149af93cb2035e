"""From messages and an answer to token ids, with the boundary where the loss begins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rag_ft.errors import ConfigError
from rag_ft.llm.chat_template import render, safe_messages
from rag_ft.llm.models import Messages

IGNORED = -100  # what a label says where no loss is wanted


@dataclass(frozen=True)
class Encoded:
    """`input_ids[:num_prompt_tokens]` is what serving sends; the rest, up to the end of the turn, is learned."""

    input_ids: tuple[int, ...]
    num_prompt_tokens: int

    @property
    def labels(self) -> list[int]:
        return [IGNORED] * self.num_prompt_tokens + list(self.input_ids[self.num_prompt_tokens :])

    @property
    def num_answer_tokens(self) -> int:
        return len(self.input_ids) - self.num_prompt_tokens


class ChatTokens:
    """Tokenises as serving does: the prompt alone, then the answer, so that no token spans the boundary."""

    def __init__(self, tokenizer: Any) -> None:
        if tokenizer.eos_token_id is None:
            raise ConfigError("llm.model has no end-of-sequence token: choose an instruction-tuned model")
        self.tokenizer = tokenizer

    def encode(self, messages: Messages, answer: str) -> Encoded:
        """Ids of the prompt as it is served, and of the answer with its end of turn. What a template writes after the
        end-of-turn token is left out, since serving stops there."""
        prompt = render(self.tokenizer, messages)
        prompt_ids = self._ids(prompt)
        answer_ids = self._ids(self._completion(messages, answer, prompt))
        end = self.tokenizer.eos_token_id
        if end in answer_ids:
            answer_ids = answer_ids[: answer_ids.index(end) + 1]
        return Encoded((*prompt_ids, *answer_ids), len(prompt_ids))

    def _completion(self, messages: Messages, answer: str, prompt: str) -> str:
        """The answer and what the template ends a turn with; templates that end none get the end token."""
        turn = [*safe_messages(messages, self.tokenizer.all_special_tokens), {"role": "assistant", "content": answer}]
        whole = self.tokenizer.apply_chat_template(turn, tokenize=False)
        position = whole.rfind(answer) if answer else -1
        if whole.startswith(prompt):
            ending = whole[len(prompt) + len(answer) :]
        else:  # some templates write more into a prompt (an empty thinking block) than into a finished turn
            ending = whole[position + len(answer) :] if position >= 0 else ""
        return answer + (ending or self.tokenizer.eos_token)

    def _ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]
