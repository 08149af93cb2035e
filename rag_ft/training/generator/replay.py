"""Rehearsal: examples of what the base model already does, so that training loses less of it.

Self-distillation: the base model is asked once, and its own greedy replies are the targets. There
are two kinds of prompts: training questions without context (the target is what the base model
says, so reciting the answer is not rewarded), and the request to write a pair that a model wrote.
Plain text of the documents is not rehearsed: a loss on it would teach their content by heart, which
retrieval makes unnecessary.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rag_ft.config import LLMConfig
from rag_ft.llm.factory import open_language_model
from rag_ft.llm.interface import ChatRequest, Messages
from rag_ft.llm.reply_cache import cached_chat
from rag_ft.prompts.answer_prompt import AnswerPrompt
from rag_ft.schema import Chunk, QAPair
from rag_ft.training.generator.context_layouts import Encode, Example

MAX_REPLY_TOKENS = 96


@dataclass(frozen=True)
class ReplayPrompt:
    """A request to the base model; `document_id` is that of the pair it is made from, `about` the
    pair and the chunk in it."""

    id: str
    document_id: str | None
    messages: Messages
    about: tuple[str, ...]


def num_replayed(num_examples: int, share: float) -> int:
    """How many rehearsal examples, added to `num_examples`, are `share` (0-1) of all."""
    return round(num_examples * share / (1 - share))


def replay_prompts(
    pairs: Sequence[QAPair],
    chunks: Mapping[str, Chunk],
    prompt: AnswerPrompt,
    count: int,
    seed: int,
) -> list[ReplayPrompt]:
    """At most `count` prompts, one a pair, from a sample that `seed` decides. Every second one asks
    to write the pair, where a model wrote it from a chunk in `chunks` (by id)."""
    rng = random.Random(f"{seed}:replay")
    asked = []
    for number, pair in enumerate(rng.sample(list(pairs), min(count, len(pairs)))):
        messages = prompt.prompts.closed_book(pair.question)
        chunk = chunks.get(pair.chunk_id or "")
        one_chunk = pair.kind not in ("multi_hop", "unanswerable")
        writable = one_chunk and pair.kind in prompt.prompts.kinds
        if number % 2 == 1 and writable and chunk is not None and pair.evidence is not None:
            text = prompt.text(chunk)
            messages = prompt.prompts.generate(text, pair.evidence.text, pair.kind)
        about = (pair.id, *filter(None, (pair.chunk_id,)))
        asked.append(ReplayPrompt(f"replay:{pair.id}", pair.document_id, messages, about))
    return asked


def replay_examples(
    llm: LLMConfig,
    seed: int,
    prompts: Sequence[ReplayPrompt],
    encode: Encode,
    max_tokens: int,
    path: Path,
) -> Iterator[Example]:
    """The base model's own replies as targets, without those that are cut off, empty, or longer
    than `max_tokens` with their prompt.

    The model runs in this process, whatever backend serves it otherwise. Replies are kept in
    `path`, so that a resumed stage does not ask again.
    """
    if not prompts:
        return
    local = llm.model_copy(update={"backend": "transformers"})
    requests = [ChatRequest(p.id, p.messages, MAX_REPLY_TOKENS, about=p.about) for p in prompts]
    with open_language_model(local, seed) as model:
        replies = {reply.id: reply for reply in cached_chat(model, requests, path, "replay")}
    for prompt in prompts:
        reply = replies[prompt.id]
        text = reply.text.strip()
        if reply.error is None and reply.finish_reason == "stop" and text:
            encoded = encode(prompt.messages, text)
            if len(encoded.input_ids) <= max_tokens:
                document_id = prompt.document_id
                yield Example(prompt.id, "replay", prompt.messages, text, (), encoded, document_id)
