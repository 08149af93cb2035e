"""What a stage sees of a language model: requests, replies, and the protocol of every backend."""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Iterable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from rag_ft.storage import encodable
from rag_ft.text import redact

Messages = tuple[dict[str, str], ...]
# How every backend writes the JSON of a schema: as json.dumps does, so that a weak model cannot
# fill its tokens with white space (options of llguidance).
JSON_STYLE: dict[str, Any] = {
    "whitespace_flexible": False,
    "item_separator": ", ",
    "key_separator": ": ",
}


MOST_TOKENS = 2**31  # a larger count is none


@dataclass(frozen=True)
class ChatRequest:
    """A chat to be continued by at most `max_tokens` tokens.

    The caller chooses `id`, which comes back with the reply. `adapter` names one of the adapters
    that the model was opened with; None is the base model. `schema` is a JSON schema for the reply.
    `about` are the ids of the chunks in the prompt and of the pair that is asked: they stand beside
    the stored reply, so that it goes when its document is forgotten.
    """

    id: str
    messages: Messages
    max_tokens: int
    temperature: float = 0.0
    schema: dict[str, Any] | None = None
    adapter: str | None = None
    about: tuple[str, ...] = ()


@dataclass(frozen=True)
class Reply:
    """What a model wrote, or the `error` that says why there is nothing; `text` is then empty.

    `finish_reason` is "stop", "length" (cut off at max_tokens) or "error". `seconds` is the
    request's latency. `refused` marks the error of a request that exceeds the model's context,
    or whose schema cannot be enforced; other requests are not affected. The text begins after the
    model's reasoning ("" where the reasoning was cut off) and is valid UTF-8, also where the
    server's reply is not.
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
        error = None if self.error is None else redact(encodable(str(self.error)))
        object.__setattr__(self, "error", error)
        for name in ("prompt_tokens", "completion_tokens"):
            object.__setattr__(self, name, token_count(getattr(self, name)))
        seconds = self.seconds if isinstance(self.seconds, int | float) else 0.0
        object.__setattr__(self, "seconds", seconds if math.isfinite(seconds) else 0.0)


def token_count(value: Any) -> int:
    """A number of tokens that a server or a file claims; 0 where it is none ("many", NaN, null)."""
    is_count = isinstance(value, int) and not isinstance(value, bool)
    return value if is_count and 0 <= value < MOST_TOKENS else 0


def without_thinking(text: str) -> str:
    """The text after "</think>"; some templates write the opening "<think>" into the prompt."""
    _, closed, answer = text.rpartition("</think>")
    if answer.lstrip().startswith("<think>"):
        return ""
    return answer.lstrip() if closed else text


class Stream(Protocol):
    """Opened by `LanguageModel.streaming`."""

    def __call__(self, request: ChatRequest) -> AsyncGenerator[str | Reply, None]:
        """One reply: pieces of text as they come, then the Reply, which has all of the text.

        The pieces contain the model's reasoning too. Closing the generator ends the model's work
        on the request.
        """
        ...


class LanguageModel(Protocol):
    """Opened by `factory.open_language_model` as a context manager.

    Leaving the context frees the memory or stops the server. `name` identifies model, precision and
    adapters in cache keys. `window` is the number of requests whose replies depend on each other,
    so that a resumed run sends whole windows again (1 for servers).
    """

    name: str
    window: int

    def chat(self, requests: Iterable[ChatRequest]) -> Iterator[Reply]:
        """Exactly one reply per request, in any order.

        Replies come while requests are still being drawn from the iterable.
        """
        ...

    def streaming(self) -> AbstractAsyncContextManager[Stream]:
        """Replies as the model writes them, while the context is open, in one event loop.

        A process that streams does not call `chat`.
        """
        ...

    def answer_logprobs(self, jobs: Sequence[tuple[Messages, str]]) -> list[np.ndarray]:
        """For each (messages, answer) the natural log-probability of each token of the answer.

        An array is float32 (answer tokens,): log p(answer token | messages, earlier answer tokens).
        The template's end-of-turn token is not part of the answer.
        """
        ...

    def count_tokens(self, messages: Messages) -> int:
        """Prompt tokens after the chat template."""
        ...

    def __enter__(self) -> LanguageModel: ...

    def __exit__(self, *_: object) -> None: ...
