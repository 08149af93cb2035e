"""Reads XML: articles in JATS as articles, any other file as the texts of its elements."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from rag_ft.documents.formats.content import Block, Content, UnreadableError
from rag_ft.documents.formats.scripts import END, SUB, SUP, plain_scripts

_MARKS = {"sup": SUP, "sub": SUB}
_LEFT_OUT = frozenset(("graphic", "inline-graphic", "object-id", "journal-meta"))
# Their titles are headings.
_TITLED = frozenset(("sec", "abstract", "ack", "app", "app-group", "ref-list", "glossary"))
_BLOCKS = frozenset(
    ("p", "title", "label", "caption", "list", "list-item", "sec", "table-wrap", "fig")
)
# What is read of a figure or a table by itself, and what is not read.
_FIGURE_PARTS = "label caption table alternatives media permissions alt-text long-desc oasis-table"
_OF_A_FIGURE = frozenset(_FIGURE_PARTS.split())
# They hold fields side by side, with nothing between them.
_FIELD_HOLDERS = """
    name string-name person-group element-citation citation-alternatives ref aff date collab
    institution-wrap addr-line contrib contrib-group"""
_FIELDS = frozenset(_FIELD_HOLDERS.split())
# Their content is read as if it stood by itself.
_CONTAINERS = """
    disp-quote boxed-text statement fn-group table-wrap-foot fig-group table-wrap-group
    supplementary-material"""
_OPENED = frozenset(_CONTAINERS.split())


def read_xml(raw: bytes) -> Content:
    """Returns title, authors, abstract, keywords, sections, lists, tables and captions of an
    article, and the letters and answers that follow it; of other XML a paragraph for each element
    with text of its own.

    Raises:
        UnreadableError: "corrupt".
    """
    from lxml import etree

    parser = etree.XMLParser(
        resolve_entities=False, no_network=True, load_dtd=False, remove_comments=True,
        remove_pis=True, recover=True, huge_tree=False,
    )  # fmt: skip
    try:
        root = etree.fromstring(raw, parser)
    except (etree.XMLSyntaxError, ValueError) as error:
        raise UnreadableError("corrupt", f"XML: {error}") from error
    if root is None:
        raise UnreadableError("corrupt", "XML: no element")
    article = root if _name(root) == "article" else root.find(".//article")
    if article is None or (article.find(".//body") is None and article.find(".//abstract") is None):
        return Content("", list(_any(root)))
    named = article.find(".//article-title")
    title = _text(named) if named is not None else ""
    blocks = [Block("heading", title, 1)] if title else []
    names = [_person(name) for name in article.iterfind(".//front//contrib/name")]
    names += [_text(place) for place in article.iterfind(".//front//aff")]
    blocks += [Block("paragraph", "; ".join(names))] if names else []
    for abstract in article.iterfind(".//abstract"):
        blocks.append(Block("heading", "Abstract", 2))
        blocks += _sections(abstract, 3)
    if words := [_text(word) for word in article.iterfind("./front//kwd")]:
        blocks.append(Block("paragraph", "Keywords: " + "; ".join(words)))
    for part in (article.find(".//body"), article.find("./back")):
        if part is not None:
            blocks += _sections(part, 2)
    for letter in article.iterfind("./sub-article"):
        named = letter.find(".//article-title")
        blocks.append(Block("heading", "" if named is None else _text(named), 2))
        for part in letter.iterfind("./body"):
            blocks += _sections(part, 3)
    return Content(title, blocks)


def _sections(parent: Any, level: int) -> Iterator[Block]:
    for child in parent:
        name = _name(child)
        if name in _TITLED:
            title = child.find("title")
            label = child.find("label")
            said = " ".join(filter(None, (_text(e) for e in (label, title) if e is not None)))
            if said:
                yield Block("heading", said, min(level, 6))
            yield from _sections(child, level + 1)
        elif name == "ref":
            yield Block("item", "- " + _text(child), tight=child.getprevious() is not None)
        elif name in ("title", "label"):
            if _name(parent) not in _TITLED:
                yield Block("paragraph", _text(child))
        elif name == "p":
            inner = [e for e in child if _name(e) in ("list", "table-wrap", "fig", "disp-quote")]
            yield Block("paragraph", _text(child, without=inner))
            for element in inner:
                yield from _sections([element], level)
        elif name == "list":
            for number, item in enumerate(child.iterfind("list-item")):
                yield Block("item", "- " + _text(item), tight=number > 0)
        elif name in ("table-wrap", "fig"):
            label, caption = child.find("label"), child.find("caption")
            said = " ".join(_text(e) for e in (label, caption) if e is not None)
            if said:
                yield Block("caption", said)
            yield from _table(child)
            # Notes, and figures that belong to this one.
            yield from _sections([e for e in child if _name(e) not in _OF_A_FIGURE], level)
        elif name in _OPENED:
            yield from _sections(child, level)
        elif isinstance(child.tag, str) and name not in _LEFT_OUT:
            yield Block("paragraph", _text(child))


def _table(parent: Any) -> Iterator[Block]:
    is_first = True
    for row in parent.iter("tr"):
        cells = [_text(cell) for cell in row if _name(cell) in ("td", "th")]
        is_head = _name(row.getparent()) == "thead"
        if any(cells):
            yield Block("row", " | ".join(cells), int(is_head and is_first), tight=not is_first)
            is_first = False


def _text(element: Any, without: Any = ()) -> str:
    """Returns the text of an element in one line."""
    pieces: list[str] = []

    def collect(node: Any, depth: int) -> None:
        mark = _MARKS.get(_name(node), "")
        pieces.append(mark + (node.text or ""))
        for child in node:
            if child in without or not isinstance(child.tag, str):
                pieces.append(child.tail or "")
                continue
            if depth < 200:
                pieces.append(" " if _name(child) in _BLOCKS else "")
                collect(child, depth + 1)
            is_field = _name(node) in _FIELDS and not child.tail and child.getnext() is not None
            apart = _name(child) in _BLOCKS or is_field
            pieces.append((" " if apart else "") + (child.tail or ""))
        pieces.append(END if mark else "")

    collect(element, 0)
    return " ".join(plain_scripts("".join(pieces)).split())


def _person(name: Any) -> str:
    """Returns the name of an author as people say it."""
    parts = (name.find(part) for part in ("prefix", "given-names", "surname", "suffix"))
    return " ".join(_text(part) for part in parts if part is not None) or _text(name)


def _any(root: Any) -> Iterator[Block]:
    for element in root.iter():
        said = " ".join((element.text or "").split()) if isinstance(element.tag, str) else ""
        if said:
            yield Block("paragraph", said)
        tail = " ".join((element.tail or "").split())
        if tail:
            yield Block("paragraph", tail)


def _name(element: Any) -> str:
    return element.tag.rsplit("}", 1)[-1] if isinstance(element.tag, str) else ""
