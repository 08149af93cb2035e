"""Reads HTML files: BeautifulSoup's tree to plain text.

lxml parses, because it knows which end tags may be left out (`<td>a<td>b`), in linear time.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from rag_ft.documents.formats.cleaning import decode, one_line
from rag_ft.documents.formats.content import Content, UnreadableError

_NOT_TEXT = ("script", "style", "noscript", "template", "svg", "iframe", "title")
DROPPED = frozenset((*_NOT_TEXT, "nav", "button", "select"))

_HEADINGS = ("h1", "h2", "h3", "h4", "h5", "h6")
_SECTIONS = ("address", "article", "aside", "body", "div", "footer", "form", "header", "main")
_TEXTS = ("blockquote", "details", "figcaption", "figure", "hr", "p", "pre", "section", "summary")
_LISTS = ("dd", "dl", "dt", "ol", "ul", "fieldset")
_TABLES = ("caption", "table", "tbody", "tfoot", "thead")
BLOCKS = frozenset(_HEADINGS + _SECTIONS + _TEXTS + _LISTS + _TABLES)
# A cell that holds one of these lays out the page: it is no cell of a table of facts.
_LAYOUT = ("table", *_HEADINGS)


def read_html(raw: bytes) -> Content:
    """Returns the text with a blank line between blocks and a line per list item and table row.

    Cells are separated by ` | `. The title is the first h1, else the title element, else the first
    h2 or h3.

    Raises:
        UnreadableError: "not text", or "corrupt" where the parser gives up.
    """
    from bs4 import BeautifulSoup
    from bs4.dammit import EncodingDetector
    from bs4.exceptions import ParserRejectedMarkup

    declared = EncodingDetector.find_declared_encoding(
        raw, is_html=True, search_entire_document=False
    )
    # A declaration that can be read byte by byte is not UTF-16, whatever it says. By the HTML
    # standard such a page is UTF-8.
    if declared and declared.lower().startswith(("utf-16", "utf-32")):
        declared = None
    text = decode(raw, declared)
    try:
        soup = BeautifulSoup(text, "lxml")
    except (AssertionError, RecursionError, ValueError, ParserRejectedMarkup) as error:
        raise UnreadableError("corrupt", f"HTML: {error}") from error

    title = one_line(soup.title.get_text(" ")) if soup.title else ""
    heading = soup.h1 or (None if title else soup.find(["h2", "h3"]))
    if heading:
        title = one_line("".join(_pieces(heading)))

    # The breaks around inline elements and empty cells leave spaces at ends of lines and cells.
    text = re.sub(r"(?<![ \t])[ \t]+\n", "\n", "".join(_pieces(soup)))
    text = re.sub(r"^ (?=\S)", "", text, flags=re.MULTILINE)
    text = re.sub(r"(?<! ) {2,}+\| ", " | ", text)
    text = re.sub(r"(^ ?-|\|) +", r"\1 ", text, flags=re.MULTILINE)
    return Content(title, re.sub("\n{3,}", "\n\n", text))


def _pieces(root: Any) -> Iterator[str]:
    """Yields the strings of the tree with breaks between them."""
    from bs4.element import PreformattedString, Tag

    # The id() of every element that holds a table or a heading. Each element is looked at once.
    holders: set[int] = set()
    for found in root.find_all(_LAYOUT):
        parent = found.parent
        while parent is not None and id(parent) not in holders:
            holders.add(id(parent))
            parent = parent.parent

    # A stack instead of recursion, because unclosed elements nest thousands deep. An entry is
    # (node, keep white space, inside a cell or a list item, a cell but not the first of its row).
    stack: list[tuple[Any, bool, bool, bool]] = [(root, False, False, False)]
    while stack:
        node, as_is, inside, later_cell = stack.pop()
        if isinstance(node, Tag):
            if node.name in DROPPED:
                continue
            before, after, inside = _breaks(node.name, inside, later_cell, id(node) in holders)
            yield before
            stack.append((after, True, inside, False))
            # The last child goes onto the stack first, so that the first child is read first.
            children: list[tuple[Any, bool, bool, bool]] = []
            num_cells = 0
            as_is = as_is or node.name == "pre"
            for child in node.children:
                is_cell = isinstance(child, Tag) and child.name in ("td", "th")
                children.append((child, as_is, inside, is_cell and num_cells > 0))
                num_cells += is_cell
            stack += reversed(children)
        elif not isinstance(node, PreformattedString):  # comments and the doctype are left out
            yield str(node) if as_is else re.sub(r"\s+", " ", node)


def _breaks(name: str, inside: bool, later_cell: bool, lays_out: bool) -> tuple[str, str, bool]:
    """Returns the text before and after an element, and whether its content is inside a cell or a
    list item, where a paragraph begins no new line."""
    if name == "br":
        return "\n", "", inside
    if name in ("td", "th"):
        if lays_out:
            return "\n\n", "\n\n", False
        return " | " if later_cell else "", "", True
    if name == "li":
        return "\n- ", "\n", True
    if name == "tr":
        return "\n", "\n", inside
    if name not in BLOCKS:
        return "", "", inside
    return (" ", " ", True) if inside else ("\n\n", "\n\n", False)
