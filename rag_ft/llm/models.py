"""What every language model looks like to the stages, whatever runs it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from rag_ft.records import encodable

Messages = tuple[dict[str, str], ...]


@dataclass(frozen=True)
class ChatRequest:
    """`id` is chosen by the caller and comes back with the reply. `adapter` names one of the adapters the model was
    opened with; None is the base model. `schema` is a JSON schema the reply must satisfy."""

    id: str
    messages: Messages
    max_tokens: int
    temperature: float = 0.0
    schema: dict[str, Any] | None = None
    adapter: str | None = None


@dataclass(frozen=True)
class Reply:
    """`error` is None for a reply; otherwise why there is none (text is then empty): an error is never a text.

    `finish_reason` is "stop" or "length" (cut off at max_tokens). `seconds` is the request's latency. `refused` marks
    the error of a request that is too long for the model: it fails alone and tells nothing about the others.

    Wherever a reply comes from, a server, a model here or the file of replies, its text is what was said after
    thinking ("" where the thinking was cut off), and texts can be written as UTF-8.
    """

    id: str
    text: str
    finish_reason: str
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    error: str | None = None
    refused: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", encodable(without_thinking(self.text)))
        object.__setattr__(self, "error", None if self.error is None else encodable(self.error))


def without_thinking(text: str) -> str:
    """What a thinking model says after "</think>"; some templates write the opening "<think>" into the prompt."""
    _, closed, said = text.rpartition("</think>")
    if said.lstrip().startswith("<think>"):
        return ""
    return said.lstrip() if closed else text


class LanguageModel(Protocol):
    """Opened by `open_language_model`, used as a context manager: leaving it frees memory or stops the server.

    `name` identifies model, precision and adapters in cache keys. `window` is how many requests of the stream are
    decided on together: results depend on the window's content, so a resumed run asks for whole windows again
    (1 for servers, whose replies are independent).
    """

    name: str
    window: int

    def chat(self, requests: Iterable[ChatRequest]) -> Iterator[Reply]:
        """Exactly one reply per request, in any order, while requests are still being drawn (no barrier)."""
        ...

    def answer_logprobs(self, jobs: Sequence[tuple[Messages, str]]) -> list[np.ndarray]:
        """For each (messages, answer) float32 log p(answer token t | messages, answer tokens < t), the template's
        end-of-turn token excluded."""
        ...

    def count_tokens(self, messages: Messages) -> int:
        """Prompt tokens after the chat template."""
        ...

    def __enter__(self) -> LanguageModel: ...

    def __exit__(self, *_: object) -> None: ...


def open_language_model(
    config: Any, seed: int, adapters: dict[str, Any] | None = None, log_path: Path | None = None
) -> AbstractContextManager[Any]:
    """The model of `config` (an LLMConfig), with LoRA adapters {name: folder} beside it. A server we start writes its
    log to `log_path` (default: in a temporary folder).

    Raises:
        ConfigError: before any work (some cases on entering), when the model, the server or the hardware cannot do what
            is asked.
    """
    if config.backend == "transformers":
        from rag_ft.llm.transformers_model import TransformersModel

        return TransformersModel(config, seed, adapters or {})
    from rag_ft.llm.openai_client import open_server

    return open_server(config, adapters or {}, log_path)
