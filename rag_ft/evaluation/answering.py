"""Putting the systems' prompts to the generator: one model whose adapter is switched, each distinct prompt once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rag_ft.config import Config
from rag_ft.errors import DataError
from rag_ft.evaluation.systems import Ask
from rag_ft.llm.factory import open_language_model
from rag_ft.llm.interface import ChatRequest, Messages, Reply
from rag_ft.model_hub import TUNED_MARKS, with_tuned
from rag_ft.paths import RunDir
from rag_ft.qa.prompts import Prompts, load_prompts, parse_answer
from rag_ft.records import Chunk, Prediction, Reject, content_hash
from rag_ft.retrieval.search import chunk_text

Answered = tuple[Ask, Prediction]


@dataclass(frozen=True)
class Prompting:
    """How an Ask becomes messages."""

    prompts: Prompts
    chunks: Mapping[str, Chunk]
    with_title: bool

    def messages(self, ask: Ask) -> Messages:
        if ask.system.startswith("closed_book"):
            return self.prompts.closed_book(ask.pair.question)
        shown = [chunk_text(self.chunks[i], self.with_title) for i in ask.chunk_ids]
        return self.prompts.answer(ask.pair.question, ask.passages or shown)


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


def tuned_generator(run_dir: RunDir) -> Path | None:
    """The folder of the tuned generator, if training left one (an adapter, or a whole model)."""
    return (
        run_dir.generator
        if any((run_dir.generator / mark).exists() for mark in TUNED_MARKS)
        else None
    )


def answer_all(
    config: Config, run_dir: RunDir, asks: Sequence[Ask], chunks: Mapping[str, Chunk]
) -> tuple[list[Answered], list[Reject], int]:
    """(answered asks in order, a Reject for each failed prompt, number of distinct prompts).

    Raises:
        DataError: not one prompt was answered.
    """
    prompts = load_prompts(config.llm.prompts, config.llm.advanced.abstain)
    prompting = Prompting(prompts, chunks, config.retrieval.advanced.with_title)
    tuned = tuned_generator(run_dir)
    ranked = [_rank(ask, prompting, tuned is not None) for ask in asks]
    keys = [key for _, _, key in ranked]
    in_order = sorted(zip(ranked, asks, strict=True), key=lambda item: item[0])
    replies = _ask_models(config, run_dir, {key: ask for (_, _, key), ask in in_order}, prompting)
    answered = [
        (a, _prediction(a, replies[k]))
        for a, k in zip(asks, keys, strict=True)
        if replies[k].error is None
    ]
    failed = [reply for reply in replies.values() if reply.error is not None]
    if not answered:
        raise DataError(
            f"{config.llm.model} answered none of {len(failed)} prompts, the first with: {failed[0].error}"
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


def _ask_models(
    config: Config, run_dir: RunDir, asks: dict[str, Ask], prompting: Prompting
) -> dict[str, Reply]:
    from rag_ft.llm.reply_cache import cached_chat

    replies = {}
    for llm, adapters, played in _models(config, tuned_generator(run_dir)):
        chosen = {key: ask for key, ask in asks.items() if ask.generator in played}
        requests = Requests(chosen, prompting, config.evaluate.advanced.max_tokens, adapters)
        with open_language_model(llm, config.run.seed, adapters, run_dir.vllm_log) as model:
            for reply in cached_chat(
                model, requests, run_dir.replies("evaluate"), desc="evaluate: answers"
            ):
                replies[reply.id] = reply
    return replies


def _models(config: Config, tuned: Path | None) -> list[tuple[Any, dict[str, Path], set[str]]]:
    """(LLM config, adapters, generators it plays): one model with an adapter; two only where all weights were tuned."""
    llm, adapters = with_tuned(config.llm, tuned)
    if llm is config.llm:
        return [(llm, adapters, {"base", "tuned"})]
    return [(config.llm, {}, {"base"}), (llm, {}, {"tuned"})]


def _prediction(ask: Ask, reply: Reply) -> Prediction:
    said, numbers = parse_answer(reply.text, len(ask.chunk_ids))
    cited = tuple(ask.chunk_ids[number - 1] for number in numbers)
    return Prediction(ask.pair.id, ask.system, said, ask.chunk_ids, cited, round(reply.seconds, 4))


def _place(ask: Ask) -> str:
    return f"{ask.system} {ask.pair.id}"
