"""Where exported files go: a local path or any fsspec address. A half-written file never has the
name that was asked for."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from rag_ft.errors import ConfigError

WRITE_ERRORS = (OSError, ValueError, RuntimeError, ImportError)


def publish(write: Callable[[Path], None], to: str, is_folder: bool) -> None:
    """Calls `write` with a temporary local path and moves what it made to `to`. A file that is
    there is replaced.

    Raises:
        ConfigError: the address is unknown, needs a package that is not installed, or cannot be
            written to; or a folder is there already.
    """
    if "://" not in to:
        _publish_here(write, Path(os.path.expanduser(to)), is_folder)
        return
    import fsspec
    from fsspec.implementations.local import LocalFileSystem

    try:
        fs, path = fsspec.core.url_to_fs(to)
    except WRITE_ERRORS as error:
        raise _cannot_write(to, error) from error
    if isinstance(fs, LocalFileSystem):
        _publish_here(write, Path(path), is_folder)
        return
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "export"
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
            raise _cannot_write(to, error) from error


def _publish_here(write: Callable[[Path], None], target: Path, is_folder: bool) -> None:
    # Not by fsspec's transaction: it writes to the system's temporary folder, and from another disk
    # the move is a copy, which can end half-way.
    if target.is_dir() and not (is_folder and not any(target.iterdir())):
        kind = "folder" if is_folder else "file"
        raise ConfigError(f"{target} is a folder that is there already: name a new {kind}")
    room = target.with_name(f".{target.name}.tmp")
    try:
        shutil.rmtree(room, ignore_errors=True)
        made = room / "export"
        (made if is_folder else room).mkdir(parents=True)
        write(made)
        os.replace(made, target)
    except OSError as error:
        raise _cannot_write(str(target), error) from error
    finally:
        shutil.rmtree(room, ignore_errors=True)


def _cannot_write(to: str, error: Exception) -> ConfigError:
    missing = error if isinstance(error, ModuleNotFoundError) else error.__cause__
    if isinstance(missing, ModuleNotFoundError) and missing.name:
        package = missing.name.split(".")[0]
        return ConfigError(
            f"cannot write to {to}: the package {package} is not installed (pip install {package})"
        )
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return ConfigError(f"cannot write to {to} ({reason}): check --to and your rights")
