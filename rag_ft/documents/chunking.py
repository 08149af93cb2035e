"""Splits a text into sentences and packs sentences into chunks, both as positions in the text.

llama-index's SentenceSplitter returns strings and searches for their positions afterwards, which
gives wrong positions where sentences repeat. It also fails on a character with more tokens than a
chunk may have. So sentences are packed here, on positions.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from typing import NamedTuple

CountTokens = Callable[[list[str]], list[int]]
# Runs of blanks and endless words give few tokens for many characters: such text is cut by length.
MAX_CHARS_PER_TOKEN = 16
# The characters tokenised at once: this bounds the memory for a document of one line.
TOKENIZER_BATCH_CHARS = 200_000

# Where a sentence may end: CJK marks anywhere, others before white space, a blank line, and
# perhaps a single newline.
_END = re.compile(
    r"""(?P<wide>[。！？｡]++[」』”’）〉》】\)\]]*+)
    | (?<![.!?])(?P<stop>[.!?؟۔…।॥]++["'”’»\)\]]*+)(?=\s)
    | (?P<blank>\n\s*\n)
    | (?P<line>\n)""",
    re.VERBOSE,
)
_ABBREVIATION = re.compile(
    r"""(?:^|(?<=[\s(\["'„“‘]))(?:
      (?!I$)[^\W\d_] | (?:[^\W\d_]\.)+[^\W\d_]
      | Drs? | Mrs? | Ms | Mme | Mlle | Prof | Rev | Hon | St | Sr | Jr | Gen | Col | Capt | Lt
      | Sgt | Messrs | Sra? | Dra | Uds? | vs | al | cf | viz | resp | incl | approx | bzw | ca
      | vgl | usw | eds? | Inc | Ltd | Co | Corp | Bros | Dept | Univ | Ave | Mt
      | Jan | Feb | Mar | Apr | Jun | Jul | Aug | Sept? | Oct | Nov | Dec )$""",
    re.VERBOSE,
)
_BEFORE_NUMBER = re.compile(
    r"\b(?:nos?|nr|núm|pág|figs?|eqs?|refs?|sec|chap|ch|vol|art|abs|pp?|est|tel|ext)$",
    re.IGNORECASE,
)
# A German date: "am 3. Mai".
_GERMAN_DAY = re.compile(r"\d\.\s+(?:Jan|Feb|März|Apr|Mai|Jun|Jul|Aug|Sep|Okt|Nov|Dez)[a-z]*")
_AFTER_HOURS = re.compile(r"(?:^|\s|\d)[ap]\.m$")
_LIST_MARK = re.compile(r"[ \t]*(?:[-*•‣–+|>#]|\d{1,3}[.)]|\(?\w{1,3}\))[ \t]")
# A shorter line is a heading, an address or a field, not the beginning of a wrapped sentence.
_WRAPPED_CHARS = 45


class Span(NamedTuple):
    """`text[start:end]`, and the number of its tokens when it is tokenised alone."""

    start: int
    end: int
    num_tokens: int


def split_sentences(text: str) -> list[tuple[int, int]]:
    """Returns (start, end) of every sentence, heading, list item and table row, in order.

    The parts do not overlap, and no part begins or ends with white space. Every other character
    lies in exactly one part.
    """
    spans, start = [], 0
    for match in _END.finditer(text):
        if _ends_sentence(text, match):
            spans.append(_trim(text, start, match.end()))
            start = match.end()
    spans.append(_trim(text, start, len(text)))
    return [(s, e) for s, e in spans if s < e]


def split_chunks(
    text: str, count_tokens: CountTokens, max_tokens: int, overlap_tokens: int
) -> Iterator[Span]:
    """Yields chunks of whole sentences, each of at most `max_tokens` tokens.

    A longer sentence is cut between words, a longer word between characters. A chunk begins with
    the last sentences of the chunk before, as many as fit into `overlap_tokens` (perhaps none).
    Every character except white space lies in at least one chunk.

    `count_tokens` maps texts to their numbers of tokens, without special tokens.
    """
    pieces = _pieces(text, count_tokens, max_tokens, overlap_tokens)
    max_chars = MAX_CHARS_PER_TOKEN * max_tokens

    # Pack pieces by the sum of their tokens: `ranges` has the (first, last) piece of each chunk.
    ranges: list[tuple[int, int]] = []
    first = total = 0
    for n, piece in enumerate(pieces):
        full = total + piece.num_tokens > max_tokens
        if n > first and (full or piece.end - pieces[first].start > max_chars):
            ranges.append((first, n - 1))
            # The next chunk begins with the last pieces of this one, as many as there is room for.
            room = min(overlap_tokens, max_tokens - piece.num_tokens)
            first, total = n, 0
            while first > 0 and piece.end - pieces[first - 1].start <= max_chars:
                if total + pieces[first - 1].num_tokens > room:
                    break
                first -= 1
                total += pieces[first].num_tokens
        total += piece.num_tokens
    if pieces:
        ranges.append((first, len(pieces) - 1))

    # The tokens of two sentences need not add up, so every chunk is counted as a whole. A chunk of
    # several pieces that turns out too long is divided in two, and all are counted again.
    counts: list[int] = []
    while ranges:
        spans = [(pieces[i].start, pieces[j].end) for i, j in ranges]
        counts = _count(text, spans, count_tokens)
        too_long = [count > max_tokens for count in counts]
        if all(i == j for (i, j), long in zip(ranges, too_long, strict=True) if long):
            break
        ranges = divide_ranges(ranges, too_long)
    for (i, j), count in zip(ranges, counts, strict=True):
        yield Span(pieces[i].start, pieces[j].end, count)


def _ends_sentence(text: str, match: re.Match[str]) -> bool:
    """Whether a match of `_END` ends a sentence."""
    kind, at = match.lastgroup, match.start()
    if kind == "line":
        # A newline ends a sentence unless it only wraps one.
        line = text[max(text.rfind("\n", 0, at) + 1, at - 400) : at].rstrip()
        if _LIST_MARK.match(text, at + 1):
            return True
        if line.endswith((".", "!", "?", ":", "。", "！", "？", "؟", "…")):
            return True
        goes_on = text[at + 1 : at + 50].lstrip()[:1].islower()
        return not goes_on and len(line) < _WRAPPED_CHARS
    if kind != "stop":
        return True
    following = text[match.end() : match.end() + 200].lstrip()[:1]
    if following.islower():
        return False
    if match["stop"] != ".":
        return True
    before = text[max(0, at - 24) : at]
    if before[-1:].isdigit() and _GERMAN_DAY.match(text, at - 1):
        return False
    # "2. Open the valve": the number belongs to the words after it.
    line_start = text.rfind("\n", max(0, at - 8), at) + 1
    if _LIST_MARK.fullmatch(text[line_start : match.end()] + " "):
        return False
    if following.isdigit() and _BEFORE_NUMBER.search(before):
        return False
    # No sentence ends after "Dr.", but one may end after "at 9 p.m.".
    return _ABBREVIATION.search(before) is None or _AFTER_HOURS.search(before) is not None


def _pieces(
    text: str, count_tokens: CountTokens, max_tokens: int, overlap_tokens: int
) -> list[Span]:
    """Sentences of at most `max_tokens` tokens; longer ones in parts that can form an overlap."""
    small = max(overlap_tokens // 2, max_tokens // 8, 1)
    # An extremely long sentence is cut by characters first: counting it whole is slow.
    waiting: list[tuple[int, int]] = []
    for start, end in split_sentences(text):
        if end - start > MAX_CHARS_PER_TOKEN * max_tokens:
            waiting += _cut(text, start, end, 4 * small)
        else:
            waiting.append((start, end))
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
    return sorted(done)


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
        part = _trim(text, start, stop)
        if part[0] < part[1]:
            yield part
        start = _trim(text, stop, end)[0]
    if start < end:
        yield start, end


def _count(text: str, spans: list[tuple[int, int]], count_tokens: CountTokens) -> list[int]:
    """The number of tokens of each span, counted in batches of bounded size."""
    counts: list[int] = []
    batch: list[str] = []
    size = 0
    for start, end in spans:
        batch.append(text[start:end])
        size += end - start
        if size >= TOKENIZER_BATCH_CHARS:
            counts += count_tokens(batch)
            batch, size = [], 0
    return counts + (count_tokens(batch) if batch else [])


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    """The span without the white space at its ends."""
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end
