"""Text to sentences and sentences to chunks, both as exact positions in the document.

llama-index's SentenceSplitter returns strings and finds their positions again by search (from the previous start on),
which is wrong where sentences repeat; it fails on a character of more tokens than a chunk, and takes a word the
tokenizer maps to one unknown token for a short one, however long it is. So the packing is done here, on positions.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

CountTokens = Callable[[list[str]], list[int]]
MAX_CHARS_PER_TOKEN = 16  # tables of spaces and endless words make few tokens of many characters
_BATCH_CHARS = 200_000  # tokenised at once: bounds memory on a document of one line

# A sentence's end: CJK marks anywhere; others before white space; a blank line; perhaps a single newline.
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
      | Drs? | Mrs? | Ms | Mme | Mlle | Prof | Rev | Hon | St | Sr | Jr | Gen | Col | Capt | Lt | Sgt | Messrs | Sra?
      | Dra | Uds? | vs | al | cf | viz | resp | incl | approx | bzw | ca | vgl | usw | eds? | Inc | Ltd | Co | Corp
      | Bros | Dept | Univ | Ave | Mt | Jan | Feb | Mar | Apr | Jun | Jul | Aug | Sept? | Oct | Nov | Dec )$""",
    re.VERBOSE,
)
_BEFORE_NUMBER = re.compile(
    r"\b(?:nos?|nr|núm|pág|figs?|eqs?|refs?|sec|chap|ch|vol|art|abs|pp?|est|tel|ext)$",
    re.IGNORECASE,
)
_GERMAN_DAY = re.compile(
    r"\d\.\s+(?:Jan|Feb|März|Apr|Mai|Jun|Jul|Aug|Sep|Okt|Nov|Dez)[a-z]*"
)  # "am 3. Mai"
_AFTER_HOURS = re.compile(r"(?:^|\s|\d)[ap]\.m$")
_LIST_MARK = re.compile(r"[ \t]*(?:[-*•‣–+|>#]|\d{1,3}[.)]|\(?\w{1,3}\))[ \t]")
_WRAPPED_CHARS = 45  # a shorter line is a heading, an address or a field, not the beginning of a wrapped sentence


class Span(NamedTuple):
    """`text[start:end]`, and its tokens when tokenised alone."""

    start: int
    end: int
    num_tokens: int


def split_sentences(text: str) -> list[tuple[int, int]]:
    """(start, end) of every sentence, heading, list item and table row, in order and without surrounding white space.

    Every character that is not white space lies in exactly one of them.
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
    """Chunks of whole sentences, each at most `max_tokens` long; a longer sentence is cut between words, a longer
    word between characters.

    A chunk begins with the last sentences of the one before, as many as fit into `overlap_tokens` (perhaps none).
    Every character that is not white space lies in at least one chunk. `count_tokens` maps texts to their numbers of
    tokens, specials excluded; each chunk is counted as a whole, since counts of its sentences need not add up.
    """
    pieces = _pieces(text, count_tokens, max_tokens, overlap_tokens)
    ranges = list(_pack(pieces, max_tokens, overlap_tokens))
    while ranges:
        counts = _count(text, [(pieces[i].start, pieces[j].end) for i, j in ranges], count_tokens)
        if all(count <= max_tokens or i == j for (i, j), count in zip(ranges, counts, strict=True)):
            break
        ranges = _halved(ranges, [count > max_tokens for count in counts])
    for (i, j), count in zip(ranges, counts if ranges else [], strict=True):
        yield Span(pieces[i].start, pieces[j].end, count)


def _ends_sentence(text: str, match: re.Match[str]) -> bool:
    kind = match.lastgroup
    if kind == "line":
        return _ends_line(text, match.start())
    if kind != "stop":
        return True
    following = text[match.end() : match.end() + 200].lstrip()[:1]
    if following.islower():
        return False
    if match["stop"] != ".":
        return True
    before = text[max(0, match.start() - 24) : match.start()]
    if before[-1:].isdigit() and _GERMAN_DAY.match(text, match.start() - 1):
        return False
    if _LIST_MARK.fullmatch(
        text[text.rfind("\n", max(0, match.start() - 8), match.start()) + 1 : match.end()] + " "
    ):
        return False  # "2. Open the valve": the number belongs to what follows
    if following.isdigit() and _BEFORE_NUMBER.search(before):
        return False
    return _ABBREVIATION.search(before) is None or _AFTER_HOURS.search(before) is not None


def _ends_line(text: str, at: int) -> bool:
    """Whether a single newline ends a sentence: not where a wrapped sentence goes on."""
    if _LIST_MARK.match(text, at + 1):
        return True
    line = text[max(text.rfind("\n", 0, at) + 1, at - 400) : at].rstrip()
    if line.endswith((".", "!", "?", ":", "。", "！", "？", "؟", "…")):
        return True
    return not text[at + 1 : at + 50].lstrip()[:1].islower() and len(line) < _WRAPPED_CHARS


def _pieces(
    text: str, count_tokens: CountTokens, max_tokens: int, overlap_tokens: int
) -> list[Span]:
    """Sentences that fit, and the others cut up so small that some of them make an overlap."""
    small = max(overlap_tokens // 2, max_tokens // 8, 1)
    done: list[Span] = []
    todo = [
        span
        for s in split_sentences(text)
        for span in _cut_if(text, s, MAX_CHARS_PER_TOKEN * max_tokens, 4 * small)
    ]
    while todo:
        counted = [
            Span(*span, n) for span, n in zip(todo, _count(text, todo, count_tokens), strict=True)
        ]
        done += [
            piece
            for piece in counted
            if piece.num_tokens <= max_tokens or piece.end - piece.start == 1
        ]
        over = [
            piece
            for piece in counted
            if piece.num_tokens > max_tokens and piece.end - piece.start > 1
        ]
        todo = [
            cut
            for s, e, n in over
            for cut in _cut(text, s, e, max(1, min((e - s) // 2, (e - s) * small // n)))
        ]
    return sorted(done)


def _pack(pieces: list[Span], max_tokens: int, overlap_tokens: int) -> Iterator[tuple[int, int]]:
    """(first, last) piece of each chunk."""
    first = total = 0
    for n, piece in enumerate(pieces):
        too_long = piece.end - pieces[first].start > MAX_CHARS_PER_TOKEN * max_tokens
        if n > first and (total + piece.num_tokens > max_tokens or too_long):
            yield first, n - 1
            room = min(overlap_tokens, max_tokens - piece.num_tokens)
            first, total = n, 0
            while (
                first > 0
                and total + pieces[first - 1].num_tokens <= room
                and _near(pieces[first - 1], piece, max_tokens)
            ):
                first -= 1
                total += pieces[first].num_tokens
        total += piece.num_tokens
    if pieces:
        yield first, len(pieces) - 1


def _near(earlier: Span, piece: Span, max_tokens: int) -> bool:
    return piece.end - earlier.start <= MAX_CHARS_PER_TOKEN * max_tokens


def _halved(ranges: list[tuple[int, int]], too_long: list[bool]) -> list[tuple[int, int]]:
    """The ranges in order, those that are too long cut in two, none inside another."""
    parts: set[tuple[int, int]] = set()
    for (first, last), wanted in zip(ranges, too_long, strict=True):
        middle = (first + last) // 2
        parts |= (
            {(first, middle), (middle + 1, last)} if wanted and first < last else {(first, last)}
        )
    kept: list[tuple[int, int]] = []
    for part in sorted(parts, key=lambda r: (r[0], -r[1])):
        if not kept or part[1] > kept[-1][1]:
            kept.append(part)
    return kept


def _cut_if(text: str, span: tuple[int, int], longest: int, size: int) -> Iterable[tuple[int, int]]:
    return _cut(text, *span, size) if span[1] - span[0] > longest else (span,)


def _cut(text: str, start: int, end: int, size: int) -> Iterator[tuple[int, int]]:
    """Parts of at most `size` characters, ending at white space, else at a comma, else between two characters."""
    while end - start > size:
        stop = max(text.rfind(mark, start + 1, start + size + 1) for mark in " \n\t\u3000")
        if stop <= start:
            stop = 1 + max(text.rfind(mark, start, start + size) for mark in ",;，；、،؛")
        if stop <= start:
            stop = start + size
            while stop > start + 1 and unicodedata.combining(text[stop]):
                stop -= 1
        part = _trim(text, start, stop)
        if part[0] < part[1]:
            yield part
        start = _trim(text, stop, end)[0]
    if start < end:
        yield start, end


def _count(text: str, spans: list[tuple[int, int]], count_tokens: CountTokens) -> list[int]:
    counts: list[int] = []
    batch: list[str] = []
    size = 0
    for start, end in spans:
        batch.append(text[start:end])
        size += end - start
        if size >= _BATCH_CHARS:
            counts += count_tokens(batch)
            batch, size = [], 0
    return counts + (count_tokens(batch) if batch else [])


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end
