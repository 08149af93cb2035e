"""Reads one file: checks it, calls the reader of its format, and tidies what the reader returns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from rag_ft.documents.blocks import PlacedBlock, join_blocks
from rag_ft.documents.formats import FORMATS, plugin_reader, sniffed
from rag_ft.documents.formats.archive import members_of
from rag_ft.documents.formats.cleaning import MAX_TITLE_CHARS, one_line, readable
from rag_ft.documents.formats.content import Content, UnreadableError
from rag_ft.documents.formats.external import read_external
from rag_ft.documents.formats.mail import messages_of
from rag_ft.storage import encodable

# These hold many documents.
ARCHIVES = (".zip", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tbz2", ".txz")
MAILBOXES = (".mbox",)


@dataclass(frozen=True)
class ReadSettings:
    """What limits a file, and who reads it.

    `max_bytes` limits a file, also inside an archive. `parser_command` reads the files whose suffix
    is in `parser_suffixes`; empty: nothing does. `ocr` says whether scanned pages are recognised,
    `follow_links` whether a link may lead out of its source folder.
    """

    max_bytes: float
    parser_command: tuple[str, ...] = ()
    parser_suffixes: tuple[str, ...] = ()
    ocr: bool = False
    follow_links: bool = False


@dataclass(frozen=True)
class ReadFile:
    """What was read of a file: a text that is tidy and not empty, and the blocks it consists of.

    `notes` are (part, reason) of parts that could not be read.
    """

    title: str
    text: str
    blocks: list[PlacedBlock]
    metadata: dict[str, Any] = field(default_factory=dict)
    notes: list[tuple[str, str]] = field(default_factory=list)


def read_file(path: Path, settings: ReadSettings) -> ReadFile:
    """Returns the title and the text of a file that is one document.

    Where the file names no title, the title is the file's name made readable.

    Raises:
        UnreadableError: the file gives no document; the error has the reason.
    """
    check_file(path)
    if path.suffix.lower() in settings.parser_suffixes and settings.parser_command:
        read_bytes(path, settings.max_bytes)
        return finished(read_external(path, settings.parser_command), encodable(path.name))
    return read_content(read_bytes(path, settings.max_bytes), encodable(path.name), settings)


def read_parts(
    path: Path, settings: ReadSettings
) -> Iterator[tuple[str, ReadFile | UnreadableError]]:
    """Yields (name, what was read) of the documents in an archive or a mailbox.

    Raises:
        UnreadableError: nothing inside can be read.
    """
    check_file(path)
    raw = read_bytes(path, settings.max_bytes)
    is_mailbox = path.suffix.lower() in MAILBOXES
    number = 0
    for name, part in (
        messages_of(raw) if is_mailbox else members_of(raw, path.name, settings.max_bytes)
    ):
        number += 1
        try:
            if isinstance(part, UnreadableError):
                raise part
            yield name, read_content(part, PurePosixPath(name).name, settings)
        except UnreadableError as error:
            yield name, error
    if not number:
        raise UnreadableError("empty", "nothing is inside")


def holds_documents(path: Path) -> bool:
    """Whether a file holds many documents: an archive or a mailbox."""
    return path.name.lower().endswith((*ARCHIVES, *MAILBOXES))


def read_content(raw: bytes, name: str, settings: ReadSettings) -> ReadFile:
    """Returns what a file with these bytes and this name holds.

    The content decides where it shows the format: a PDF named `.txt` is a PDF.

    Raises:
        UnreadableError: the file gives no document; the error has the reason.
    """
    suffix = PurePosixPath(name).suffix.lower()
    if not raw:
        raise UnreadableError("empty", "the file has no content")
    reader = FORMATS.get(sniffed(raw, suffix)) or plugin_reader(suffix)
    if reader is None:
        known = ", ".join(suffix.lstrip(".") for suffix in FORMATS if len(suffix) > 1)
        raise UnreadableError("unknown type", f"'{suffix}'; known types: {known}, jsonl, zip, tar")
    if settings.ocr and reader is FORMATS[".pdf"]:
        from rag_ft.documents.formats.pdf import read_pdf

        return finished(read_pdf(raw, ocr=True), name)
    return finished(reader(raw), name)


def finished(content: Content, name: str) -> ReadFile:
    """Returns the text and the title of what a reader returned.

    Raises:
        UnreadableError: "empty".
    """
    text, blocks = join_blocks(content.blocks)
    if not text:
        raise UnreadableError("empty", "no text")
    title = one_line(content.title)[:MAX_TITLE_CHARS] or readable(PurePosixPath(name).stem)
    return ReadFile(title, text, blocks, content.metadata, content.notes)


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
