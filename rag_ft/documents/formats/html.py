"""HTML to plain text, by BeautifulSoup's tree. lxml parses: it knows which end tags may be left out (`<td>a<td>b`), and
does so in linear time."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from rag_ft.documents.formats.cleaning import decode, one_line
from rag_ft.documents.formats.content import Content, UnreadableError

DROPPED = frozenset((
    "script", "style", "nav", "noscript", "template", "svg", "iframe", "button", "select", "title",
))  # fmt: skip
BLOCKS = frozenset((
    "address", "article", "aside", "blockquote", "body", "caption", "dd", "details", "div", "dl", "dt", "fieldset",
    "figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "main", "ol", "p",
    "pre", "section", "summary", "table", "tbody", "thead", "tfoot", "ul",
))  # fmt: skip
# A cell that holds one of these lays out the page: it is no cell of a table of facts.
_LAYOUT = ("table", "h1", "h2", "h3", "h4", "h5", "h6")


def read_html(raw: bytes) -> Content:
    """Text with a blank line between blocks, a line per list item and table row (cells parted by ` | `).

    The title is the first h1, else the title element, else the first h2 or h3.

    Raises:
        UnreadableError: "not text", or "corrupt" where the parser gives up.
    """
    from bs4 import BeautifulSoup
    from bs4.exceptions import ParserRejectedMarkup

    text = decode(raw, _declared_encoding(raw))
    try:
        soup = BeautifulSoup(text, "lxml")
    except (AssertionError, RecursionError, ValueError, ParserRejectedMarkup) as error:
        raise UnreadableError("corrupt", f"HTML: {error}") from error
    named = one_line(soup.title.get_text(" ")) if soup.title else ""
    heading = soup.h1 or (None if named else soup.find(["h2", "h3"]))
    title = one_line("".join(_pieces(heading))) if heading else named
    text = re.sub(r"(?<![ \t])[ \t]+\n", "\n", "".join(_pieces(soup)))
    text = re.sub(r"^ (?=\S)", "", text, flags=re.MULTILINE)
    text = re.sub(r"(?<! ) {2,}+\| ", " | ", text)
    text = re.sub(r"(^ ?-|\|) +", r"\1 ", text, flags=re.MULTILINE)
    return Content(title, re.sub("\n{3,}", "\n\n", text))


def _declared_encoding(raw: bytes) -> str | None:
    """What the page says of itself. Where that can be read byte by byte it is not UTF-16, whatever it says: by the HTML
    standard UTF-8 is meant."""
    from bs4.dammit import EncodingDetector

    declared = EncodingDetector.find_declared_encoding(
        raw, is_html=True, search_entire_document=False
    )
    return None if declared and declared.lower().startswith(("utf-16", "utf-32")) else declared


def _pieces(root: Any) -> Iterator[str]:
    """Strings of the tree with breaks between them, by a stack: unclosed elements nest thousands deep."""
    from bs4.element import PreformattedString, Tag

    holders = _layout_holders(root)
    stack: list[tuple[Any, bool, bool, bool]] = [(root, False, False, False)]
    while stack:
        node, as_is, inside, barred = stack.pop()
        if isinstance(node, Tag):
            if node.name in DROPPED:
                continue
            before, after, inside = _breaks(node, inside, barred, id(node) in holders)
            yield before
            stack.append((after, True, inside, False))
            stack += reversed(list(_children(node, as_is or node.name == "pre", inside)))
        elif not isinstance(node, PreformattedString):  # comments and the doctype are
            yield str(node) if as_is else re.sub(r"\s+", " ", node)


def _children(node: Any, as_is: bool, inside: bool) -> Iterator[tuple[Any, bool, bool, bool]]:
    """(child, white space as is, inside a cell or item, a cell that is not its row's first)"""
    cells = 0
    for child in node.children:
        is_cell = child.name in ("td", "th")
        yield child, as_is, inside, is_cell and cells > 0
        cells += is_cell


def _layout_holders(root: Any) -> set[int]:
    """The id() of every element that holds a table or a heading; each element is looked at once."""
    holders: set[int] = set()
    for found in root.find_all(_LAYOUT):
        parent = found.parent
        while parent is not None and id(parent) not in holders:
            holders.add(id(parent))
            parent = parent.parent
    return holders


def _breaks(element: Any, inside: bool, barred: bool, lays_out: bool) -> tuple[str, str, bool]:
    """What stands before and after an element, and whether its content is inside a cell or a list item, where a
    paragraph makes no new line."""
    name = element.name
    if name == "br":
        return "\n", "", inside
    if name in ("td", "th"):
        return ("\n\n", "\n\n", False) if lays_out else (" | " if barred else "", "", True)
    if name == "li":
        return "\n- ", "\n", True
    if name == "tr":
        return "\n", "\n", inside
    if name not in BLOCKS:
        return "", "", inside
    return (" ", " ", True) if inside else ("\n\n", "\n\n", False)
