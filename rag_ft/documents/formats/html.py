"""Reads HTML files: the tree of lexbor, a parser that follows the HTML standard, to blocks."""

from __future__ import annotations

import re
from collections import Counter
from html.entities import html5
from typing import Any

from rag_ft.documents.formats.cleaning import one_line
from rag_ft.documents.formats.content import Block, BlockKind, Content, UnreadableError
from rag_ft.documents.formats.encodings import declared_charset, decode
from rag_ft.documents.formats.html_inline import (
    BLOCKS,
    HEADINGS,
    INLINE,
    clean,
    heading_level,
    left_out,
    picture_text,
    raised,
)
from rag_ft.documents.formats.html_lists import OrderedList
from rag_ft.documents.formats.html_tables import layout_tables, rows_of
from rag_ft.documents.formats.mathml import formula_of

_KINDS: dict[str, BlockKind] = {
    **dict.fromkeys(HEADINGS, "heading"),
    **dict.fromkeys(("pre", "listing", "xmp", "textarea"), "code"),
    **dict.fromkeys(("caption", "figcaption"), "caption"),
}
# Tags that are looked at before the page is parsed; bounds keep the time linear.
_TAG = re.compile(
    r"<!--|<(?P<end>/?)(?P<name>script|style|textarea|title|xmp|noscript|iframe|nav|button|select"
    r"|datalist)\b(?:[^>\"']|\"[^\"]{0,2000}\"|'[^']{0,2000}'){0,500}+>",
    re.IGNORECASE,
)
# What stands inside these is no markup; the first are left out with it.
_LEFT_OUT_RAW, _RAW = ("noscript", "iframe"), ("script", "style", "textarea", "title", "xmp")
_ENTITY = re.compile(r"&(?!(?:amp|lt|gt|quot|apos);)([A-Za-z][A-Za-z0-9]{1,31});")
_EMPTY = re.compile(
    r"<((title|script|style|textarea|iframe|noscript|xmp|button|select|a|p|div|span)"
    r"(?:\s[^<>]{0,500})?)/>",
    re.IGNORECASE,
)
_XHTML = re.compile(r"\s*(?:<\?xml|<!DOCTYPE html PUBLIC \"-//W3C//DTD XHTML)", re.IGNORECASE)


def read_html(raw: bytes) -> Content:
    """Returns headings, paragraphs, list items, table rows and code; cells are parted by ` | `.

    Scripts, navigation and controls are left out. The title is the first h1, else the title
    element, else the first h2 or h3.

    Raises:
        UnreadableError: "not text".
    """
    try:
        text = decode(raw, declared_charset(raw))
    except UnreadableError:
        # One odd byte in a page that declares nothing does not reject it.
        text = decode(raw, "utf-8")
    return content_of_html(text)


def content_of_html(text: str) -> Content:
    """Returns the content of a page that is decoded already.

    Raises:
        UnreadableError: "corrupt" where the parser gives up.
    """
    from selectolax.lexbor import LexborHTMLParser

    try:
        tree = LexborHTMLParser(_without_skipped(_as_html(text)))
        blocks = _Walk().blocks_of(tree.root) if tree.root is not None else []
    except (RuntimeError, ValueError, MemoryError) as error:
        raise UnreadableError("corrupt", f"HTML: {error}") from error
    named = tree.css_first("title")
    title = one_line(named.text()) if named is not None else ""
    headings = [block for block in blocks if block.kind == "heading"]
    first = next((block.text for block in headings if block.level == 1), None)
    if first is None and not title:
        first = next((block.text for block in headings if block.level <= 3), None)
    return Content(first or title, blocks)


def blocks_of_fragment(text: str) -> list[Block]:
    """Returns the blocks of a piece of HTML inside another format."""
    return content_of_html(text).blocks


def _as_html(text: str) -> str:
    """Writes XHTML as HTML, where `<title/>` and `<script/>` would swallow all that follows."""
    if not _XHTML.match(text):
        return text
    from lxml import etree

    parser = etree.XMLParser(resolve_entities=False, no_network=True, huge_tree=False)
    # XML knows five names of characters, pages have those of HTML.
    known = _ENTITY.sub(lambda m: html5.get(f"{m[1]};", m[0]), text)
    try:
        root = etree.fromstring(re.sub(r"^\s*<\?xml[^>]*\?>", "", known).encode(), parser)
    except (etree.XMLSyntaxError, ValueError):
        return _EMPTY.sub(r"<\1></\2>", text)
    return etree.tostring(root, method="html", encoding="unicode")


def _without_skipped(text: str) -> str:
    """Removes navigation and controls from a page, each from its start tag to its own end tag; one
    that never ends stays.

    The tree is no help here: by the standard, an element that was left open inside decides where
    the outer one ends.
    """
    cut: list[tuple[int, int]] = []
    opened: list[tuple[str, int]] = []
    counts = Counter[str]()  # of the open elements by name
    without_end: set[str] = set()
    at = 0
    while (match := _TAG.search(text, at)) is not None:
        at = match.end()
        name = (match["name"] or "").lower()
        if not name:
            end = text.find("-->", at)
            at = end + 3 if end >= 0 else len(text)
        elif name in _LEFT_OUT_RAW or name in _RAW:
            is_open = not match["end"] and name not in without_end
            closing = re.compile(f"</{name}", re.IGNORECASE).search(text, at) if is_open else None
            if is_open and closing is None:
                without_end.add(name)
            at = at if closing is None else _tag_end(text, closing.end())
            if name in _LEFT_OUT_RAW:
                # One that never ends would swallow the rest of the page: its tag alone goes.
                cut.append((match.start(), at))
        elif not match["end"]:
            opened.append((name, match.start()))
            counts[name] += 1
        else:
            while opened and counts[name]:
                last, start = opened.pop()
                counts[last] -= 1
                if last == name:
                    cut.append((start, match.end()))
                    break
    parts, at = [], 0
    for start, end in sorted(cut, key=lambda span: (span[0], -span[1])):
        if start >= at:
            parts += [text[at:start], " "]
        at = max(at, end)
    return "".join([*parts, text[at:]])


def _tag_end(text: str, start: int) -> int:
    end = text.find(">", start)
    return end + 1 if end >= 0 else len(text)


class _Walk:
    """Goes through a tree from its first node to its last, and collects blocks."""

    def __init__(self) -> None:
        self.blocks: list[Block] = []
        # The pieces of the block that is read now.
        self.pieces: list[str] = []
        self.kind: BlockKind = "paragraph"
        self.level = 0
        self.marker = ""
        self.tight = False
        # The open lists; None for bullets.
        self.lists: list[OrderedList | None] = []

    def blocks_of(self, root: Any) -> list[Block]:
        # A stack instead of recursion, because unclosed elements nest thousands deep. An entry is
        # a node to enter, or the name of an element to leave.
        layouts = layout_tables(root)
        stack: list[Any] = [root]
        while stack:
            node = stack.pop()
            if isinstance(node, str):
                self._leave(node)
                continue
            name = node.tag or "-"
            if name == "-text":
                self._add(node.text_content or "")
            elif name == "table" and node.mem_id not in layouts:
                self._flush()
                self.blocks += rows_of(node)
            elif (formula := formula_of(node)) is not None:
                self.pieces.append(formula)
            elif name == "img" and not left_out(node):
                self._add(picture_text(node))
            elif not left_out(node):
                name = raised(node) or name
                self._enter(node, name)
                stack.append(name)
                stack += reversed(list(node.iter(include_text=True)))
        self._flush()
        return self.blocks

    def _add(self, text: str) -> None:
        self.pieces.append(text if self.kind == "code" else re.sub(r"[ \t\n\r\f]+", " ", text))

    def _enter(self, node: Any, name: str) -> None:
        if name in ("td", "th"):
            self._flush()
        elif name not in BLOCKS:
            self.pieces.append(INLINE.get(name, ("", ""))[0])
            return
        elif self.kind == "item" and name in ("p", "div", "span") and not self._has_text():
            return
        elif self.kind == "item" and name in ("p", "div"):
            self.pieces.append(" ")
            return
        else:
            self._flush()
        if name in ("ol", "ul", "menu", "dir"):
            self.lists.append(OrderedList(node) if name == "ol" else None)
        elif name == "li":
            self._begin_item(node)
        elif name in _KINDS:
            self.kind = _KINDS[name]
            self.level = int(name[1]) if name in HEADINGS else 0
        elif self.kind != "item" and (level := heading_level(node, name)):
            self.kind, self.level = "heading", level
        elif name == "dd":
            self.tight = True

    def _begin_item(self, node: Any) -> None:
        self.kind, self.marker = "item", "- "
        indent = "  " * max(0, len(self.lists) - 1)
        if self.lists and (ordered := self.lists[-1]) is not None:
            self.marker = ordered.marker(node)
        self.marker = indent + self.marker
        self.tight = bool(self.blocks) and self.blocks[-1].kind == "item"

    def _leave(self, name: str) -> None:
        if name in ("p", "div") and self.kind == "item":
            self.pieces.append(" ")
        elif name in BLOCKS or name in ("td", "th"):
            self._flush()
            if name in ("ol", "ul", "menu", "dir") and self.lists:
                self.lists.pop()
        else:
            self.pieces.append(INLINE.get(name, ("", ""))[1])

    def _has_text(self) -> bool:
        return any(not piece.isspace() for piece in self.pieces)

    def _flush(self) -> None:
        """Ends the block that is read, if it has text."""
        text = clean("".join(self.pieces), keep_lines=self.kind == "code")
        if self.kind == "heading":
            text = " ".join(text.split())
        if text.strip():
            self.blocks.append(Block(self.kind, self.marker + text, self.level, tight=self.tight))
        elif self.marker and not self.pieces:
            return  # the item begins with a block of its own
        self.pieces.clear()
        self.kind, self.level, self.marker, self.tight = "paragraph", 0, "", False
