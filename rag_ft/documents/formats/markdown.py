"""Markdown to plain text. Marks go, what is said stays: where it is unclear whether something is a mark, it stays."""

from __future__ import annotations

import re
from typing import Any

import yaml
from lxml.html import defs

from rag_ft.documents.formats.cleaning import decode, tidy, unwrap
from rag_ft.documents.formats.content import Content

_TAG_NAMES = defs.tags | {"main", "picture"}


def read_markdown(raw: bytes) -> Content:
    """Headings, paragraphs, list items, table rows, footnotes and code stay; marks of emphasis and
    links are removed. The scalars of the YAML front matter are the metadata."""
    metadata, text = _front_matter(tidy(decode(raw)))
    parts, codes = [], []
    start = 0
    text = _without_comments(text)
    for fence in _FENCE.finditer(text):
        parts.append(text[start : fence.start()])
        codes.append(fence["block"])
        start = fence.end()
    parts.append(text[start:])
    title = str(metadata.pop("title", "") or _first_heading("\n".join(parts)))
    plain = [unwrap(_plain(part)) for part in parts]
    whole = "".join(text + code for text, code in zip(plain, [*codes, ""], strict=True))
    return Content(title, whole, metadata)


# Possessive quantifiers and bounds keep each pattern linear on a hostile line of a million spaces or stars.
_FENCED = (
    r"^[ \t]*+(?P<fence>`{3,}+(?=[^`\n]*\n)|~{3,}+)[^\n]*\n(?P<block>.*?)"
    r"(?:^[ \t]*+(?P=fence)[`~]*+[ \t]*$|\Z)"
)
# Ends at as many backticks as it began with, in the same paragraph.
_CODE = (
    r"(?<![\\`])(?P<ticks>`{1,9}+)(?P<code>(?:[^\n]|\n(?![ \t]{0,8}(?:[\n>|#]|[-*+][ ]))){1,1000}?)"
    r"(?<!`)(?P=ticks)(?!`)"
)
_FENCE = re.compile(_FENCED, re.DOTALL | re.MULTILINE)
_CODE_SPAN = re.compile(_CODE)
_COMMENT = re.compile(rf"(?P<kept>{_FENCED}|{_CODE})|<!--.*?(?:-->|\Z)", re.DOTALL | re.MULTILINE)
_HEADING = re.compile(r"^[ ]{0,3}(#{1,6})[ \t]+([^\n]+)$", re.MULTILINE)
_UNDERLINED = re.compile(r"^(?=\S)([^\n]+)\n(=++|-{3,}+)$", re.MULTILINE)
# One word that looks like an address, and perhaps a title in quotes: `[Anna]: Come at nine.` is no definition.
_DEFINITION = re.compile(
    r"^[ \t]*+\[(?!\^)[^\]\n]{1,200}\]:[ \t]*+(?:<[^<>\n]{0,1000}>|(?=\S*?(?:[/#]|[^\W\d_][.:]\w))\S++)"
    r"(?:[ \t]++(?:\"[^\"\n]*\"|'[^'\n]*'|\([^()\n]*\)))?$\n?",
    re.MULTILINE,
)
_TAG = re.compile(r"</?([a-zA-Z][a-zA-Z0-9]*)(?![\w-])[^<>\n]{0,300}>")
_MARKS = (
    (_UNDERLINED, r"\1"),
    (re.compile(r"^[ ]{0,3}(?:[-*_][ \t]*+){3,}+$", re.MULTILINE), ""),  # rule
    (
        re.compile(
            r"^[ \t]*+(?:\|[ \t]*+)?:?-{2,}+:?[ \t]*+(?:\|[ \t]*+:?-{2,}+:?[ \t]*+)*+\|?\n",
            re.MULTILINE,
        ),
        "",
    ),
    (re.compile(r"^[ \t]*+\|[ \t]*+([^\n]*)\|$", re.MULTILINE), r"\1"),  # outer bars of a table row
    (re.compile(r"^[ \t]*+>[ \t]?", re.MULTILINE), ""),  # quotation
    (_DEFINITION, ""),
    (re.compile(r"!?\[([^\[\]\n]{0,500})\]\([^()\n]{0,1000}\)"), r"\1"),
    (re.compile(r"\[([^\[\]\n]{1,500})\]\[[^\[\]\n]{0,200}\]"), r"\1"),
    (re.compile(r"(?<!\w)<(?:mailto:)?([^<>\s@]{1,200}@[^<>\s@]{1,200})>"), r"\1"),
    (re.compile(r"(?<!\w)<([a-zA-Z][\w+.\-]{1,30}:[^<>\s]{1,1000})>"), r"\1"),
    (
        _TAG,
        lambda match: "" if match[1].lower() in _TAG_NAMES else match[0],
    ),  # `<folder>` and `Vec<String>` stay
    (re.compile(r"(\*\*|__)(?=\S)([^\n]{1,300}?)(?<=\S)\1"), r"\2"),
    (re.compile(r"(?<![\w*])\*(?=\S)([^*\n]{1,300})(?<=\S)\*(?![\w*])"), r"\1"),
    (re.compile(r"(?<!\w)_(?=\S)([^_\n]{1,300})(?<=\S)_(?!\w)"), r"\1"),
    (re.compile(r"\\([\\`*_{}\[\]()#+\-.!|>])"), r"\1"),
)


def _without_comments(text: str) -> str:
    """Comments inside code are part of it; one that never ends is none."""
    return _COMMENT.sub(
        lambda match: match[0] if match["kept"] or not match[0].endswith("-->") else "", text
    )


def _plain(text: str) -> str:
    """Without marks. Code spans are set aside meanwhile, as `NUL number NUL`: tidy text holds no NUL."""
    codes: list[str] = []

    def set_aside(match: re.Match[str]) -> str:
        codes.append(_code(match["code"]))
        return f"\0{len(codes) - 1}\0"

    text = _CODE_SPAN.sub(set_aside, text)
    text = _HEADING.sub(lambda match: _heading(match[2]), text)
    for pattern, replacement in _MARKS:
        text = pattern.sub(replacement, text)
    return re.sub("\0(\\d+)\0", lambda match: codes[int(match[1])], text)


def _code(text: str) -> str:
    """Without the space on either side that lets a code span begin and end with a backtick."""
    return text[1:-1] if text[:1] == text[-1:] == " " and text.strip() else text


def _heading(text: str) -> str:
    """Without the closing marks of `## Heading ##`; `C#` keeps its own."""
    bare = text.rstrip("#")
    return bare.rstrip() if bare != text and not bare[-1:].strip() else text


def _first_heading(text: str) -> str:
    headings = [(m.start(), len(m[1]), _heading(m[2])) for m in _HEADING.finditer(text)]
    headings += [(m.start(), 1 if m[2][0] == "=" else 2, m[1]) for m in _UNDERLINED.finditer(text)]
    if not headings:
        return ""
    return _plain(min(headings, key=lambda h: (h[1] > 1, h[0]))[2])


def _front_matter(text: str) -> tuple[dict[str, Any], str]:
    """The scalars of a YAML block at the very top, and the text after it."""
    match = re.match(r"---\n(.*?)\n---(?:\n|$)", text, re.DOTALL)
    try:
        values = yaml.safe_load(match[1]) if match else None
    except (yaml.YAMLError, ValueError, RecursionError):  # ValueError: a date such as 2024-13-45
        return {}, text
    if match is None or not isinstance(values, dict):
        return {}, text
    scalars = {
        k: v
        for k, v in values.items()
        if not isinstance(v, list | dict | set | tuple) and v is not None
    }
    plain = {
        str(k): v if isinstance(v, int | float | bool) else tidy(str(v)) for k, v in scalars.items()
    }
    return plain, text[match.end() :]
