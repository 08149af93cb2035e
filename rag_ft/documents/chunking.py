"""Packs the sentences of a document into chunks, as positions in its text.

llama-index's SentenceSplitter returns strings and searches for their positions afterwards, which
gives wrong positions where sentences repeat. It also fails on a character with more tokens than a
chunk may have. So sentences are packed here, on positions.
"""

from __future__ import annotations

import bisect
import itertools
import unicodedata
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from rag_ft.documents.blocks import PlacedBlock
from rag_ft.documents.sentences import (
    LONE_LINE_CHARS,
    is_lone_line_over_prose,
    split_sentences,
    trim,
)
from rag_ft.model_hub import CountTokens
from rag_ft.storage import text_batches

# Runs of blanks and endless words give few tokens for many characters: such text is cut by length.
MAX_CHARS_PER_TOKEN = 16
# A sentence with more characters for each token of a chunk is longer than the chunk: it is cut
# before its tokens are counted.
TOO_MANY_CHARS_PER_TOKEN = 8
# A longer heading is cut in the path of headings that a chunk carries.
MAX_HEADING_CHARS = 200
# The characters tokenised at once: this bounds the memory for a document of one line.
TOKENIZER_BATCH_CHARS = 200_000


class Span(NamedTuple):
    """`text[start:end]`, and the number of its tokens when it is tokenised alone."""

    start: int
    end: int
    num_tokens: int


class ChunkPlace(NamedTuple):
    """A chunk as a part of its document: `text[start:end]`, of `num_tokens` tokens.

    `page` and `page_end` count from 1, None where the format has no pages. `headings` are those
    above the chunk's first sentence, the top one first; for a table that began in an earlier chunk
    its head row comes last. `inner_headings` are the other headings in the chunk.
    """

    start: int
    end: int
    num_tokens: int
    page: int | None
    page_end: int | None
    headings: tuple[str, ...]
    inner_headings: tuple[str, ...] = ()


class _Piece(NamedTuple):
    """A sentence, or a part of a long one: what chunks are made of.

    `may_begin` is false in the middle of a list item; a heading, a line like one and the head of a
    table `lead` what follows and end no chunk; no chunk goes from one `section` to the next;
    `block` is the index of its block.
    """

    start: int
    end: int
    num_tokens: int
    may_begin: bool
    leads: bool
    section: int
    block: int


def split_chunks(
    text: str, count_tokens: CountTokens, max_tokens: int, overlap_tokens: int
) -> Iterator[Span]:
    """Yields the chunks of a text without blocks; see `chunk_blocks`."""
    whole = [PlacedBlock("paragraph", 0, len(text))]
    for place in chunk_blocks(text, whole, count_tokens, max_tokens, overlap_tokens):
        yield Span(place.start, place.end, place.num_tokens)


def chunk_blocks(
    text: str,
    blocks: Sequence[PlacedBlock],
    count_tokens: CountTokens,
    max_tokens: int,
    overlap_tokens: int,
    *,
    adds_up: bool = False,
) -> Iterator[ChunkPlace]:
    """Yields chunks of whole sentences, each of at most `max_tokens` tokens.

    A chunk ends before every heading of the document's top level, and no chunk ends with a heading
    that has text below it. List items and table rows are kept whole where they fit. A longer
    sentence is cut between words, a longer word between characters. A chunk begins with the last
    sentences of the chunk before, as many as fit into `overlap_tokens` (perhaps none). Every
    character of the blocks except white space lies in at least one chunk.

    `count_tokens` maps texts to their numbers of tokens, without special tokens. `adds_up` says
    that the tokens of texts with white space between them add up, so that nothing is counted twice.
    """
    pieces = _pieces(text, blocks, count_tokens, max_tokens, overlap_tokens)
    ranges = _pack(pieces, max_tokens, overlap_tokens)

    # Where the tokens of two sentences need not add up, a chunk is counted as a whole. A chunk of
    # several pieces that turns out too long is divided in two, and all are counted again.
    counts: list[int] = []
    while ranges:
        spans = [(pieces[i].start, pieces[j].end) for i, j in ranges]
        counts = [sum(p.num_tokens for p in pieces[i : j + 1]) for i, j in ranges]
        # Parts of a word, and sentences without a space between them, are counted as a whole.
        unsure = [
            n for n, (i, j) in enumerate(ranges) if not adds_up or not _spaced(pieces[i : j + 1])
        ]
        recounted = _count(text, [spans[n] for n in unsure], count_tokens)
        for n, count in zip(unsure, recounted, strict=True):
            counts[n] = count
        too_long = [count > max_tokens for count in counts]
        if all(i == j for (i, j), long in zip(ranges, too_long, strict=True) if long):
            break
        ranges = divide_ranges(ranges, too_long)

    paths = _heading_paths(text, blocks)
    for (i, j), count in zip(ranges, counts, strict=True):
        inside = pieces[i : j + 1]
        # The headings of a chunk are those of its first sentence.
        said = next((piece for piece in inside if not piece.leads), inside[-1])
        headings, head = paths[said.block]
        if head is not None and head < blocks[inside[0].block].start:
            headings = (*headings, text[head : blocks[_block_at(blocks, head)].end])
        first, last = blocks[inside[0].block], blocks[inside[-1].block]
        named = [
            paths[n][0][-1]
            for n in range(inside[0].block, inside[-1].block + 1)
            if blocks[n].kind == "heading"
        ]
        inner = tuple(dict.fromkeys(name for name in named if name not in headings))
        yield ChunkPlace(
            inside[0].start, inside[-1].end, count, first.page, last.page_end, headings, inner
        )


def _spaced(pieces: list[_Piece]) -> bool:
    return all(a.end < b.start for a, b in itertools.pairwise(pieces))


def _pack(pieces: list[_Piece], max_tokens: int, overlap_tokens: int) -> list[tuple[int, int]]:
    """Returns the (first, last) piece of each chunk, by the sums of the pieces' tokens."""
    max_chars = MAX_CHARS_PER_TOKEN * max_tokens
    ranges: list[tuple[int, int]] = []
    first = total = 0
    for n, piece in enumerate(pieces):
        full = total + piece.num_tokens > max_tokens
        new_section = n > first and piece.section != pieces[n - 1].section
        if n > first and (new_section or full or piece.end - pieces[first].start > max_chars):
            stop = n if new_section else _last_break(pieces, first, n, max_tokens)
            ranges.append((first, stop - 1))
            # The next chunk begins with what was moved to it, and before that with the last pieces
            # of this one, as many as there is room for.
            moved = sum(p.num_tokens for p in pieces[stop:n])
            room = min(overlap_tokens, max_tokens - piece.num_tokens - moved)
            first, total = stop, 0
            while not new_section and first > 0 and pieces[first - 1].section == piece.section:
                before = pieces[first - 1]
                if piece.end - before.start > max_chars or total + before.num_tokens > room:
                    break
                first -= 1
                total += before.num_tokens
            while first < stop and not pieces[first].may_begin:
                total -= pieces[first].num_tokens
                first += 1
            total += moved
        total += piece.num_tokens
    if pieces:
        ranges.append((first, len(pieces) - 1))
    return ranges


def _last_break(pieces: list[_Piece], first: int, full_at: int, max_tokens: int) -> int:
    """Returns where the chunk that began at `first` and is full at `full_at` best ends: not after
    a heading, and not inside a list item, if what follows still fits into one chunk."""
    at = full_at
    moved = pieces[full_at].num_tokens
    while at > first and (not pieces[at].may_begin or pieces[at - 1].leads):
        at -= 1
        moved += pieces[at].num_tokens
        if moved > max_tokens:
            return full_at
    return at if at > first else full_at


def _heading_paths(
    text: str, blocks: Sequence[PlacedBlock]
) -> list[tuple[tuple[str, ...], int | None]]:
    """Returns for each block the headings above it, itself included where it is one, and the start
    of the head row of its table."""
    paths: list[tuple[tuple[str, ...], int | None]] = []
    path: list[tuple[int, str]] = []
    head: int | None = None
    for n, block in enumerate(blocks):
        if block.kind == "heading":
            path = [(level, name) for level, name in path if level < block.level]
            name = text[block.start : block.end].split("\n", 1)[0].lstrip("# ")
            path.append((block.level, name[:MAX_HEADING_CHARS]))
        if block.kind == "row":
            is_first = n == 0 or blocks[n - 1].kind != "row"
            head = block.start if block.level else None if is_first else head
        else:
            head = None
        paths.append((tuple(name for _, name in path), head))
    return paths


def _block_at(blocks: Sequence[PlacedBlock], start: int) -> int:
    return bisect.bisect_left(blocks, start, key=lambda block: block.start)


def _pieces(
    text: str,
    blocks: Sequence[PlacedBlock],
    count_tokens: CountTokens,
    max_tokens: int,
    overlap_tokens: int,
) -> list[_Piece]:
    """Sentences of at most `max_tokens` tokens; longer ones in parts that can form an overlap."""
    small = max(overlap_tokens // 2, max_tokens // 8, 1)
    # A very long sentence is cut by characters first: its tokens would be counted twice.
    waiting: list[tuple[int, int]] = []
    kinds: dict[int, _Piece] = {}
    for piece in _sentences(text, blocks):
        kinds[piece.start] = piece
        if piece.end - piece.start > TOO_MANY_CHARS_PER_TOKEN * max_tokens:
            waiting += _cut(text, piece.start, piece.end, 4 * small)
        else:
            waiting.append((piece.start, piece.end))
    done: list[Span] = []
    while waiting:
        counts = _count(text, waiting, count_tokens)
        too_long: list[tuple[int, int]] = []
        for (start, end), num_tokens in zip(waiting, counts, strict=True):
            length = end - start
            if num_tokens <= max_tokens or length == 1:
                done.append(Span(start, end, num_tokens))
                continue
            # Parts of about `small` tokens, and at most half as long, so that the loop ends.
            size = max(1, min(length // 2, length * small // num_tokens))
            too_long += _cut(text, start, end, size)
        waiting = too_long
    pieces: list[_Piece] = []
    for span in sorted(done):
        # A later part of a long sentence may begin a chunk, whatever the sentence stands in.
        whole = kinds.get(span.start)
        last = pieces[-1] if pieces else None
        base = whole or (last._replace(may_begin=True) if last else None)
        assert base is not None
        pieces.append(base._replace(start=span.start, end=span.end, num_tokens=span.num_tokens))
    return pieces


def _sentences(text: str, blocks: Sequence[PlacedBlock]) -> Iterator[_Piece]:
    """Yields the sentences of the blocks; headings and table rows are one piece each."""
    top = min((block.level for block in blocks if block.kind == "heading"), default=0)
    section = 0
    starts = {block.start for block in blocks}
    has_text = False  # whether the section has more than headings
    for number, block in enumerate(blocks):
        is_heading = block.kind == "heading"
        if is_heading and block.level == top and has_text:
            section += 1
            has_text = False
        has_text = has_text or not is_heading
        leads = is_heading or (block.kind == "row" and block.level > 0)
        is_prose = block.kind == "paragraph"
        if is_heading or block.kind == "row":
            spans = [trim(text, block.start, block.end)]
        else:
            part = text if block.end - block.start == len(text) else text[block.start : block.end]
            spans = [(block.start + s, block.start + e) for s, e in split_sentences(part)]
        for place, (start, end) in enumerate(spans):
            if start < end:
                may_begin = place == 0 or block.kind != "item"
                # A term stands over its definition, without a blank line.
                is_term = is_prose and end - start <= LONE_LINE_CHARS and end + 1 in starts
                over = leads or is_term or (is_prose and is_lone_line_over_prose(text, start, end))
                yield _Piece(start, end, 0, may_begin, over, section, number)


def divide_ranges(ranges: list[tuple[int, int]], too_long: list[bool]) -> list[tuple[int, int]]:
    """Divides the (first, last) ranges that are too long in two; drops those inside another."""
    parts: set[tuple[int, int]] = set()
    for (first, last), divide in zip(ranges, too_long, strict=True):
        if divide and first < last:
            middle = (first + last) // 2
            parts |= {(first, middle), (middle + 1, last)}
        else:
            parts.add((first, last))
    kept: list[tuple[int, int]] = []
    for part in sorted(parts, key=lambda r: (r[0], -r[1])):
        if not kept or part[1] > kept[-1][1]:
            kept.append(part)
    return kept


def _cut(text: str, start: int, end: int, size: int) -> Iterator[tuple[int, int]]:
    """Parts of at most `size` characters, which end at white space, else at a comma, else between
    two characters."""
    while end - start > size:
        stop = max(text.rfind(mark, start + 1, start + size + 1) for mark in " \n\t\u3000")
        if stop <= start:
            stop = 1 + max(text.rfind(mark, start, start + size) for mark in ",;，；、،؛")
        if stop <= start:
            stop = start + size
            # An accent stays with its letter.
            while stop > start + 1 and unicodedata.combining(text[stop]):
                stop -= 1
        part = trim(text, start, stop)
        if part[0] < part[1]:
            yield part
        start = trim(text, stop, end)[0]
    if start < end:
        yield start, end


def _count(text: str, spans: list[tuple[int, int]], count_tokens: CountTokens) -> list[int]:
    """The number of tokens of each span, counted in batches of bounded size."""
    batches = text_batches((text[start:end] for start, end in spans), TOKENIZER_BATCH_CHARS)
    return [count for batch in batches for count in count_tokens(batch)]
