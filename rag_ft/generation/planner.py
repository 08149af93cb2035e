"""Plans what is asked of each chunk: about which sentence, and what kind of question."""

from __future__ import annotations

import random
import re
from bisect import bisect
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate

from rag_ft.documents.sentences import is_lone_line, split_sentences
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

# List items, table rows and fields are asked about.
_LISTED = re.compile(r"[-*•‣–+]\s|\(?\w{1,3}[.)]\s|.*(?:\||: |=)")


@dataclass(frozen=True)
class PlannedQuestion:
    """One question of a `kind` to ask about the sentence `chunk.text[focus]`.

    A multi_hop question is also about the `second` chunk, which the writer chooses. `variant`
    counts from 0 within the chunk.
    """

    chunk: Chunk
    variant: int
    focus: Span
    kind: Kind
    second: Chunk | None = None

    @property
    def id(self) -> str:
        """`<chunk id>/<variant>`, which also names the question in the rejects file."""
        return f"{self.chunk.id}/{self.variant}"

    @property
    def sentence(self) -> str:
        """The text of the focus."""
        return self.chunk.text[self.focus[0] : self.focus[1]]


def kind_shares(
    wanted: Mapping[Kind, float] | None, writable: Collection[str], prompts: str
) -> dict[Kind, float]:
    """Shares (summing to 1) of the kinds to ask for.

    Args:
        wanted: shares in any unit; None: DEFAULT_KINDS, as far as they are writable.
        writable: the kinds that the prompt set can write.
        prompts: the name of the prompt set, for the error.

    Raises:
        ConfigError: a wanted kind is not writable, or no kind has a share above 0.
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


def choose_chunks(
    chunks: Iterable[Chunk], counts: Counter[str], max_chunks: int
) -> Iterator[Chunk]:
    """At most `max_chunks` chunks (0: all), evenly spread over the documents and within each.

    `counts` is the number of chunks of every document.
    """
    if not max_chunks:
        yield from chunks
        return
    chosen = {
        document_id: set(evenly_spaced(quota, counts[document_id]))
        for document_id, quota in quotas(counts, max_chunks).items()
        if quota
    }
    seen: Counter[str] = Counter()
    for chunk in chunks:
        if seen[chunk.document_id] in chosen.get(chunk.document_id, ()):
            yield chunk
        seen[chunk.document_id] += 1


def plan(
    chunks: Iterable[Chunk], pairs_per_chunk: int, shares: Mapping[Kind, float], seed: int
) -> Iterator[PlannedQuestion]:
    """The questions to ask, at most `pairs_per_chunk` for each chunk, in the order of the chunks.

    The kinds depend only on `seed` and the chunk's text, not on the chunk's position.
    """
    previous: Chunk | None = None
    for chunk in chunks:
        # Overlapping chunks share sentences. These are asked about in the earlier chunk only.
        shared_until = 0
        if previous is not None and previous.document_id == chunk.document_id:
            shared_until = previous.end
        previous = chunk
        sentences = focus_sentences(chunk, shared_until)
        places = evenly_spaced(pairs_per_chunk, len(sentences))
        kinds = draw_kinds(shares, len(places), content_hash(seed, chunk.text))
        # A sentence that comes again with the same kind would be the same request, so it is left
        # out. Another kind in its place would fill short chunks with the rare kinds (on the demo
        # two fifths of their questions were unanswerable instead of a fourteenth).
        distinct = dict.fromkeys(zip(places, kinds, strict=True))
        for variant, (place, kind) in enumerate(distinct):
            yield PlannedQuestion(chunk, variant, sentences[place], kind)


def focus_sentences(chunk: Chunk, shared_until: int) -> list[Span]:
    """The sentences of a chunk to ask about, as spans of its text.

    They contain a letter or digit and end after the document's character `shared_until`; the chunk
    before contains the others. Headings are left out where there is any other sentence.
    """
    spans = [
        (start, end)
        for start, end in split_sentences(chunk.text)
        if chunk.start + end > shared_until
        and any(character.isalnum() for character in chunk.text[start:end])
    ]
    prose = [span for span in spans if not _is_heading(chunk, span)]
    return prose or spans


def _is_heading(chunk: Chunk, span: Span) -> bool:
    """Whether a sentence is a heading, or a part of one: of those in the chunk, marked as in
    Markdown, or a line that stands alone."""
    start, end = span
    line_end = chunk.text.find("\n", end)
    line = chunk.text[chunk.text.rfind("\n", 0, start) + 1 : line_end if line_end >= 0 else None]
    known = (*chunk.headings, *chunk.inner_headings, chunk.title)
    if line.startswith("#") or line.lstrip("# ").rstrip() in known:
        return True
    return is_lone_line(chunk.text, start, end) and not _LISTED.match(chunk.text[start:end])


def evenly_spaced(num_wanted: int, num_there: int) -> list[int]:
    """`num_wanted` of `num_there` positions, in order and at even distances.

    With more wanted than there are, the positions come in rounds, each about equally often.
    """
    if num_wanted <= num_there:
        return [(2 * i + 1) * num_there // (2 * num_wanted) for i in range(num_wanted)]
    return [i % num_there for i in range(num_wanted)] if num_there else []


def quotas(counts: Mapping[str, int], total: int) -> dict[str, int]:
    """How many chunks of each document to take, as equally as `counts` allow; they sum to `total`
    or, if there are fewer, to all. The first documents get the remainder."""
    quota = dict.fromkeys(counts, 0)
    left, open_ids = min(total, sum(counts.values())), list(counts)
    # Each round divides what is left among the documents that have more chunks.
    while left:
        share, extra = divmod(left, len(open_ids))
        for place, document_id in enumerate(open_ids):
            added = min(share + (place < extra), counts[document_id] - quota[document_id])
            quota[document_id] += added
            left -= added
        open_ids = [i for i in open_ids if quota[i] < counts[i]]
    return quota


def draw_kinds(shares: Mapping[Kind, float], number: int, key: str) -> list[Kind]:
    """`number` kinds by systematic sampling, in an order that `key` fixes.

    The count of each kind differs by less than one from its exact share.
    """
    rng = random.Random(key)
    names, bounds, start = list(shares), list(accumulate(shares.values())), rng.random()
    kinds = []
    for i in range(number):
        # The rounded sum of the shares can be below 1, hence the minimum.
        place = min(bisect(bounds, (i + start) / number), len(names) - 1)
        kinds.append(names[place])
    rng.shuffle(kinds)
    return kinds
