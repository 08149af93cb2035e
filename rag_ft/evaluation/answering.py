"""Putting the systems' prompts to the generator: one model whose adapter is switched, each distinct prompt once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rag_ft.config import LLMConfig
from rag_ft.errors import DataError
from rag_ft.evaluation.systems import Ask
from rag_ft.llm.interface import ChatRequest, Messages, Reply
from rag_ft.llm.reply_cache import cached_chat
from rag_ft.model_hub import with_tuned
from rag_ft.prompts.answer_prompt import AnswerPrompt
from rag_ft.schema import Chunk, Prediction, Reject
from rag_ft.session import Session
from rag_ft.storage import content_hash

Answered = tuple[Ask, Prediction]


@dataclass(frozen=True)
class Prompting:
    """How an Ask becomes messages."""

    prompt: AnswerPrompt
    chunks: Mapping[str, Chunk]

    def messages(self, ask: Ask) -> Messages:
        if ask.system.startswith("closed_book"):
            return self.prompt.prompts.closed_book(ask.pair.question)
        if ask.passages:
            return self.prompt.prompts.answer(ask.pair.question, ask.passages)
        return self.prompt.messages(ask.pair.question, (self.chunks[i] for i in ask.chunk_ids))


@dataclass(frozen=True)
class Requests:
    """The distinct prompts of some asks, in order; rendered as they are drawn, so that only their keys are held."""

    asks: Mapping[str, Ask]
    prompting: Prompting
    max_tokens: int
    adapters: Mapping[str, Path]

    def __len__(self) -> int:
        return len(self.asks)

    def __iter__(self) -> Iterator[ChatRequest]:
        for key, ask in self.asks.items():
            adapter = ask.generator if ask.generator in self.adapters else None
            yield ChatRequest(key, self.prompting.messages(ask), self.max_tokens, adapter=adapter)


def answer_all(
    session: Session, asks: Sequence[Ask], chunks: Mapping[str, Chunk]
) -> tuple[list[Answered], list[Reject], int]:
    """(answered asks in order, a Reject for each failed prompt, number of distinct prompts).

    Raises:
        DataError: not one prompt was answered.
    """
    prompting = Prompting(session.answer_prompt, chunks)
    ranked = [_rank(ask, prompting, session.tuned_generator is not None) for ask in asks]
    keys = [key for _, _, key in ranked]
    in_order = sorted(zip(ranked, asks, strict=True), key=lambda item: item[0])
    replies = _ask_models(session, {key: ask for (_, _, key), ask in in_order}, prompting)
    answered = [
        (ask, _prediction(ask, replies[key], prompting.prompt))
        for ask, key in zip(asks, keys, strict=True)
        if replies[key].error is None
    ]
    failed = [reply for reply in replies.values() if reply.error is not None]
    if not answered:
        model = session.config.llm.model
        raise DataError(
            f"{model} answered none of {len(failed)} prompts, the first with: {failed[0].error}"
        )
    places = dict(zip(keys, asks, strict=True))
    rejects = [
        Reject(_place(places[r.id]), "the language model failed", str(r.error)) for r in failed
    ]
    return answered, rejects, len(replies)


def _rank(ask: Ask, prompting: Prompting, is_tuned: bool) -> tuple[str, int, str]:
    """(the generator that really answers, the prompt's length, the prompt's key): the order in which prompts are put,
    so that the adapter is switched once and prompts of a length share batches, and what makes two prompts the same."""
    generator, messages = ask.generator if is_tuned else "base", prompting.messages(ask)
    return generator, sum(len(m["content"]) for m in messages), content_hash(generator, messages)


def _ask_models(session: Session, asks: dict[str, Ask], prompting: Prompting) -> dict[str, Reply]:
    replies = {}
    for llm, adapters, played in _models(session.config.llm, session.tuned_generator):
        chosen = {key: ask for key, ask in asks.items() if ask.generator in played}
        max_tokens = session.config.evaluate.advanced.max_tokens
        requests = Requests(chosen, prompting, max_tokens, adapters)
        kept = session.run_dir.replies("evaluate")
        with session.language_model(llm, adapters) as model:
            for reply in cached_chat(model, requests, kept, desc="evaluate: answers"):
                replies[reply.id] = reply
    return replies


def _models(
    config: LLMConfig, tuned: Path | None
) -> list[tuple[LLMConfig, dict[str, Path], set[str]]]:
    """(LLM config, adapters, generators it plays): one model with an adapter; two only where all weights were tuned."""
    llm, adapters = with_tuned(config, tuned)
    if llm is config:
        return [(llm, adapters, {"base", "tuned"})]
    return [(config, {}, {"base"}), (llm, {}, {"tuned"})]


def _prediction(ask: Ask, reply: Reply, prompt: AnswerPrompt) -> Prediction:
    said = prompt.parse(reply.text, ask.chunk_ids)
    return Prediction(
        ask.pair.id, ask.system, said.answer, ask.chunk_ids, said.citations, round(reply.seconds, 4)
    )


def _place(ask: Ask) -> str:
    return f"{ask.system} {ask.pair.id}"
