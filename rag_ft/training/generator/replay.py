"""Examples that keep what the base model does already, so that learning to read does not unlearn the rest.

Self-distillation: the base model's own greedy replies, asked once, are the targets. Two kinds of prompts: training
questions with no context (whatever the base says without a context, it goes on saying: reciting is not rewarded),
and, where a pair was written by a model, writing that pair. Plain text of the corpus is not replayed: a loss on the
documents themselves would teach their content by heart, which retrieval is there to avoid.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from rag_ft.config import Config
from rag_ft.llm.factory import open_language_model
from rag_ft.llm.interface import ChatRequest, Messages
from rag_ft.llm.reply_cache import cached_chat
from rag_ft.prompts.prompt_set import Prompts
from rag_ft.schema import Chunk, QAPair
from rag_ft.training.generator.context_layouts import Encode, Example

MAX_REPLY_TOKENS = 96


def num_replayed(num_examples: int, share: float) -> int:
    """So many more examples that they are `share` of all."""
    return round(num_examples * share / (1 - share))


def replay_prompts(
    pairs: Sequence[QAPair],
    chunks: dict[str, Chunk],
    prompts: Prompts,
    render: Callable[[Chunk], str],
    count: int,
    seed: int,
) -> list[tuple[str, Messages]]:
    """`count` (id, prompt), every second one asking for a pair where that can be: a sample decided by `seed`."""
    rng = random.Random(f"{seed}:replay")
    chosen = rng.sample(list(pairs), min(count, len(pairs)))
    return [
        (f"replay:{pair.id}", _prompt(pair, chunks, prompts, render, n % 2 == 1))
        for n, pair in enumerate(chosen)
    ]


def replay_examples(
    config: Config, asked: Sequence[tuple[str, Messages]], encode: Encode, path: Path
) -> Iterator[Example]:
    """The base model's own replies as targets; replies that are cut off, empty, or too long to train on are left out.

    The model is asked in this process whatever serves it otherwise; replies are kept in `path`, so that a killed
    stage does not ask again.
    """
    if not asked:
        return
    local = config.llm.model_copy(update={"backend": "transformers"})
    messages = dict(asked)
    requests = [ChatRequest(name, prompt, MAX_REPLY_TOKENS) for name, prompt in asked]
    with open_language_model(local, config.run.seed) as model:
        replies = {reply.id: reply for reply in cached_chat(model, requests, path, "replay")}
    for name, prompt in messages.items():
        reply = replies[name]
        if reply.error is None and reply.finish_reason == "stop" and reply.text.strip():
            encoded = encode(prompt, reply.text.strip())
            if len(encoded.input_ids) <= config.train_generator.advanced.max_tokens:
                yield Example(name, "replay", prompt, reply.text.strip(), (), encoded)


def _prompt(
    pair: QAPair,
    chunks: dict[str, Chunk],
    prompts: Prompts,
    render: Callable[[Chunk], str],
    write: bool,
) -> Messages:
    chunk = chunks.get(pair.chunk_id or "")
    writable = pair.kind in prompts.kinds and pair.kind not in ("multi_hop", "unanswerable")
    if write and writable and chunk is not None and pair.evidence is not None:
        return prompts.generate(render(chunk), pair.evidence.text, pair.kind)
    return prompts.closed_book(pair.question)
