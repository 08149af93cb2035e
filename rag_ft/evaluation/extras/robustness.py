"""Probes of robustness: noise, order and contradiction in the context, each a curve of base against
tuned."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from rag_ft.config import Config
from rag_ft.evaluation.systems import Ask, State
from rag_ft.relevance import is_negative, occurrences, oracle_context
from rag_ft.prompts.answer_prompt import chunk_text
from rag_ft.schema import Chunk, QAPair
from rag_ft.text import is_unspaced, normalise

NOISE_CHUNKS = (0, 1, 2, 4)  # beside one gold chunk: 0, 50, 67 and 80 % of the context is noise
PLACES = ("first", "middle", "last")
STATES: tuple[State, ...] = ("base", "tuned")


def probes(
    pairs: Sequence[QAPair], ranking: Mapping[str, Sequence[str]], gold: Mapping[str, set[str]],
    chunks: Mapping[str, Chunk], config: Config,
) -> list[Ask]:  # fmt: skip
    """All probes of the questions that have an answer and a known chunk, for both generators.

    Systems, each once with the base and once with the tuned generator (`_base`, `_tuned`):
    `noise<percent>`, `order_<place>` (place of the gold chunk among top_k), `swap` (the answer is
    replaced in the gold chunk by another question's, which is then the accepted one) and
    `swap_memory` (the same prompt, the true answer is accepted).
    """
    asks: list[Ask] = []
    for pair in pairs:
        shown = oracle_context(pair, gold[pair.id], chunks) if pair.answerable else []
        if not shown or not gold[pair.id]:
            continue
        noise = [i for i in ranking[pair.id] if is_negative(chunks[i], pair)]
        rng = random.Random(f"{config.run.seed}:{pair.id}")
        asks += _noise(pair, shown, noise, rng) + _order(pair, shown, noise, config.retrieval.top_k)
        asks += _swap(pair, shown, pairs, chunks, rng, config.retrieval.advanced.with_title)
    return asks


def _noise(pair: QAPair, gold: list[str], noise: list[str], rng: random.Random) -> list[Ask]:
    """The gold chunk among the best-ranked chunks that do not hold the answer, in random order."""
    asks = []
    for number in NOISE_CHUNKS:
        shown = [*gold[:1], *noise[:number]]
        rng.shuffle(shown)
        asks += _both(pair, f"noise{round(100 * number / (number + 1))}", shown)
    return asks


def _order(pair: QAPair, gold: list[str], noise: list[str], top_k: int) -> list[Ask]:
    others, asks = noise[: max(2, top_k - 1)], []
    for place in PLACES:
        at = {"first": 0, "middle": (len(others) + 1) // 2, "last": len(others)}[place]
        asks += _both(pair, f"order_{place}", [*others[:at], gold[0], *others[at:]])
    return asks


def _swap(
    pair: QAPair,
    shown: list[str],
    pairs: Sequence[QAPair],
    chunks: Mapping[str, Chunk],
    rng: random.Random,
    title: bool,
) -> list[Ask]:
    """The context says something else than the document did: does the answer follow what is
    shown?"""
    text = chunk_text(chunks[shown[0]], title)
    spans = occurrences(pair.answer, text)
    others = sorted({p.answer for p in pairs if p.answerable and _alike(p.answer, pair.answer)})
    if not spans or not others:
        return []
    other = rng.choice(others)
    for start, end in reversed(_disjoint(spans)):
        text = text[:start] + other + text[end:]
    asks = []
    for state in STATES:
        asks.append(Ask(pair, f"swap_{state}", state, (shown[0],), (other,), (text,)))
        asks.append(Ask(pair, f"swap_memory_{state}", state, (shown[0],), pair.answers, (text,)))
    return asks


def _both(pair: QAPair, name: str, shown: Sequence[str]) -> list[Ask]:
    return [Ask(pair, f"{name}_{state}", state, tuple(shown), pair.answers) for state in STATES]


def _alike(other: str, answer: str) -> bool:
    """Whether an answer could stand in another's place: a number for a number, and about as many
    words."""
    if (
        normalise(other) == normalise(answer)
        or not normalise(other)
        or is_unspaced(other) != is_unspaced(answer)
    ):
        return False
    same_kind = any(c.isdigit() for c in other) == any(c.isdigit() for c in answer)
    return same_kind and abs(len(other.split()) - len(answer.split())) <= 1


def _disjoint(spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """The spans in order without those that overlap an earlier one."""
    kept: list[tuple[int, int]] = []
    for span in spans:
        if not kept or span[0] >= kept[-1][1]:
            kept.append(span)
    return kept
