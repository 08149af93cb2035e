"""Reads Markdown files: removes the marks and keeps the text.

Where it is unclear whether something is a mark, it stays.
"""

from __future__ import annotations

import re
from typing import Any

import yaml
from lxml.html import defs

from rag_ft.documents.formats.cleaning import decode, tidy, unwrap
from rag_ft.documents.formats.content import Content

_TAG_NAMES = defs.tags | {"main", "picture"}
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
_FENCE = re.compile(_FENCED, re.DOTALL | re.MULTILINE)
_CODE_SPAN = re.compile(_CODE)
_COMMENT = re.compile(rf"(?P<kept>{_FENCED}|{_CODE})|<!--.*?(?:-->|\Z)", re.DOTALL | re.MULTILINE)
_HEADING = re.compile(r"^[ ]{0,3}(#{1,6})[ \t]+([^\n]+)$", re.MULTILINE)
_UNDERLINED = re.compile(r"^(?=\S)([^\n]+)\n(=++|-{3,}+)$", re.MULTILINE)
# A link definition: one word that looks like an address, and perhaps a title in quotes.
# `[Anna]: Come at nine.` is no definition.
_DEFINITION = re.compile(
    r"^[ \t]*+\[(?!\^)[^\]\n]{1,200}\]:[ \t]*+"
    r"(?:<[^<>\n]{0,1000}>|(?=\S*?(?:[/#]|[^\W\d_][.:]\w))\S++)"
    r"(?:[ \t]++(?:\"[^\"\n]*\"|'[^'\n]*'|\([^()\n]*\)))?$\n?",
    re.MULTILINE,
)
_TAG = re.compile(r"</?([a-zA-Z][a-zA-Z0-9]*)(?![\w-])[^<>\n]{0,300}>")
# What each mark becomes, in this order.
_MARKS = (
    (_UNDERLINED, r"\1"),
    # A rule (`---`).
    (re.compile(r"^[ ]{0,3}(?:[-*_][ \t]*+){3,}+$", re.MULTILINE), ""),
    # The row of dashes below the head of a table, then the outer bars of table rows.
    (
        re.compile(
            r"^[ \t]*+(?:\|[ \t]*+)?:?-{2,}+:?[ \t]*+(?:\|[ \t]*+:?-{2,}+:?[ \t]*+)*+\|?\n",
            re.MULTILINE,
        ),
        "",
    ),
    (re.compile(r"^[ \t]*+\|[ \t]*+([^\n]*)\|$", re.MULTILINE), r"\1"),
    # Quotations.
    (re.compile(r"^[ \t]*+>[ \t]?", re.MULTILINE), ""),
    # Links and images: their text stays. Of `<a@b.org>` and `<https://...>` the address stays.
    (_DEFINITION, ""),
    (re.compile(r"!?\[([^\[\]\n]{0,500})\]\([^()\n]{0,1000}\)"), r"\1"),
    (re.compile(r"\[([^\[\]\n]{1,500})\]\[[^\[\]\n]{0,200}\]"), r"\1"),
    (re.compile(r"(?<!\w)<(?:mailto:)?([^<>\s@]{1,200}@[^<>\s@]{1,200})>"), r"\1"),
    (re.compile(r"(?<!\w)<([a-zA-Z][\w+.\-]{1,30}:[^<>\s]{1,1000})>"), r"\1"),
    # Tags of HTML are removed, while `<folder>` and `Vec<String>` stay.
    (_TAG, lambda match: "" if match[1].lower() in _TAG_NAMES else match[0]),
    # Emphasis.
    (re.compile(r"(\*\*|__)(?=\S)([^\n]{1,300}?)(?<=\S)\1"), r"\2"),
    (re.compile(r"(?<![\w*])\*(?=\S)([^*\n]{1,300})(?<=\S)\*(?![\w*])"), r"\1"),
    (re.compile(r"(?<!\w)_(?=\S)([^_\n]{1,300})(?<=\S)_(?!\w)"), r"\1"),
    # Escapes, after all marks: `\*` is a star.
    (re.compile(r"\\([\\`*_{}\[\]()#+\-.!|>])"), r"\1"),
)


def read_markdown(raw: bytes) -> Content:
    """Returns headings, paragraphs, list items, table rows, footnotes and code, without the marks
    of emphasis and links.

    The metadata are the scalars of the YAML front matter. The title is that of the front matter,
    else the first heading of level 1, else the first heading.

    Raises:
        UnreadableError: "not text".
    """
    metadata, text = front_matter(tidy(decode(raw)))

    # Comments go, also around code; inside code they stay, and one that never ends is none.
    def drop_comment(match: re.Match[str]) -> str:
        return match[0] if match["kept"] or not match[0].endswith("-->") else ""

    text = _COMMENT.sub(drop_comment, text)

    # Fenced code stays as it is: `parts` is the text before, between and after the blocks.
    parts, blocks = [], []
    start = 0
    for fence in _FENCE.finditer(text):
        parts.append(text[start : fence.start()])
        blocks.append(fence["block"])
        start = fence.end()
    parts.append(text[start:])

    title = str(metadata.pop("title", ""))
    if not title:
        # (not of level 1, place, text): the least is the heading that counts.
        outside = "\n".join(parts)
        headings = [(len(m[1]) > 1, m.start(), _heading(m[2])) for m in _HEADING.finditer(outside)]
        headings += [(m[2][0] != "=", m.start(), m[1]) for m in _UNDERLINED.finditer(outside)]
        title = _plain(min(headings)[2]) if headings else ""
    whole = ""
    for part, block in zip(parts, [*blocks, ""], strict=True):
        whole += unwrap(_plain(part)) + block
    return Content(title, whole, metadata)


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


def _plain(text: str) -> str:
    """Returns the text without marks."""
    # Code spans are replaced by `NUL number NUL` meanwhile: tidy text holds no NUL.
    codes: list[str] = []

    def set_aside(match: re.Match[str]) -> str:
        code = match["code"]
        # A code span may have a space on either side, so that it can begin with a backtick.
        if code[:1] == code[-1:] == " " and code.strip():
            code = code[1:-1]
        codes.append(code)
        return f"\0{len(codes) - 1}\0"

    text = _CODE_SPAN.sub(set_aside, text)
    text = _HEADING.sub(lambda match: _heading(match[2]), text)
    for pattern, replacement in _MARKS:
        text = pattern.sub(replacement, text)
    return re.sub("\0(\\d+)\0", lambda match: codes[int(match[1])], text)


def _heading(text: str) -> str:
    """Returns a heading without the closing marks of `## Heading ##`; `C#` keeps its own."""
    bare = text.rstrip("#")
    return bare.rstrip() if bare != text and not bare[-1:].strip() else text
