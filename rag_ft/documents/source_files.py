"""Finds the files of the configured sources. Loads no reader: every command of a run does this."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from rag_ft.config import Source
from rag_ft.errors import DataError
from rag_ft.run_dir import RunDir
from rag_ft.schema import Split
from rag_ft.storage import encodable
from rag_ft.text import composed

# A folder with this file is a run folder.
RUN_MARK = RunDir(Path()).started("ingest").name


@dataclass(frozen=True)
class SourceFile:
    """A file of a source.

    `id` is its path under `folder`, which is the source's folder, or the folder around it where
    the source names the file itself (`alone`). `split` is what the user fixed, if anything. `depth`
    is the number of parts of the source's own path: the deeper source names the file more closely.
    """

    path: Path
    id: str
    folder: Path
    split: Split | None
    depth: int
    alone: bool


def leads_out(file: SourceFile) -> bool:
    """Whether a file of a source folder is a link to a file outside of it, or to itself. Linked
    folders and links to nothing are left to the reader, which rejects them."""
    if file.alone or file.path.is_dir():
        return False
    try:
        return not file.path.resolve(strict=True).is_relative_to(file.folder)
    except FileNotFoundError:
        return False
    except (OSError, RuntimeError):  # a loop
        return True


def find_files(sources: list[Path | Source]) -> list[SourceFile]:
    """Returns all files of all sources, without hidden ones, folders in sorted order of paths.

    A file that two sources contain counts once. Its split is that of the source which has a split
    and names the file most closely.

    Raises:
        DataError: a source does not exist.
    """
    found: dict[Path, SourceFile] = {}
    for entry in sources:
        source = entry if isinstance(entry, Source) else Source(path=entry, split=None)
        path = source.path.expanduser()
        if not path.exists():
            raise DataError(
                f"ingest.sources: {path} does not exist (seen from {Path.cwd()}): correct the path"
            )
        place = path.resolve()
        alone = not path.is_dir()
        for file in [path] if alone else walk_files(path):
            inside = Path(path.name) if alone else file.relative_to(path)
            folder = place.parent if alone else place
            key = place if alone else place / inside
            new = SourceFile(
                file, path_id(inside), folder, source.split, len(place.parts), alone=alone
            )
            old = found.setdefault(key, new)
            # The first source gives the id; a closer source with a split replaces the split.
            if new.split is not None and (old.split is None or new.depth > old.depth):
                found[key] = replace(old, split=new.split, depth=new.depth)
    return list(found.values())


def walk_files(folder: Path) -> Iterator[Path]:
    """Yields the files below a folder in sorted order, then the folders that were not entered.

    Those are linked folders (a link may lead back up) and folders without permission. Hidden files,
    office lock files (`~$a.docx`) and run folders are left out: what a run wrote is no document.
    """
    skipped: list[Path] = []

    def skip(error: OSError) -> None:
        skipped.append(Path(error.filename))

    for root, folders, names in os.walk(folder, onerror=skip):
        if RUN_MARK in names:
            folders.clear()
            continue
        # os.walk enters what this list holds, in its order, but no links.
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        skipped += [Path(root) / name for name in folders if (Path(root) / name).is_symlink()]
        for name in sorted(names):
            if not name.startswith((".", "~$")):
                yield Path(root) / name
    yield from skipped


def path_id(path: Path | str) -> str:
    """Returns a path as an id, in composed characters (NFC).

    Some file systems decompose characters, and questions refer to documents by id.
    """
    name = path.as_posix() if isinstance(path, Path) else path
    return composed(encodable(name))
