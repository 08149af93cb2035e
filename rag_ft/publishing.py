"""Writes what a command makes to a path or to any fsspec address, whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from rag_ft.bundle.manifest import is_bundle
from rag_ft.errors import ConfigError
from rag_ft.run_dir import RunDir
from rag_ft.storage import append_lines, now, temporary_beside

WRITE_ERRORS = (OSError, ValueError, RuntimeError, ImportError)


def publish(write: Callable[[Path], None], to: str, is_folder: bool) -> None:
    """Calls `write` with a temporary local path, which for a folder exists, and moves what it made
    to `to`. A file that is there is replaced; a half-written one never has the name.

    Raises:
        ConfigError: the address is unknown, needs a package that is not installed, or cannot be
            written to; or a folder is there already.
    """
    if "://" not in to:
        publish_here(write, Path(to).expanduser(), is_folder)
        return
    import fsspec
    from fsspec.implementations.local import LocalFileSystem

    try:
        fs, path = fsspec.core.url_to_fs(to)
    except WRITE_ERRORS as error:
        raise cannot_write(to, error) from error
    if isinstance(fs, LocalFileSystem):
        publish_here(write, Path(path), is_folder)
        return
    # Made here first: what cannot be written whole is never uploaded.
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "made"
        if is_folder:
            made.mkdir()
        write(made)
        files = sorted(file for file in [made, *made.rglob("*")] if file.is_file())
        try:
            # Files get their names when the transaction ends, or not at all.
            with fs.transaction:
                for file in files:
                    inside = file.relative_to(made).as_posix()
                    target = f"{path.rstrip('/')}/{inside}" if is_folder else path
                    fs.makedirs(fs._parent(target), exist_ok=True)
                    with file.open("rb") as source, fs.open(target, "wb") as out:
                        shutil.copyfileobj(source, out)
        except WRITE_ERRORS as error:
            raise cannot_write(to, error) from error


def note_copy(run_dir: RunDir, what: str, to: str) -> None:
    """Remembers in a run that something of it was written to `to`, so that `forget` can name it. A
    bundle of a run is not changed."""
    if is_bundle(run_dir.path):
        return
    place = to if "://" in to else str(Path(to).expanduser().resolve())
    append_lines(run_dir.copies, {"what": what, "to": place, "time": now()})


def publish_here(write: Callable[[Path], None], target: Path, is_folder: bool) -> None:
    """As `publish`, to a path of this machine: a temporary name beside it, and a rename. (fsspec's
    own transaction moves from the system's temporary folder: across disks, that is a copy.)"""
    if target.is_dir() and not (is_folder and not any(target.iterdir())):
        raise ConfigError(f"{target} is a folder that exists: name a new one, or a new file")
    made = None
    try:
        made = temporary_beside(target)
        if is_folder:
            made.mkdir()
        write(made)
        os.replace(made, target)
    except OSError as error:
        raise cannot_write(str(target), error) from error
    finally:
        if made and is_folder:
            shutil.rmtree(made, ignore_errors=True)
        elif made:
            made.unlink(missing_ok=True)


def cannot_write(to: str, error: Exception) -> ConfigError:
    """The one-line error; a missing package is named with its installation."""
    missing = error if isinstance(error, ModuleNotFoundError) else error.__cause__
    if isinstance(missing, ModuleNotFoundError) and missing.name:
        package = missing.name.split(".")[0]
        return ConfigError(
            f"cannot write to {to}: the package {package} is not installed (pip install {package})"
        )
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return ConfigError(f"cannot write to {to} ({reason}): check --to and your rights")
