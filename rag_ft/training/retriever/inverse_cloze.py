"""Questions made of the corpus alone, where nobody has asked anything: a sentence asks for the rest of its chunk."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from rag_ft.documents.chunking import split_sentences
from rag_ft.schema import Chunk
from rag_ft.storage import content_hash

LEAST_WORDS = 5
KEPT_SHARE = 0.1  # trained positives that keep the sentence they are asked by: exact words must go on counting


@dataclass(frozen=True)
class Cloze:
    """`question` is a sentence of the chunk; `chunk` has the same id, its text mostly without that sentence."""

    id: str
    question: str
    chunk: Chunk


def make_clozes(
    chunks: Iterable[Chunk], per_chunk: int, seed: int, kept_share: float = KEPT_SHARE
) -> Iterator[Cloze]:
    """Inverse cloze: up to `per_chunk` sentences of every chunk with at least two sentences, as questions for the rest
    of it, or (for `kept_share` of them) for all of it. The draw depends on the seed and the chunk alone."""
    for chunk in chunks:
        rng = random.Random(content_hash(seed, chunk.id, chunk.text))
        spans = [
            (s, e)
            for s, e in split_sentences(chunk.text)
            if len(chunk.text[s:e].split()) >= LEAST_WORDS
        ]
        if len(spans) < 2:
            continue
        for number, (start, end) in enumerate(rng.sample(spans, min(per_chunk, len(spans)))):
            rest = (
                chunk.text
                if rng.random() < kept_share
                else f"{chunk.text[:start]}{chunk.text[end:].lstrip()}".strip()
            )
            yield Cloze(f"{chunk.id}/{number}", chunk.text[start:end], replace(chunk, text=rest))
