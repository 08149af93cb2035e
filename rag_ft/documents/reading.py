"""Reads one file: checks it, calls the reader of its format, and tidies what the reader returns."""

from __future__ import annotations

from pathlib import Path

from rag_ft.documents.formats import FORMATS
from rag_ft.documents.formats.cleaning import MAX_TITLE_CHARS, one_line, readable, tidy
from rag_ft.documents.formats.content import Content, UnreadableError
from rag_ft.storage import encodable


def read_file(path: Path, max_bytes: float) -> Content:
    """Returns the title and the text of a file, both tidy and not empty.

    Where the file names no title, the title is the file's name made readable.

    Raises:
        UnreadableError: the file gives no document; the error has the reason.
    """
    check_file(path)
    suffix = path.suffix.lower()
    reader = FORMATS.get(suffix)
    if reader is None:
        known = ", ".join([*FORMATS, ".jsonl"])
        raise UnreadableError("unknown type", f"'{encodable(path.suffix)}'; known types: {known}")
    content = reader(read_bytes(path, max_bytes))
    text = tidy(content.text)
    if not text:
        scanned = "no text layer; if the pages are scanned, run OCR first"
        raise UnreadableError("empty", scanned if suffix == ".pdf" else "no text")
    title = one_line(content.title)[:MAX_TITLE_CHARS] or readable(encodable(path.stem))
    return Content(title, text, content.metadata)


def read_bytes(path: Path, max_bytes: float) -> bytes:
    """Returns the whole file, which has at least one byte and at most `max_bytes`.

    Raises:
        UnreadableError: "too large", "empty", or "unreadable" with the system's message.
    """
    try:
        size = path.stat().st_size
        if size > max_bytes:
            raise UnreadableError(
                "too large", f"{size / 2**20:.1f} MB; see ingest.advanced.max_document_mb"
            )
        raw = path.read_bytes()
    except OSError as error:
        raise UnreadableError("unreadable", error.strerror or str(error)) from error
    if not raw:
        raise UnreadableError("empty", "the file has no content")
    return raw


def check_file(path: Path) -> None:
    """Checks that `path` is a regular file or a link to one: reading a pipe would never end.

    Raises:
        UnreadableError: "unreadable", with what the path is instead.
    """
    try:
        if path.is_file():
            return
        is_folder, is_link = path.is_dir(), path.is_symlink()
    except OSError as error:  # such as a folder that can be listed but not entered
        raise UnreadableError("unreadable", error.strerror or str(error)) from error
    # Folders get here only where they cannot be walked: links, and folders without permission.
    if is_folder and is_link:
        detail = "symbolic link to a folder; list the target in ingest.sources"
    elif is_folder:
        detail = "permission denied"
    elif is_link:
        detail = "broken symbolic link"
    else:
        detail = "not a regular file"
    raise UnreadableError("unreadable", detail)
