"""One file to title, text and metadata: plain text here, Markdown, HTML, PDF and Word in files of their own."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rag_ft.documents import markdown, office
from rag_ft.documents.html import read_html
from rag_ft.documents.plain_text import (
    MAX_TITLE_CHARS,
    UnreadableError,
    decode,
    one_line,
    readable,
    tidy,
    unwrap,
)
from rag_ft.records import encodable


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
        raise UnreadableError(
            "unknown type", f"'{encodable(path.suffix)}': known are {', '.join(READERS)}, .jsonl"
        )
    content = reader(read_bytes(path, max_bytes))
    text = tidy(content.text)
    if not text:
        raise UnreadableError(
            "empty", "scanned pages? run OCR first" if path.suffix.lower() == ".pdf" else "no text"
        )
    return Content(
        one_line(content.title)[:MAX_TITLE_CHARS] or readable(encodable(path.stem)),
        text,
        content.metadata,
    )


def read_bytes(path: Path, max_bytes: float) -> bytes:
    """The whole file, its size checked first."""
    try:
        if path.stat().st_size > max_bytes:
            raise UnreadableError(
                "too large",
                f"{path.stat().st_size / 2**20:.1f} MB, see ingest.advanced.max_document_mb",
            )
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
            "unreadable",
            "a link: name its folder in ingest.sources" if linked else "a closed folder",
        )
    if not path.is_file():
        raise UnreadableError(
            "unreadable", "a broken link" if path.is_symlink() else "not a regular file"
        )


def read_text(raw: bytes) -> Content:
    """Plain text. A short first line that stands alone is the title."""
    text = tidy(decode(raw))
    first, _, rest = text.partition("\n")
    alone = rest[:1] == "\n" or re.match(r"[=\-~*]{3,}\n", rest + "\n") is not None
    return Content(
        first if alone and len(first) <= 100 and not first.endswith((".", ":", "。")) else "",
        unwrap(text),
    )


def read_markdown(raw: bytes) -> Content:
    return Content(*markdown.read_markdown(raw))


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
