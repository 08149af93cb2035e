"""Prompts whose answers are compared in preference tuning: each question over the chunks as they
are served, over the gold chunk among others, over the others alone, and without chunks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from rag_ft.prompts.answer_prompt import AnswerPrompt
from rag_ft.schema import QAPair, Reject
from rag_ft.training.generator.context_layouts import (
    Encode,
    Example,
    LayoutSettings,
    build_contexts,
    fit_to_length,
)
from rag_ft.training.generator.retrieved import Retrieved
from rag_ft.training.generator.tokenization import Encoded

Shown = Literal["retrieved", "gold", "withheld", "none"]


@dataclass(frozen=True)
class PreferencePrompt:
    """A question over the chunks that `shown` names, as token ids with the right reply.

    `gold` are the numbers (from 1) of the shown chunks that are gold. `answers` are the accepted
    answers, empty where no shown chunk contains one, so that to abstain is right. `shown` is "none"
    where there are no chunks: the answers then tell what the model knows.
    """

    pair_id: str
    shown: Shown
    encoded: Encoded
    num_chunks: int
    gold: tuple[int, ...]
    answers: tuple[str, ...]

    @property
    def prompt(self) -> list[int]:
        """What serving sends."""
        return list(self.encoded.prompt_ids)

    @property
    def right_reply(self) -> list[int]:
        """An accepted answer, or the abstain sentence, with its end of turn."""
        return list(self.encoded.answer_ids)


def preference_prompts(
    prompt: AnswerPrompt,
    found: Retrieved,
    pairs: Sequence[QAPair],
    encode: Encode,
    layout: LayoutSettings,
) -> Iterator[PreferencePrompt]:
    """The prompts of each pair, those that fit into `layout.max_tokens`.

    Args:
        prompt: makes the prompts that serving sends.
        found: the chunks that serving finds for the pairs.
        pairs: pairs of train or dev documents.
        encode: messages and reply -> token ids.
        layout: how many chunks are shown, and whether answers cite.
    """
    ways: dict[Shown, LayoutSettings] = {"retrieved": replace(layout, name="concat")}
    answerable_ways: dict[Shown, LayoutSettings] = {
        "gold": replace(layout, name="raft", gold_share=1.0),
        "withheld": replace(layout, name="raft", gold_share=0.0),
    }
    for pair in pairs:
        for shown, way in (ways | answerable_ways if pair.answerable else ways).items():
            contexts = build_contexts(pair, found.hits(pair.id), found.chunks, way)
            if isinstance(contexts, Reject):
                continue
            abstain = prompt.prompts.abstain
            example = fit_to_length(contexts[0], prompt.messages, abstain, encode, way)
            if isinstance(example, Example):
                gold = contexts[0].gold
                yield PreferencePrompt(
                    pair_id=pair.id,
                    shown=shown,
                    encoded=example.encoded,
                    num_chunks=len(example.chunk_ids),
                    gold=tuple(n for n, i in enumerate(example.chunk_ids, 1) if i in gold),
                    answers=pair.answers if example.kind == "answer" else (),
                )
        encoded = encode(prompt.prompts.closed_book(pair.question), pair.answer)
        if pair.answerable and len(encoded.input_ids) <= layout.max_tokens:
            yield PreferencePrompt(pair.id, "none", encoded, 0, (), pair.answers)


def prompt_from(row: dict[str, Any]) -> PreferencePrompt:
    """A prompt as it was written to a file."""
    lists = {name: tuple(row[name]) for name in ("gold", "answers")}
    return PreferencePrompt(**{**row, **lists, "encoded": Encoded.from_row(row["encoded"])})
