"""One file to title, text and metadata: markdown, HTML, plain text; PDF and Word are in `office`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from rag_ft.documents import office
from rag_ft.documents.plain_text import UnreadableError, decode, one_line, readable, tidy


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
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        raise UnreadableError("unknown type", f"'{path.suffix}': known are {', '.join(READERS)}, .jsonl")
    content = reader(read_bytes(path, max_bytes))
    text = tidy(content.text)
    if not text:
        raise UnreadableError("empty", "scanned pages? run OCR first" if path.suffix.lower() == ".pdf" else "no text")
    return Content(one_line(content.title)[:300] or readable(path.stem), text, content.metadata)


def read_bytes(path: Path, max_bytes: float) -> bytes:
    """The whole file, its kind and size checked first (a pipe would block, a huge file fill memory)."""
    check_file(path)
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
    """Raises UnreadableError unless `path` is a regular file or a link to one."""
    if not path.is_file():
        raise UnreadableError("unreadable", "a broken link" if path.is_symlink() else "not a regular file")


def read_text(raw: bytes) -> Content:
    """Plain text. A short first line that stands alone is the title."""
    text = tidy(decode(raw))
    first, _, rest = text.partition("\n")
    alone = rest[:1] == "\n" or re.match(r"[=\-~*]{3,}\n", rest + "\n") is not None
    return Content(first if alone and len(first) <= 100 and not first.endswith((".", ":", "。")) else "", text)


def read_markdown(raw: bytes) -> Content:
    """Markdown as plain text: headings, paragraphs, list items and table rows stay, marks of emphasis and links go."""
    text = tidy(decode(raw))
    metadata, text = _front_matter(text)
    text = _COMMENT.sub("", text)
    parts = _FENCE.split(text)  # text, code, text, code ...
    first = _first_heading("\n".join(parts[::2]))
    for n in range(0, len(parts), 2):
        parts[n] = _plain_markdown(parts[n])
    return Content(str(metadata.pop("title", "") or first), "".join(parts), metadata)


_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)
_FENCE = re.compile(r"^(?:```|~~~)[^\n]*\n(.*?)(?:^(?:```|~~~)[ \t]*$|\Z)", re.DOTALL | re.MULTILINE)
_HEADING = re.compile(r"^[ ]{0,3}(#{1,6})[ \t]+(.+?)[ \t]*#*$", re.MULTILINE)
_UNDERLINED = re.compile(r"^(?=\S)([^\n]+)\n(=+|-{3,})[ \t]*$", re.MULTILINE)
_MARKS = (
    (_HEADING, r"\2"),
    (_UNDERLINED, r"\1"),
    (re.compile(r"^[ ]{0,3}(?:[-*_][ \t]*){3,}$", re.MULTILINE), ""),  # rule
    (re.compile(r"^[ \t]*\|?[ \t]*:?-{2,}:?[ \t]*(?:\|[ \t]*:?-{2,}:?[ \t]*)*\|?[ \t]*\n", re.MULTILINE), ""),
    (re.compile(r"^[ \t]*\|[ \t]*(.*?)[ \t]*\|[ \t]*$", re.MULTILINE), r"\1"),  # outer bars of a table row
    (re.compile(r"^[ \t]*>[ \t]?", re.MULTILINE), ""),  # quotation
    (re.compile(r"^[ \t]*\[[^\]\n]{1,200}\]:[ \t]*\S+.*\n?", re.MULTILINE), ""),  # definition of a link
    (re.compile(r"!?\[([^\[\]\n]{0,500})\]\([^()\n]{0,2000}\)"), r"\1"),
    (re.compile(r"\[([^\[\]\n]{1,500})\]\[[^\[\]\n]{0,200}\]"), r"\1"),
    (re.compile(r"<(https?://[^>\s]{1,2000})>"), r"\1"),
    (re.compile(r"</?[a-zA-Z][^<>\n]{0,500}>"), ""),
    (re.compile(r"(\*\*|__)(?=\S)([^\n]{1,1000}?)(?<=\S)\1"), r"\2"),
    (re.compile(r"(?<![\w*])\*(?=\S)([^*\n]{1,1000})(?<=\S)\*(?![\w*])"), r"\1"),
    (re.compile(r"(?<!\w)_(?=\S)([^_\n]{1,1000})(?<=\S)_(?!\w)"), r"\1"),
    (re.compile(r"`([^`\n]{1,1000})`"), r"\1"),
    (re.compile(r"\\([\\`*_{}\[\]()#+\-.!|>])"), r"\1"),
)


def _plain_markdown(text: str) -> str:
    for pattern, replacement in _MARKS:
        text = pattern.sub(replacement, text)
    return text


def _first_heading(text: str) -> str:
    headings = [(m.start(), len(m[1]), m[2]) for m in _HEADING.finditer(text)]
    headings += [(m.start(), 1 if m[2][0] == "=" else 2, m[1]) for m in _UNDERLINED.finditer(text)]
    if not headings:
        return ""
    return _plain_markdown(min(headings, key=lambda h: (h[1] > 1, h[0]))[2])


def _front_matter(text: str) -> tuple[dict[str, Any], str]:
    match = re.match(r"---[ \t]*\n(.*?)\n---[ \t]*(?:\n|$)", text, re.DOTALL)
    try:
        values = yaml.safe_load(match[1]) if match else None
    except yaml.YAMLError:
        return {}, text
    if match is None or not isinstance(values, dict):
        return {}, text
    return {str(k): v if isinstance(v, str | int | float | bool) else str(v) for k, v in values.items()}, text[
        match.end() :
    ]


_DROPPED = ("script", "style", "nav", "noscript", "template", "svg", "iframe", "button", "select", "head")
_BLOCKS = frozenset((
    "address", "article", "aside", "blockquote", "body", "caption", "dd", "details", "div", "dl", "dt", "fieldset",
    "figcaption", "figure", "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "header", "hr", "main", "ol", "p",
    "pre", "section", "summary", "table", "tbody", "thead", "tfoot", "ul",
))  # fmt: skip


def read_html(raw: bytes) -> Content:
    """HTML as plain text: a blank line between blocks, a line per list item and table row (cells parted by ` | `)."""
    from bs4 import BeautifulSoup
    from bs4.dammit import EncodingDetector

    declared = EncodingDetector.find_declared_encoding(raw, is_html=True, search_entire_document=False)
    try:
        soup = BeautifulSoup(decode(raw, declared), "html.parser")
        named = soup.title.get_text(" ") if soup.title else ""
        for element in soup.find_all(_DROPPED):
            element.decompose()
        text = _html_text(soup)
        heading = soup.h1 or (None if named.strip() else soup.find(["h2", "h3"]))
        return Content(heading.get_text() if heading else named, text)
    except (AssertionError, RecursionError, ValueError) as error:
        raise UnreadableError("corrupt", f"HTML: {error}") from error


def _html_text(soup: Any) -> str:
    """Marks the ends of blocks inside the tree, then takes its text."""
    from bs4 import NavigableString
    from bs4.element import PreformattedString

    for string in soup.find_all(string=True):
        if isinstance(string, PreformattedString):  # comments, doctype
            string.extract()
        elif string.find_parent("pre") is None:
            string.replace_with(NavigableString(re.sub(r"\s+", " ", string)))
    for element in soup.find_all(True):
        before, after = _html_breaks(element)
        if before:
            element.insert(0, before)
        if after:
            element.append(after)
    text = re.sub(r"[ \t]*\n", "\n", soup.get_text())
    text = re.sub(r"(^ ?-|\|) +", r"\1 ", re.sub(r"^ (?=\S)", "", text, flags=re.M), flags=re.M)
    return re.sub("\n{3,}", "\n\n", text)


def _html_breaks(element: Any) -> tuple[str, str]:
    name = element.name
    if name == "br":
        return "\n", ""
    if name in ("td", "th"):
        return (" | " if element.find_previous_sibling(["td", "th"]) else ""), ""
    if name == "li":
        return "\n- ", "\n"
    if element.find_parent(["td", "th", "li"]):
        return " ", " "  # a paragraph in a cell or an item does not end it
    if name == "tr":
        return "\n", "\n"
    return ("\n\n", "\n\n") if name in _BLOCKS else ("", "")


def _read_pdf(raw: bytes) -> Content:
    return Content(*office.read_pdf(raw))


def _read_docx(raw: bytes) -> Content:
    return Content(*office.read_docx(raw))


READERS: dict[str, Callable[[bytes], Content]] = {
    ".md": read_markdown,
    ".markdown": read_markdown,
    ".html": read_html,
    ".htm": read_html,
    ".txt": read_text,
    ".text": read_text,
    ".pdf": _read_pdf,
    ".docx": _read_docx,
}
