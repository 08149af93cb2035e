"""The pages of plain text, as programs write it that print or convert PDF files."""

from __future__ import annotations

import re
from collections import Counter

# The lines at each edge of a page that may repeat, and on how many of the pages they do.
_EDGE_LINES, _SHARE = 2, 0.5
_PAGE_NUMBER = re.compile(
    r"\W*(?:(?:page|seite|página|pagina|p\.|стр\.|sida|side)\s*)?(?:\d{1,4}|[ivxlc]{1,7})"
    r"(?:\s*(?:/|of|von|de|di|из|av|af)\s*\d{1,4})?\W*",
    re.IGNORECASE,
)
_SENTENCE_END = (".", "!", "?", ":", ";", "。", "！", "？", "…")


def without_page_breaks(text: str) -> str:
    """Returns a text without its form feeds, its page numbers and the lines that repeat at the
    edges of its pages; a sentence goes on over the page."""
    pages = [page.strip("\n").split("\n") for page in text.split("\f")]
    shapes = Counter(shape for lines in pages for shape in {_shape(lines[n]) for n in _edge(lines)})
    least = max(2, _SHARE * len(pages))
    kept: list[str] = []
    for lines in pages:
        heads = [
            n
            for n in _edge(lines)
            if _PAGE_NUMBER.fullmatch(lines[n]) or shapes[_shape(lines[n])] >= least
        ]
        body = "\n".join(line for n, line in enumerate(lines) if n not in heads).strip("\n")
        if not body:
            continue
        goes_on = kept and body[0].islower() and not kept[-1].rstrip().endswith(_SENTENCE_END)
        kept.append(("" if not kept else "\n" if goes_on else "\n\n") + body)
    # A text of equal pages, such as labels, keeps them.
    return "".join(kept) or text.replace("\f", "\n\n")


def _edge(lines: list[str]) -> list[int]:
    """Returns the places of the first and the last lines that are not blank, up to the first blank
    one: a paragraph at the edge is none."""
    filled = [n for n, line in enumerate(lines) if line.strip()]
    found: list[int] = []
    for order, step in ((filled[:_EDGE_LINES], 1), (filled[::-1][:_EDGE_LINES], -1)):
        for n in order:
            found.append(n)
            if not 0 <= n + step < len(lines) or not lines[n + step].strip():
                break
        else:
            # No blank line parts these lines from the text: they belong to it.
            del found[len(found) - len(order) :]
    return found


def _shape(line: str) -> str:
    return " ".join(re.sub(r"\d+", "#", line).split())
