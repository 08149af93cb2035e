"""Probes of robustness: noise, order and contradiction in the context, for base and tuned."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from rag_ft.config import RetrievalConfig
from rag_ft.evaluation.systems import Ask, State
from rag_ft.prompts.answer_prompt import chunk_text
from rag_ft.relevance import is_negative, occurrences, oracle_context
from rag_ft.schema import Chunk, ChunkContext, QAPair
from rag_ft.text import is_unspaced, normalise

NOISE_CHUNKS = (0, 1, 2, 4)  # beside one gold chunk: 0, 50, 67, 80 % of the context is noise
PLACES = ("first", "middle", "last")
STATES: tuple[State, ...] = ("base", "tuned")


def probes(
    pairs: Sequence[QAPair],
    ranking: Mapping[str, Sequence[str]],
    gold: Mapping[str, set[str]],
    chunks: Mapping[str, Chunk],
    settings: RetrievalConfig,
    seed: int,
) -> list[Ask]:
    """All probes of the questions that have an answer and a known gold chunk, for both generators.

    Systems, each once with the base and once with the tuned generator (`_base`, `_tuned`):
    `noise<percent>` shows the gold chunk among chunks without the answer; `order_<place>` moves the
    gold chunk among top_k; `swap` replaces the answer in the gold chunk by another question's,
    which is then the accepted one; `swap_memory` is the same prompt, with the true answer accepted.

    Args:
        pairs: the test questions.
        ranking: question id -> chunk ids, best first.
        gold: question id -> gold chunks' ids.
        chunks: every chunk that may be shown, by id.
        settings: top_k, and whether chunks are shown with their title.
        seed: of the order of noise, and of the answers that replace others.
    """
    asks: list[Ask] = []
    for pair in pairs:
        shown = oracle_context(pair, gold[pair.id], chunks) if pair.answerable else []
        if not shown or not gold[pair.id]:
            continue
        noise = [i for i in ranking[pair.id] if is_negative(chunks[i], pair)]
        rng = random.Random(f"{seed}:{pair.id}")

        # Noise: the best-ranked chunks without the answer, in random order.
        for number in NOISE_CHUNKS:
            context = [shown[0], *noise[:number]]
            rng.shuffle(context)
            asks += _both(pair, f"noise{round(100 * number / (number + 1))}", context)

        # Order: the gold chunk changes its place, all else stays.
        others = noise[: max(2, settings.num_shown - 1)]
        places = (0, (len(others) + 1) // 2, len(others))
        for place, at in zip(PLACES, places, strict=True):
            asks += _both(pair, f"order_{place}", [*others[:at], shown[0], *others[at:]])

        asks += _swap(pair, chunks[shown[0]], pairs, rng, settings.context)
    return asks


def _swap(
    pair: QAPair, chunk: Chunk, pairs: Sequence[QAPair], rng: random.Random, context: ChunkContext
) -> list[Ask]:
    """The context contradicts the document: does the answer follow what is shown?"""
    text = chunk_text(chunk, context)
    spans = occurrences(pair.answer, text)
    # The answer of a question with other filters may come from documents that these exclude.
    near = (p for p in pairs if not pair.filters or p.filters == pair.filters)
    others = set()
    for other in (p.answer for p in near if p.answerable):
        # Another answer fits if a number replaces a number, and it has about as many words.
        differs = normalise(other) and normalise(other) != normalise(pair.answer)
        same_script = is_unspaced(other) == is_unspaced(pair.answer)
        same_kind = any(map(str.isdigit, other)) == any(map(str.isdigit, pair.answer))
        longer = len(other.split()) - len(pair.answer.split())
        if differs and same_script and same_kind and abs(longer) <= 1:
            others.add(other)
    if not spans or not others:
        return []
    other = rng.choice(sorted(others))
    # Occurrences can overlap; of those the first is replaced.
    parts, reached = [], 0
    for start, end in spans:
        if start >= reached:
            parts += [text[reached:start], other]
            reached = end
    text = "".join([*parts, text[reached:]])
    asks = []
    for state in STATES:
        asks.append(Ask(pair, f"swap_{state}", state, (chunk.id,), (other,), (text,)))
        asks.append(Ask(pair, f"swap_memory_{state}", state, (chunk.id,), pair.answers, (text,)))
    return asks


def _both(pair: QAPair, name: str, shown: Sequence[str]) -> list[Ask]:
    return [Ask(pair, f"{name}_{state}", state, tuple(shown), pair.answers) for state in STATES]
