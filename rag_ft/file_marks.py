"""Marks of files: size, time and hash, by which a later command sees whether they are unchanged.

Files are compared by size and time first, and by hash where these differ. So a copied folder with
the same bytes stays up to date.
"""

from __future__ import annotations

import itertools
import stat
from collections.abc import Container, Iterable, Mapping
from pathlib import Path

from rag_ft.storage import encodable, file_sha256

# [size in bytes, time of the last change in ns, sha256]; JSON has lists, so this is one.
Mark = list[int | str]


def is_mark(found: object) -> bool:
    """Whether a value that was read from a file is a mark."""
    return isinstance(found, list) and [type(part) for part in found] == [int, int, str]


def mark_file(path: Path, known: Mark | None = None) -> Mark | None:
    """The mark of a file; None where there is no such file.

    Args:
        path: of the file.
        known: an earlier mark. Where size and time are the same, its hash is reused, so that a
            large file is read once. A file that cannot be read has "unreadable" in place of a hash.
    """
    try:
        found = path.stat()
    except OSError:
        return None
    size, time = found.st_size, found.st_mtime_ns
    if known and known[:2] == [size, time] and known[2] != "unreadable":
        return known
    # Opening a pipe would wait for its writer.
    return [size, time, _hash_of(path) if stat.S_ISREG(found.st_mode) else "unreadable"]


def mark_files(
    folder: Path, paths: Iterable[Path], known: Mapping[str, Mark] | None = None
) -> dict[str, Mark]:
    """{path relative to `folder`: mark} of the existing files among `paths`, and of all files in
    those that are folders. A file with several names (hard links) is read once."""
    marks: dict[str, Mark] = {}
    linked: dict[tuple[int, int], Mark] = {}
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_dir() or not file.exists():
                continue
            name = encodable(file.relative_to(folder).as_posix())
            status = file.stat()
            inode = (status.st_dev, status.st_ino)
            if mark := mark_file(file, linked.get(inode) or (known or {}).get(name)):
                marks[name] = linked[inode] = mark
    return marks


def damage(folder: Path, recorded: Mapping[str, Mark]) -> str | None:
    """What happened to the first recorded file that differs from its mark, such as "qa.jsonl is
    missing"; None where all files are unchanged."""
    for name, mark in recorded.items():
        try:
            found = (folder / name).stat()
        except OSError:
            return f"{name} is missing"
        size, time = found.st_size, found.st_mtime_ns
        # A copy has another time; its bytes decide.
        if size != mark[0] or (time != mark[1] and _hash_of(folder / name) != mark[2]):
            return f"{name} has changed"
    return None


def folder_times(files: Iterable[Path], roots: Container[Path]) -> dict[str, int]:
    """{folder: time of its last change in ns} of the folders of `files` up to those in `roots`.
    A file that is added or removed changes its folder's time."""
    folders: set[Path] = set()
    for path in files:
        inside = list(itertools.takewhile(lambda folder: folder not in roots, path.parents))
        for folder in path.parents[: len(inside) + 1]:
            if folder in folders:
                break
            folders.add(folder)
    return {str(folder): folder.stat().st_mtime_ns for folder in sorted(folders)}


def same_times(folders: Mapping[str, int]) -> bool:
    """Whether the folders that `folder_times` gave are as they were."""
    try:
        return all(Path(folder).stat().st_mtime_ns == time for folder, time in folders.items())
    except OSError:
        return False


def _hash_of(path: Path) -> str:
    """The file's sha256, or "unreadable" where it cannot be read."""
    try:
        return file_sha256(path)
    except OSError:
        return "unreadable"
