"""One file to title, text and metadata: markdown and plain text; HTML, PDF and Word are in files of their own."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rag_ft.documents import office
from rag_ft.documents.html import read_html
from rag_ft.documents.plain_text import (
    MAX_TITLE_CHARS,
    UnreadableError,
    decode,
    one_line,
    printable,
    readable,
    tidy,
    unwrap,
)


@dataclass(frozen=True)
class Content:
    """What a reader found. An empty title: the file tells none. Text is not tidied yet."""

    title: str
    text: str
    metadata: dict[str, Any] = field(default_factory=dict)


def read_file(path: Path, max_bytes: float) -> Content:
    """The document in a file: tidy text that is not empty, and a title (at last the file's name made readable).

    Raises:
        UnreadableError: with the reason, for whatever is wrong with the file.
    """
    check_file(path)
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise UnreadableError("unknown type", f"'{printable(path.suffix)}': known are {', '.join(READERS)}, .jsonl")
    content = reader(read_bytes(path, max_bytes))
    text = tidy(content.text)
    if not text:
        raise UnreadableError("empty", "scanned pages? run OCR first" if path.suffix.lower() == ".pdf" else "no text")
    return Content(one_line(content.title)[:MAX_TITLE_CHARS] or readable(printable(path.stem)), text, content.metadata)


def read_bytes(path: Path, max_bytes: float) -> bytes:
    """The whole file, its size checked first."""
    try:
        if path.stat().st_size > max_bytes:
            raise UnreadableError("too large", f"{path.stat().st_size / 2**20:.1f} MB, see ingest.max_document_mb")
        raw = path.read_bytes()
    except OSError as error:
        raise UnreadableError("unreadable", error.strerror or str(error)) from error
    if not raw:
        raise UnreadableError("empty", "the file has no content")
    return raw


def check_file(path: Path) -> None:
    """Raises UnreadableError unless `path` is a regular file or a link to one (reading a pipe would never end)."""
    if path.is_dir():
        linked = path.is_symlink()
        raise UnreadableError(
            "unreadable", "a link: name its folder in ingest.sources" if linked else "a closed folder"
        )
    if not path.is_file():
        raise UnreadableError("unreadable", "a broken link" if path.is_symlink() else "not a regular file")


def read_text(raw: bytes) -> Content:
    """Plain text. A short first line that stands alone is the title."""
    text = tidy(decode(raw))
    first, _, rest = text.partition("\n")
    alone = rest[:1] == "\n" or re.match(r"[=\-~*]{3,}\n", rest + "\n") is not None
    return Content(first if alone and len(first) <= 100 and not first.endswith((".", ":", "。")) else "", unwrap(text))


def read_markdown(raw: bytes) -> Content:
    """Markdown as plain text: headings, paragraphs, list items and table rows stay, marks of emphasis and links go."""
    text = tidy(decode(raw))
    metadata, text = _front_matter(text)
    text = _without_comments(text)
    parts = _FENCE.split(text)  # text, code, text, code ...
    first = _first_heading("\n".join(parts[::2]))
    for n in range(0, len(parts), 2):
        parts[n] = unwrap(_plain_markdown(parts[n]))
    return Content(str(metadata.pop("title", "") or first), "".join(parts), metadata)


# Possessive quantifiers and bounds keep each pattern linear on a hostile line of a million spaces or stars.
_FENCE = re.compile(r"^(?:```|~~~)[^\n]*\n(.*?)(?:^(?:```|~~~)[ \t]*$|\Z)", re.DOTALL | re.MULTILINE)
_HEADING = re.compile(r"^[ ]{0,3}(#{1,6})[ \t]+([^\n]+)$", re.MULTILINE)
_UNDERLINED = re.compile(r"^(?=\S)([^\n]+)\n(=++|-{3,}+)$", re.MULTILINE)
_MARKS = (
    (_UNDERLINED, r"\1"),
    (re.compile(r"^[ ]{0,3}(?:[-*_][ \t]*+){3,}+$", re.MULTILINE), ""),  # rule
    (re.compile(r"^[ \t]*+(?:\|[ \t]*+)?:?-{2,}+:?[ \t]*+(?:\|[ \t]*+:?-{2,}+:?[ \t]*+)*+\|?\n", re.MULTILINE), ""),
    (re.compile(r"^[ \t]*+\|[ \t]*+([^\n]*)\|$", re.MULTILINE), r"\1"),  # outer bars of a table row
    (re.compile(r"^[ \t]*+>[ \t]?", re.MULTILINE), ""),  # quotation
    (re.compile(r"^[ \t]*+\[[^\]\n]{1,200}\]:[ \t]*+\S[^\n]*\n?", re.MULTILINE), ""),  # definition of a link
    (re.compile(r"!?\[([^\[\]\n]{0,500})\]\([^()\n]{0,1000}\)"), r"\1"),
    (re.compile(r"\[([^\[\]\n]{1,500})\]\[[^\[\]\n]{0,200}\]"), r"\1"),
    (re.compile(r"<(https?://[^<>\s]{1,1000})>"), r"\1"),
    (re.compile(r"</?[a-zA-Z][^<>\n]{0,300}>"), ""),
    (re.compile(r"(\*\*|__)(?=\S)([^\n]{1,300}?)(?<=\S)\1"), r"\2"),
    (re.compile(r"(?<![\w*])\*(?=\S)([^*\n]{1,300})(?<=\S)\*(?![\w*])"), r"\1"),
    (re.compile(r"(?<!\w)_(?=\S)([^_\n]{1,300})(?<=\S)_(?!\w)"), r"\1"),
    (re.compile(r"`([^`\n]{1,300})`"), r"\1"),
    (re.compile(r"\\([\\`*_{}\[\]()#+\-.!|>])"), r"\1"),
)


def _without_comments(text: str) -> str:
    parts, start = [], 0
    while (opened := text.find("<!--", start)) >= 0 and (closed := text.find("-->", opened)) >= 0:
        parts.append(text[start:opened])
        start = closed + 3
    return "".join([*parts, text[start:]])


def _plain_markdown(text: str) -> str:
    text = _HEADING.sub(lambda match: _heading(match[2]), text)
    for pattern, replacement in _MARKS:
        text = pattern.sub(replacement, text)
    return text


def _heading(text: str) -> str:
    """Without the closing marks of `## Heading ##`; `C#` keeps its own."""
    bare = text.rstrip("#")
    return bare.rstrip() if bare != text and not bare[-1:].strip() else text


def _first_heading(text: str) -> str:
    headings = [(m.start(), len(m[1]), _heading(m[2])) for m in _HEADING.finditer(text)]
    headings += [(m.start(), 1 if m[2][0] == "=" else 2, m[1]) for m in _UNDERLINED.finditer(text)]
    if not headings:
        return ""
    return _plain_markdown(min(headings, key=lambda h: (h[1] > 1, h[0]))[2])


def _front_matter(text: str) -> tuple[dict[str, Any], str]:
    """The scalars of a YAML block at the very top, and the text after it."""
    match = re.match(r"---\n(.*?)\n---(?:\n|$)", text, re.DOTALL)
    try:
        values = yaml.safe_load(match[1]) if match else None
    except (yaml.YAMLError, ValueError, RecursionError):  # ValueError: a date such as 2024-13-45
        return {}, text
    if match is None or not isinstance(values, dict):
        return {}, text
    scalars = {k: v for k, v in values.items() if not isinstance(v, list | dict | set | tuple) and v is not None}
    plain = {str(k): v if isinstance(v, int | float | bool) else tidy(str(v)) for k, v in scalars.items()}
    return plain, text[match.end() :]


def _read_html(raw: bytes) -> Content:
    return Content(*read_html(raw))


def _read_pdf(raw: bytes) -> Content:
    return Content(*office.read_pdf(raw))


def _read_docx(raw: bytes) -> Content:
    return Content(*office.read_docx(raw))


READERS: dict[str, Callable[[bytes], Content]] = {
    ".md": read_markdown,
    ".markdown": read_markdown,
    ".html": _read_html,
    ".htm": _read_html,
    ".txt": read_text,
    ".text": read_text,
    ".pdf": _read_pdf,
    ".docx": _read_docx,
}
