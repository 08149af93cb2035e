"""Reads Markdown files with markdown-it: its tokens to blocks, without the marks.

Where it is unclear whether something is a mark, it stays.
"""

from __future__ import annotations

import html
import itertools
import re
import textwrap
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import yaml
from lxml.html import defs

from rag_ft.documents.formats.cleaning import tidy, unwrap
from rag_ft.documents.formats.content import Block, BlockKind, Content
from rag_ft.documents.formats.encodings import decode
from rag_ft.documents.formats.html import blocks_of_fragment
from rag_ft.documents.formats.html_inline import BLOCKS, INLINE, plain_inline
from rag_ft.documents.formats.markdown_marks import (
    BOX,
    MDX,
    SHORTCODE,
    after_link,
    box_title,
    plain_marks,
)

_TAG_NAMES = defs.tags | {"main", "picture", "details", "summary", "section", "article", "aside"}
# Possessive quantifiers and bounds keep each pattern linear, also for a line of a million stars.
_FENCED = (
    r"^[ \t]*+(?P<fence>`{3,}+(?=[^`\n]*\n)|~{3,}+)[^\n]*\n(?P<block>.*?)"
    r"(?:^[ \t]*+(?P=fence)[`~]*+[ \t]*$|\Z)"
)
# A code span ends at as many backticks as it began with, in the same paragraph.
_CODE = (
    r"(?<![\\`])(?P<ticks>`{1,9}+)(?P<code>(?:[^\n]|\n(?![ \t]{0,8}(?:[\n>|#]|[-*+][ ]))){1,1000}?)"
    r"(?<!`)(?P=ticks)(?!`)"
)
_NO_CODE = rf"(?P<kept>{_FENCED}|{_CODE})"
_COMMENT = re.compile(rf"{_NO_CODE}|<!--.*?(?:-->|\Z)", re.DOTALL | re.MULTILINE)
# In a table of HTML a blank line would end the HTML.
_TABLE = re.compile(rf"{_NO_CODE}|<table\b", re.DOTALL | re.MULTILINE | re.IGNORECASE)
_BLANK_LINES = re.compile(r"\n(?:[ \t]*+\n)++")
_TABLE_END = re.compile("</table", re.IGNORECASE)
_BOX = re.compile(rf"{_NO_CODE}|{BOX}", re.DOTALL | re.MULTILINE)
_MDX = re.compile(rf"{_NO_CODE}|{MDX}", re.DOTALL | re.MULTILINE)
_SHORTCODE = re.compile(rf"{_NO_CODE}|{SHORTCODE}", re.DOTALL | re.MULTILINE)
_has_box = re.compile(r"^[ ]{0,3}(?::::|!!!|\?\?\?|===[ ]\")", re.MULTILINE).search
# A tag whose `>` stands alone in a line, where it would begin a quotation.
_LATE_END = re.compile(
    r"(</?(?P<name>[a-zA-Z][a-zA-Z0-9]*+)(?P<more>[^<>`]{0,300}?="
    r"(?:[^<>`\"']|\"[^\"<`]{0,300}\"|'[^'<`]{0,300}'){0,300}?)?)\n[ \t]*(?=>)"
)
# A link definition: one word that looks like an address, and perhaps a title in quotes.
# `[Anna]: Come at nine.` is no definition.
_DEFINITION = re.compile(
    r"^[ \t]*+\[(?!\^)[^\]\n]{1,200}\]:[ \t]*+"
    r"(?:<[^<>\n]{0,1000}>|(?=\S*?(?:[/#]|[^\W\d_][.:]\w))\S++)"
    r"(?:[ \t]++(?:\"[^\"\n]*\"|'[^'\n]*'|\([^()\n]*\)))?$\n?",
    re.MULTILINE,
)
_TAG = re.compile(r"<(/?)([a-zA-Z][a-zA-Z0-9]*)(?![\w-]).*>", re.DOTALL)
# A link whose address is defined nowhere.
_TWO_BRACKETS = re.compile(r"\[([^\[\]\n]{1,500})\]\[[^\[\]\n]{0,200}\]")
# What tags inside a line become: the text before and after what they hold.
_INLINE_TAGS = {
    **{slash + name: " " for name in (*BLOCKS, "td", "th") for slash in ("", "/")},
    **{name: before for name, (before, _) in INLINE.items() if name != "td"},
    **{f"/{name}": after for name, (_, after) in INLINE.items() if name != "td"},
    **dict.fromkeys(("/br", "hr"), "\n"),
}
# What these hold is no text.
_HIDDEN = ("style", "script")


def read_markdown(raw: bytes) -> Content:
    """Returns headings, paragraphs, list items, table rows, footnotes and code, without the marks
    of emphasis and links. HTML is read as HTML.

    The metadata are the scalars of the YAML front matter. The title is that of the front matter,
    else the first heading of level 1, else the first heading.

    Raises:
        UnreadableError: "not text".
    """
    return content_of_markdown(decode(raw))


def read_mdx(raw: bytes) -> Content:
    """Returns the same for MDX, whose imports and components are no text."""
    text = _MDX.sub(lambda m: m["kept"] or "", tidy(decode(raw), keep_indent=True))
    return content_of_markdown(text)


def content_of_markdown(text: str) -> Content:
    """Returns the content of Markdown that is decoded already; see `read_markdown`."""
    metadata, text = front_matter(tidy(text, keep_indent=True))
    # Comments go, also around code; inside code they stay, and one that never ends is none.
    if "<!--" in text:
        text = _COMMENT.sub(lambda m: m[0] if m["kept"] or not m[0].endswith("-->") else "", text)
    if "<table" in text.lower():
        text = _with_whole_tables(text)
    if _has_box(text):
        text = _BOX.sub(lambda m: m[0] if m["kept"] else box_title(m), text)
    if "{{" in text or "{%" in text:
        text = _SHORTCODE.sub(lambda m: m["kept"] or "", text)
    blocks = list(_blocks(_LATE_END.sub(_whole_tag, text)))
    title = html.unescape(str(metadata.pop("title", "")))
    headings = [block for block in blocks if block.kind == "heading"]
    if not title and headings:
        title = min(headings, key=lambda block: block.level > 1).text
    return Content(title, blocks, metadata)


def front_matter(text: str) -> tuple[dict[str, Any], str]:
    """Returns the scalars of a YAML block at the very top, and the text after the block.

    Lists, objects and empty values are left out. Without a valid block the text stays whole.
    """
    match = re.match(r"---\n(.*?)\n---(?:\n|$)", text, re.DOTALL)
    try:
        values = yaml.safe_load(match[1]) if match else None
    except (yaml.YAMLError, ValueError, RecursionError):  # ValueError: a date such as 2024-13-45
        return {}, text
    if match is None or not isinstance(values, dict):
        return {}, text
    scalars: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, int | float | bool):
            scalars[str(key)] = value
        elif value is not None and not isinstance(value, list | dict | set | tuple):
            scalars[str(key)] = tidy(str(value))
    return scalars, text[match.end() :]


def _with_whole_tables(text: str) -> str:
    """Returns the text without blank lines inside its tables of HTML."""
    parts: list[str] = []
    at = 0
    while (match := _TABLE.search(text, at)) is not None:
        if match["kept"]:
            parts.append(text[at : match.end()])
            at = match.end()
            continue
        end = _TABLE_END.search(text, match.end())
        if end is None:
            break
        parts += [text[at : match.start()], _whole_table(text[match.start() : end.start()])]
        at = end.start()
    return "".join([*parts, text[at:]])


def _whole_table(table: str) -> str:
    """Returns a table of HTML without blank lines. What stands between blank lines and begins with
    no tag is Markdown, as GitHub reads it, and becomes HTML."""
    first, *inner = _BLANK_LINES.split(table)
    parts = [first]
    for is_html, group in itertools.groupby(inner, lambda part: part.lstrip().startswith("<")):
        if is_html:
            parts += group
        else:
            # Blank lines inside code would end the HTML again. A cell of one paragraph is a fact.
            made = _parser().render(textwrap.dedent("\n\n".join(group))).strip()
            if made.count("<p>") == 1:
                made = made.removeprefix("<p>").removesuffix("</p>")
            parts.append(_BLANK_LINES.sub("\n", made))
    return "\n".join(parts)


def _whole_tag(match: re.Match[str]) -> str:
    is_tag = match["more"] or match["name"].lower() in _TAG_NAMES
    return f"{match[1]} " if is_tag else match[0]


@lru_cache(maxsize=1)
def _parser() -> Any:
    from markdown_it import MarkdownIt

    parser = MarkdownIt("commonmark", {"maxNesting": 60}).enable(["table", "strikethrough"])
    # `[Anna]: Come at nine.` and `<Enter>` at the beginning of a line are text.
    rules = {rule.name: rule.fn for rule in parser.block.ruler.__rules__}

    def reference(state: Any, start: int, end: int, silent: bool) -> bool:
        return _DEFINITION.match(_line(state, start)) is not None and bool(
            rules["reference"](state, start, end, silent)
        )

    def html_block(state: Any, start: int, end: int, silent: bool) -> bool:
        tag = re.match(r"[ ]{0,3}</?([a-zA-Z][a-zA-Z0-9]*)(?![\w-])", _line(state, start))
        known = tag is not None and tag[1].lower() in _TAG_NAMES
        return known and bool(rules["html_block"](state, start, end, silent))

    def star(state: Any, silent: bool) -> bool:
        # `2*3*4` is a product: a star between letters or digits stays.
        at, text = state.pos, state.src
        around = text[max(0, at - 1) : at] + text[at + 1 : at + 2]
        if text[at] != "*" or len(around) != 2 or not around.isalnum():
            return False
        state.pending += "" if silent else "*"
        state.pos += 1
        return True

    autolink = next(r.fn for r in parser.inline.ruler.__rules__ if r.name == "autolink")

    def address(state: Any, silent: bool) -> bool:
        # `Map<std::string>` is no address.
        inside_word = state.pos > 0 and state.src[state.pos - 1].isalnum()
        return not inside_word and bool(autolink(state, silent))

    parser.inline.ruler.before("emphasis", "star", star)
    parser.inline.ruler.at("autolink", address)
    parser.block.ruler.at("reference", reference)
    parser.block.ruler.at("html_block", html_block, {"alt": ["paragraph", "reference"]})
    return parser


def _line(state: Any, number: int) -> str:
    return state.src[state.bMarks[number] + state.tShift[number] : state.eMarks[number]]


def _blocks(text: str) -> Iterator[Block]:
    """Yields the blocks of a text; each is tight where no blank line stands before it."""
    lines = text.split("\n")
    markers: list[str] = []  # of the list items around a token
    marker = ""  # of an item that has no text yet
    level, end = 0, -1
    cells: list[str] | None = None
    place, head = [0, 0], False
    for token in _parser().parse(text):
        kind, opened = token.type, token.map or [0, 0]
        if kind == "list_item_open":
            markers.append(_marker(token, lines[opened[0]]))
            marker = markers[-1]
        elif kind == "list_item_close":
            markers.pop()
            marker = ""
        elif kind == "heading_open":
            level = int(token.tag[1])
        elif kind == "tr_open":
            cells, place = [], opened
        elif kind == "tr_close" and cells is not None:
            yield Block("row", " | ".join(cells).rstrip(), int(head), tight=not head)
            cells, end = None, place[1]
        elif kind in ("thead_open", "tbody_open"):
            head = kind == "thead_open"
        elif kind == "inline" and cells is not None:
            cells.append(" ".join(_inline(token).split()))
        elif kind == "inline":
            said = (
                marker + unwrap(_inline(token)) if not level else " ".join(_inline(token).split())
            )
            name: BlockKind = "heading" if level else "item" if marker else "paragraph"
            yield Block(name, said, level, tight=opened[0] == end)
            level, marker, end = 0, "", opened[1]
        elif kind == "html_block":
            yield from blocks_of_fragment(token.content)
            marker, end = "", opened[1]
        elif kind in ("fence", "code_block"):
            yield Block("code", token.content, tight=opened[0] == end)
            marker, end = "", opened[1]


def _marker(token: Any, line: str) -> str:
    """Returns the marker of a list item as it stands in its line, with its indentation."""
    marker = f"{token.info}{token.markup} "
    bare = line.lstrip()
    return line[: len(line) - len(bare)] + marker if bare.startswith(marker.rstrip()) else marker


def _inline(token: Any) -> str:
    """Returns the text of a paragraph, heading or cell, its lines as in the file."""
    parts: list[str] = []
    codes: list[str] = []
    hidden = ""  # the element whose content is left out
    children = token.children or []
    for number, child in enumerate(children):
        if hidden:
            ended = child.type == "html_inline" and _tag_name(child) == f"/{hidden}"
            hidden = "" if ended else hidden
        elif child.type in ("softbreak", "hardbreak"):
            parts.append("\n")
        elif child.type == "image":
            parts.append(_inline(child))
        elif child.type == "html_inline":
            name = _tag_name(child)
            known = name.lstrip("/") in _TAG_NAMES
            if name in _HIDDEN and any(_tag_name(c) == f"/{name}" for c in children[number:]):
                hidden = name
            inner = _INLINE_TAGS.get(name, "") if known else child.content
            spaced = not parts or parts[-1].endswith((" ", "\n"))
            parts += [] if not inner or (inner == " " and spaced) else [inner]
        elif child.type == "code_inline":
            # Code keeps its brackets: it is put back at the end.
            codes.append(child.content)
            parts.append(f"\0{len(codes) - 1}\0")
        elif number and children[number - 1].type in ("link_close", "image"):
            parts.append(after_link(child.content))
        else:
            said = child.content.removeprefix("mailto:")
            # A blank of a tag is not doubled.
            parts.append(said.lstrip(" ") if parts and parts[-1] == " " else said)
    said = _TWO_BRACKETS.sub(r"\1", plain_inline("".join(parts)))
    said = plain_marks(said)
    return re.sub("\0(\\d+)\0", lambda match: codes[int(match[1])], said)


def _tag_name(token: Any) -> str:
    """Returns the name of a tag inside a line, with the slash of an end tag; else ""."""
    tag = _TAG.fullmatch(token.content) if token.type == "html_inline" else None
    return tag[1] + tag[2].lower() if tag else ""
