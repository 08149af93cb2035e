"""Where exported files go: a local path or any fsspec address, so that nothing half-written ever has the name."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rag_ft.errors import ConfigError

# Stores where an object is there only when its upload is complete: no temporary name needed (a rename is a copy).
ATOMIC_STORES = {"s3", "s3a", "gs", "gcs", "hf", "az", "abfs", "abfss", "adl", "oss", "oci"}


def publish(write: Callable[[Path], None], to: str, is_folder: bool) -> None:
    """Calls `write` with a temporary local path and moves what it made to `to`. A file that is there is replaced.

    Raises:
        ConfigError: the address is unknown, needs a package that is not installed, or cannot be written to.
    """
    fs, path = _open_address(to)
    if fs is None:
        _publish_here(write, Path(path), is_folder)
        return
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "export"
        if is_folder:
            made.mkdir()
        write(made)
        try:
            _upload(fs, made, path)
        except (OSError, ValueError, RuntimeError, ImportError) as error:
            raise _cannot_write(to, error) from error


def _open_address(to: str) -> tuple[Any, str]:
    """(filesystem or None for the local one, path in it)."""
    if "://" not in to:
        return None, os.path.expanduser(to)
    import fsspec

    try:
        fs, path = fsspec.core.url_to_fs(to)
    except (ImportError, ValueError, OSError) as error:
        raise _cannot_write(to, error) from error
    is_local = "file" in (fs.protocol if isinstance(fs.protocol, tuple) else (fs.protocol,))
    return (None if is_local else fs), path


def _publish_here(write: Callable[[Path], None], target: Path, is_folder: bool) -> None:
    if target.is_dir() and not (is_folder and not any(target.iterdir())):
        raise ConfigError(
            f"{target} is a folder that is there already: name a new {'folder' if is_folder else 'file'}"
        )
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


def _upload(fs: Any, made: Path, path: str) -> None:
    files = sorted(file for file in made.rglob("*") if file.is_file()) if made.is_dir() else [made]
    protocols = set(fs.protocol if isinstance(fs.protocol, tuple) else (fs.protocol,))
    for file in files:
        target = path if file == made else f"{path.rstrip('/')}/{file.relative_to(made).as_posix()}"
        fs.makedirs(fs._parent(target), exist_ok=True)
        if protocols & ATOMIC_STORES:
            fs.put_file(str(file), target)
        else:
            fs.put_file(str(file), target + ".tmp")
            fs.mv(target + ".tmp", target)


def _cannot_write(to: str, error: Exception) -> ConfigError:
    missing = error if isinstance(error, ModuleNotFoundError) else error.__cause__
    if isinstance(missing, ModuleNotFoundError) and missing.name:
        package = missing.name.split(".")[0]
        return ConfigError(
            f"cannot write to {to}: the package {package} is not installed (pip install {package})"
        )
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return ConfigError(f"cannot write to {to} ({reason}): check --to and your rights")
