"""Where a quoted text stands in another: exactly, or apart from white space, case and the look of quotes and dashes."""

from __future__ import annotations

import re
from array import array
from functools import lru_cache

from rag_ft.metrics.words import is_unspaced
from rag_ft.records import Chunk, Evidence

Span = tuple[int, int]

# A match that begins or ends inside a word counts only from this length on: "5" is not in "150".
MIN_INSIDE_WORD = 6
MAX_OCCURRENCES = 64

_SAME = str.maketrans(
    {
        **dict.fromkeys("‘’‚‛′`´", "'"),
        **dict.fromkeys("“”„‟″«»", '"'),
        **dict.fromkeys("‐‑‒–—―−", "-"),
        "…": ".",
    }
)
_INVISIBLE = re.compile(r"[\s\u00ad\u200b-\u200f\u2060\ufeff]")


def occurrences(quote: str, text: str) -> list[Span]:
    """The spans of `text` where `quote` stands, in order: exact ones, or else those equal after normalisation.

    Spans at word boundaries come alone where there are any. White space may differ in any way, and be missing.
    """
    quote = quote.strip()
    if not any(character.isalnum() for character in quote):
        return []
    exact = [(at, at + len(quote)) for at in _find_all(quote, text)]
    return _at_boundaries(exact, quote, text) or _at_boundaries(
        _find_folded(quote, text), quote, text
    )


def locate(quote: str, text: str, near: Span | None = None) -> Span | None:
    """The occurrence of `quote` in `text` that is nearest to `near` (overlapping is nearest); None without one."""
    found = occurrences(quote, text)
    if not found or near is None:
        return found[0] if found else None
    return min(found, key=lambda span: max(near[0] - span[1], span[0] - near[1], 0))


def evidence_in_chunk(chunk: Chunk, span: Span) -> Evidence:
    """A span of the chunk's text as evidence, whose offsets count in the document."""
    start, end = span
    return Evidence(chunk.text[start:end], chunk.start + start, chunk.start + end)


def _find_all(quote: str, text: str) -> list[int]:
    found: list[int] = []
    at = text.find(quote)
    while at >= 0 and len(found) < MAX_OCCURRENCES:
        found.append(at)
        at = text.find(quote, at + 1)
    return found


def _find_folded(quote: str, text: str) -> list[Span]:
    """Without the quotation marks and dots around it, where it is not there with them."""
    folded, places = _fold(text)
    for edges in ("", "\"'“”‘’«»… ", "\"'“”‘’«».… "):
        wanted, _ = _fold(quote.strip(edges) if edges else quote)
        if wanted and (found := _find_all(wanted, folded)):
            return [(places[at], places[at + len(wanted) - 1] + 1) for at in found]
    return []


@lru_cache(maxsize=8)
def _fold(text: str) -> tuple[str, array[int]]:
    """The text without white space and case, and for each of its characters the place it came from."""
    folded, places = [], array("I")
    for place, character in enumerate(text.translate(_SAME)):
        if not _INVISIBLE.match(character):
            same = character.casefold()
            folded.append(same)
            places.extend([place] * len(same))
    return "".join(folded), places


def _at_boundaries(spans: list[Span], quote: str, text: str) -> list[Span]:
    bounded = [span for span in spans if not _cuts_word(span, text)]
    if bounded or len(quote) >= MIN_INSIDE_WORD or is_unspaced(quote):
        return bounded or spans
    return []


def _cuts_word(span: Span, text: str) -> bool:
    start, end = span
    before = start > 0 and text[start - 1].isalnum() and text[start].isalnum()
    return before or (end < len(text) and text[end - 1].isalnum() and text[end].isalnum())
