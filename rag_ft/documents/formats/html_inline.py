"""What stands inside a line of HTML: which elements end it, and what the others become."""

from __future__ import annotations

import re
from typing import Any

from rag_ft.documents.formats.alt_text import alt_text
from rag_ft.documents.formats.scripts import END, SUB, SUP, plain_scripts

HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")
_NOT_TEXT = ("script", "style", "template", "svg", "title", "head", "iframe", "noscript")
DROPPED = frozenset((*_NOT_TEXT, "mjx-math"))
# Elements that end the words before and after them; every other element stands inside a line.
BLOCKS = frozenset(
    f"""{" ".join(HEADINGS)} address article aside audio blockquote body canvas caption center dd
    details dialog dir div dl dt fieldset figcaption figure footer form header hgroup hr html legend
    li listing main marquee menu noframes object ol optgroup option p plaintext pre search section
    summary table tbody textarea tfoot thead tr ul video xmp""".split()
)
# Shorter alternative texts of pictures on web pages name icons, logos and buttons.
MIN_ALT_WORDS = 5
# What draws a formula that stands beside as MathML or TeX.
_DRAWN_FORMULA = re.compile(
    r"(?:^|\s)(?:katex-html|MathJax(?:_\w+)?|mwe-math-fallback-\S+)(?:\s|$)"
)
INLINE = {
    "br": ("\n", ""),
    "sup": (SUP, END),
    "sub": (SUB, END),
    "rt": ("(", ")"),
    "q": ("", ""),
    "td": (" ", " "),
}


def clean(text: str, *, keep_lines: bool = False) -> str:
    """Returns the text of a block without marks of raised text and needless blanks."""
    if keep_lines:
        return plain_scripts(text).strip("\n")
    text = plain_inline(text)
    return re.sub(r"[ \t]*\n[ \t]*", "\n", re.sub(r"[ \t]{2,}", " ", text)).strip()


def plain_inline(text: str) -> str:
    """Returns text without the marks of raised text; a reading has brackets once, also where the
    page sets it apart itself."""
    return re.sub(r"[(（]\(([^()]*)\)[)）]", r"(\1)", plain_scripts(text))


def left_out(node: Any) -> bool:
    """Whether nothing of an element is read: comments, scripts, what Office adds, and what draws a
    formula that is read elsewhere."""
    name = node.tag or "-"
    if name.startswith(("-", "!", "o:")) or name in DROPPED:
        return name != "-document"
    return name in ("span", "div", "img") and bool(
        _DRAWN_FORMULA.search(node.attributes.get("class") or "")
    )


def picture_text(image: Any) -> str:
    """Returns what a page says in words about a picture, with a blank before and after; "" where
    that is too short."""
    said = alt_text(image.attributes.get("alt"), MIN_ALT_WORDS)
    return f" {said} " if said else ""


def raised(node: Any) -> str:
    """Returns sup or sub for an element that a style raises or lowers."""
    style = node.attributes.get("style") or "" if node.tag in ("span", "font", "a") else ""
    found = re.search(r"vertical-align\s*:\s*(super|sub|text-top)", style)
    return "" if found is None else "sub" if found[1] == "sub" else "sup"


def heading_level(node: Any, name: str) -> int:
    """The level (1-6) of an element that is a heading by its role, or over what it unfolds; 0 for
    any other."""
    if name == "summary":
        return 6
    if (node.attributes.get("role") or "").strip().lower() != "heading":
        return 0
    level = node.attributes.get("aria-level") or ""
    return min(int(level), 6) if level in "123456789" and level else 2
