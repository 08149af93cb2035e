"""Reads zip and tar archives, within limits."""

from __future__ import annotations

import functools
import io
import tarfile
import zipfile
from collections.abc import Callable, Iterator

from rag_ft.documents.formats.content import MALFORMED_FILE_ERRORS, UnreadableError

# More than this is a bomb or a job for several sources.
MAX_MEMBERS = 20_000
MAX_UNPACKED_MB = 2000
Member = tuple[str, int, Callable[[], bytes]]  # name, size in bytes, what reads it
_ERRORS = (zipfile.BadZipFile, tarfile.TarError, NotImplementedError, *MALFORMED_FILE_ERRORS)


def members_of(
    raw: bytes, name: str, max_bytes: float
) -> Iterator[tuple[str, bytes | UnreadableError]]:
    """Yields (name, content) of the files in an archive, without hidden ones; a file that cannot be
    unpacked gives the reason instead of its content.

    Args:
        raw: the archive.
        name: its name, which says whether it is a zip.
        max_bytes: the largest file that is unpacked.

    Raises:
        UnreadableError: "corrupt", or "too large" for too many files or too many bytes.
    """
    try:
        members = _zip_members if name.lower().endswith(".zip") else _tar_members
        total = number = 0
        for inner, size, read in members(raw):
            parts = inner.split("/")
            if any(part.startswith((".", "~$")) or part == "__MACOSX" for part in parts):
                continue
            number += 1
            if number > MAX_MEMBERS:
                raise UnreadableError("too large", f"the archive has more than {MAX_MEMBERS} files")
            if size > max_bytes:
                yield (
                    inner,
                    UnreadableError(
                        "too large", f"{size / 2**20:.1f} MB; see ingest.advanced.max_document_mb"
                    ),
                )
                continue
            total += size
            if total > MAX_UNPACKED_MB * 2**20:
                raise UnreadableError(
                    "too large", f"the archive unpacks to more than {MAX_UNPACKED_MB} MB"
                )
            try:
                yield inner, read()
            except _ERRORS as error:
                yield inner, UnreadableError("corrupt", str(error)[:200])
    except _ERRORS as error:
        raise UnreadableError("corrupt", f"archive: {error}") from error


def _zip_members(raw: bytes) -> Iterator[Member]:
    with zipfile.ZipFile(io.BytesIO(raw)) as archive:
        for info in archive.infolist():
            if not info.is_dir():
                yield info.filename, info.file_size, functools.partial(archive.read, info)


def _tar_members(raw: bytes) -> Iterator[Member]:
    with tarfile.open(fileobj=io.BytesIO(raw)) as archive:
        for member in archive:
            # Links and devices are never followed.
            if member.isfile():
                file = archive.extractfile(member)
                if file is not None:
                    yield member.name.removeprefix("./"), member.size, file.read
