"""One file to its content: checks the file, and calls the reader of its format."""

from __future__ import annotations

from pathlib import Path

from rag_ft.documents.formats import FORMATS
from rag_ft.documents.formats.cleaning import MAX_TITLE_CHARS, one_line, readable, tidy
from rag_ft.documents.formats.content import Content, UnreadableError
from rag_ft.storage import encodable


def read_file(path: Path, max_bytes: float) -> Content:
    """The document in a file: tidy text that is not empty, and a title (at last the file's name made readable).

    Raises:
        UnreadableError: with the reason, for whatever is wrong with the file.
    """
    check_file(path)
    reader = FORMATS.get(path.suffix.lower())
    if reader is None:
        raise UnreadableError(
            "unknown type", f"'{encodable(path.suffix)}': known are {', '.join(FORMATS)}, .jsonl"
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
