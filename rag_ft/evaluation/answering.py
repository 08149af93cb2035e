"""Asks the generator what the systems ask: each distinct prompt once, with one model whose adapter
is switched."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rag_ft.config import LLMConfig
from rag_ft.engine.language_model import prepare
from rag_ft.errors import DataError
from rag_ft.evaluation.systems import Answered, Ask
from rag_ft.llm.interface import ChatRequest, Messages, Reply
from rag_ft.llm.reply_cache import cached_chat
from rag_ft.model_hub import with_tuned
from rag_ft.prompts.answer_prompt import AnswerPrompt
from rag_ft.schema import Chunk, Prediction, Reject
from rag_ft.session import Session
from rag_ft.storage import content_hash


@dataclass(frozen=True)
class Prompting:
    """How an Ask becomes messages."""

    prompt: AnswerPrompt
    chunks: Mapping[str, Chunk]

    def messages(self, ask: Ask) -> Messages:
        """The prompt of one Ask: without context, with its passages, or with its chunks.

        Raises KeyError for a chunk that is not among `chunks`.
        """
        if ask.system.startswith("closed_book"):
            return self.prompt.prompts.closed_book(ask.pair.question)
        if ask.passages:
            return self.prompt.prompts.answer(ask.pair.question, ask.passages)
        return self.prompt.messages(ask.pair.question, (self.chunks[i] for i in ask.chunk_ids))


@dataclass(frozen=True)
class Requests:
    """The distinct prompts of some asks by key, in order. A prompt is rendered when it is drawn, so
    that memory holds only their keys."""

    asks: Mapping[str, Ask]
    prompting: Prompting
    max_tokens: int
    adapters: Mapping[str, Path]

    def __len__(self) -> int:
        return len(self.asks)

    def __iter__(self) -> Iterator[ChatRequest]:
        for key, ask in self.asks.items():
            adapter = ask.generator if ask.generator in self.adapters else None
            messages, about = self.prompting.messages(ask), (ask.pair.id, *ask.chunk_ids)
            yield ChatRequest(key, messages, self.max_tokens, adapter=adapter, about=about)


def answer_all(
    session: Session, asks: Sequence[Ask], chunks: Mapping[str, Chunk]
) -> tuple[list[Answered], list[Reject], int]:
    """(answered asks in order, a Reject for each failed prompt, number of distinct prompts).

    Raises:
        DataError: not one prompt was answered.
    """
    prompting = Prompting(session.answer_prompt, chunks)
    is_tuned = session.tuned_generator is not None

    # Equal prompts for the generator that really answers have one key. Sorted by generator and
    # length, the adapter is switched once, and prompts of similar length share batches.
    keys, order = [], []
    for number, ask in enumerate(asks):
        generator, messages = ask.generator if is_tuned else "base", prompting.messages(ask)
        keys.append(content_hash(generator, messages))
        order.append((generator, sum(len(m["content"]) for m in messages), keys[-1], number))
    distinct = {key: asks[number] for _, _, key, number in sorted(order)}

    # One model with an adapter plays both generators; where all weights were tuned there are two.
    base, tuned = session.config.llm, session.tuned_generator
    tuned_llm, adapters_of_run = with_tuned(base, tuned)
    models: list[tuple[LLMConfig, dict[str, Path], set[str]]]
    models = [(tuned_llm, adapters_of_run, {"base", "tuned"})]
    if tuned_llm is not base:
        models = [(base, {}, {"base"}), (tuned_llm, {}, {"tuned"})]
    replies: dict[str, Reply] = {}
    max_tokens = session.config.evaluate.advanced.max_tokens
    kept = session.run_dir.replies("evaluate")
    for llm, adapters, played in models:
        chosen = {key: ask for key, ask in distinct.items() if ask.generator in played}
        requests = Requests(chosen, prompting, max_tokens, adapters)
        with session.language_model("evaluate", llm, adapters) as model:
            prepare(model, requests, len(requests), kept, "evaluate: answers")
            for reply in cached_chat(model, requests, kept, desc="evaluate: answers"):
                replies[reply.id] = reply

    answered: list[Answered] = []
    for ask, key in zip(asks, keys, strict=True):
        if replies[key].error is None:
            answered.append((ask, to_prediction(ask, replies[key], prompting)))
    failed = [reply for reply in replies.values() if reply.error is not None]
    if not answered:
        raise DataError(
            f"{base.model} answered none of {len(failed)} prompts, the first with: "
            f"{failed[0].error}"
        )
    # A failed prompt is named after the last ask that shares it.
    asked = dict(zip(keys, asks, strict=True))
    rejects = []
    for reply in failed:
        item = f"{asked[reply.id].system} {asked[reply.id].pair.id}"
        rejects.append(Reject(item, "the language model failed", str(reply.error)))
    return answered, rejects, len(replies)


def to_prediction(ask: Ask, reply: Reply, prompting: Prompting) -> Prediction:
    """The answer in a reply, with the ids of the chunks it was shown and of those it cites.

    The reply is one that did not fail; its seconds are kept.
    """
    shown = [prompting.chunks[chunk_id] for chunk_id in ask.chunk_ids]
    said = prompting.prompt.parse(reply.text, shown)
    return Prediction(
        question_id=ask.pair.id,
        system=ask.system,
        answer=said.answer,
        chunk_ids=ask.chunk_ids,
        citations=said.citations,
        seconds=round(reply.seconds, 4),
        inferred=said.inferred,
    )
