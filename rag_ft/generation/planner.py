"""What is asked of each chunk: about which sentence, and what kind of question."""

from __future__ import annotations

import random
from bisect import bisect
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate

from rag_ft.documents.chunking import split_sentences
from rag_ft.errors import ConfigError
from rag_ft.relevance import Span
from rag_ft.schema import Chunk, Kind
from rag_ft.storage import content_hash

DEFAULT_KINDS: dict[Kind, float] = {
    "factoid": 0.45,
    "summary": 0.2,
    "inference": 0.15,
    "unanswerable": 0.12,
    "multi_hop": 0.08,
}


@dataclass(frozen=True)
class Ask:
    """One pair to ask for: `kind` of question about the sentence `chunk.text[focus]`, for multi_hop together with the
    `second` chunk. `variant` counts from 0 within the chunk."""

    chunk: Chunk
    variant: int
    focus: Span
    kind: Kind
    second: Chunk | None = None

    @property
    def id(self) -> str:
        return f"{self.chunk.id}/{self.variant}"

    @property
    def sentence(self) -> str:
        return self.chunk.text[self.focus[0] : self.focus[1]]


def kind_shares(
    wanted: Mapping[Kind, float] | None, writable: Collection[str], prompts: str
) -> dict[Kind, float]:
    """Shares (summing to 1) of the kinds to ask for. Without `wanted`, the usual mix of what the prompt set can write.

    Raises:
        ConfigError: a kind is wanted that the prompt set `prompts` cannot write, or none at all.
    """
    shares = {kind: share for kind, share in (wanted or DEFAULT_KINDS).items() if share > 0}
    unknown = [kind for kind in shares if kind not in writable]
    if unknown and wanted:
        raise ConfigError(
            f"generate.kinds asks for {', '.join(unknown)}, but the prompt set '{prompts}' writes "
            f"{', '.join(writable)}: set the others to 0, or choose another llm.prompts"
        )
    shares = {kind: share for kind, share in shares.items() if kind in writable}
    if not shares:
        raise ConfigError("generate.kinds has no kind with a share above 0: give at least one")
    total = sum(shares.values())
    return {kind: share / total for kind, share in shares.items()}


def plan(
    chunks: Iterable[Chunk], pairs_per_chunk: int, shares: Mapping[Kind, float], seed: int
) -> Iterator[Ask]:
    """The pairs to ask for, chunk by chunk in the order given, at most `pairs_per_chunk` each.

    The same chunk text and seed give the same kinds, wherever the chunk stands.
    """
    previous: Chunk | None = None
    for chunk in chunks:
        follows = previous is not None and previous.document_id == chunk.document_id
        shared_until = previous.end if follows and previous else 0
        yield from _plan_chunk(chunk, shared_until, pairs_per_chunk, shares, seed)
        previous = chunk


def focus_sentences(chunk: Chunk, shared_until: int) -> list[Span]:
    """The sentences of a chunk that can be asked about, as spans of its text: those with a letter or digit that do
    not lie wholly before the document's character `shared_until`, where the chunk before has them already."""
    spans = [
        (start, end)
        for start, end in split_sentences(chunk.text)
        if chunk.start + end > shared_until
        and any(character.isalnum() for character in chunk.text[start:end])
    ]
    said = [span for span in spans if not chunk.text[span[0] : span[1]].lstrip().startswith("#")]
    return said or spans


def spread(num_wanted: int, num_there: int) -> list[int]:
    """`num_wanted` positions of `num_there`, in order and evenly apart; with more wanted than there, every position
    equally often, in rounds."""
    if num_wanted <= num_there:
        return [(2 * i + 1) * num_there // (2 * num_wanted) for i in range(num_wanted)]
    return [i % num_there for i in range(num_wanted)] if num_there else []


def quotas(counts: Mapping[str, int], total: int) -> dict[str, int]:
    """How many chunks of each document to take so that they sum to `total` (or to all): the same number of each, as
    far as the document has them; what does not divide goes to the first ones."""
    quota = dict.fromkeys(counts, 0)
    left, open_ids = min(total, sum(counts.values())), list(counts)
    while left:
        share, extra = divmod(left, len(open_ids))
        for place, name in enumerate(open_ids):
            added = min(share + (place < extra), counts[name] - quota[name])
            quota[name] += added
            left -= added
        open_ids = [name for name in open_ids if quota[name] < counts[name]]
    return quota


def choose_chunks(
    chunks: Iterable[Chunk], counts: Counter[str], max_chunks: int
) -> Iterator[Chunk]:
    """The chunks themselves, or (max_chunks > 0) only so many, spread over the documents and within each."""
    if not max_chunks:
        yield from chunks
        return
    chosen = {
        name: set(spread(quota, counts[name]))
        for name, quota in quotas(counts, max_chunks).items()
        if quota
    }
    seen: Counter[str] = Counter()
    for chunk in chunks:
        if seen[chunk.document_id] in chosen.get(chunk.document_id, ()):
            yield chunk
        seen[chunk.document_id] += 1


def draw_kinds(shares: Mapping[Kind, float], number: int, key: str) -> list[Kind]:
    """`number` kinds by systematic sampling: each kind comes within one of its exact share, in an order that `key`
    fixes."""
    rng = random.Random(key)
    names, bounds, start = list(shares), list(accumulate(shares.values())), rng.random()
    kinds = [
        names[min(bisect(bounds, (i + start) / number), len(names) - 1)] for i in range(number)
    ]
    rng.shuffle(kinds)
    return kinds


def _plan_chunk(
    chunk: Chunk, shared_until: int, number: int, shares: Mapping[Kind, float], seed: int
) -> Iterator[Ask]:
    sentences = focus_sentences(chunk, shared_until)
    places = spread(number, len(sentences))
    kinds = draw_kinds(shares, len(places), content_hash(seed, chunk.text))
    # The same sentence and kind again would be the same request. Another kind in its place would fill short chunks with
    # the rare kinds (two fifths unanswerable instead of a fourteenth, on the demo).
    asked = dict.fromkeys(zip(places, kinds, strict=True))
    for number, (place, kind) in enumerate(asked):
        yield Ask(chunk, number, sentences[place], kind)
