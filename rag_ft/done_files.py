"""Started- and done-files: what a stage was given, and what it wrote."""

from __future__ import annotations

import contextlib
import functools
import json
import re
from pathlib import Path
from typing import Any

from rag_ft.errors import ConfigError, DataError
from rag_ft.file_marks import is_mark
from rag_ft.run_dir import RunDir
from rag_ft.run_files import FILES
from rag_ft.storage import content_hash, file_sha256

Plan = dict[str, Any]
_CONFIG_HASH = re.compile(rb'\{"config_file": "([0-9a-f]+)", ')
OLD_LAYOUT = (
    "{path} holds {stage} of an earlier version of rag-ft, which recorded no hashes: run it again "
    "with --force (replies of a language model are reused), or use another run.dir"
)


def read_plan(path: Path) -> Plan | None:
    """The content of a started-file or done-file, not to be changed; None where there is no such
    file.

    Raises:
        ConfigError: the file cannot be read.
        DataError: the file is damaged.
    """
    try:
        return _parse_once(path, (now := path.stat()).st_ino, now.st_size, now.st_mtime_ns)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror}; is run.dir a folder of yours?"
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged ({error}): run the stage again with --force") from error


def chunks_hash(run_dir: RunDir) -> str:
    """sha256 of chunks.jsonl: the one that ingest recorded, while size and time are the same."""
    found = run_dir.chunks.stat()
    outputs = (read_plan(run_dir.done("ingest")) or {}).get("outputs", {})
    size, time, known = outputs.get(run_dir.chunks.name, (None, None, ""))
    if (found.st_size, found.st_mtime_ns) == (size, time):
        return str(known)
    return file_sha256(run_dir.chunks)


# With many documents these files are large, and each stage of a command asks for them.
@functools.lru_cache(maxsize=2 * len(FILES))
def _parse_once(path: Path, *version: int) -> Plan:
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict) or "fingerprint" not in found:
        raise ValueError("it holds no fingerprint")
    for part in ("config", "inputs", "sources", "outputs", "folders"):
        held = found.get(part, {})
        marks = held.values() if isinstance(held, dict) and part in ("sources", "outputs") else ()
        if not isinstance(held, dict) or not all(map(is_mark, marks)):
            raise ValueError(f"its {part} are not what a stage writes")
    needed = {"config", "inputs", "sources", "counts", "result"}
    if "outputs" in found and (missing := sorted(needed - found.keys())):
        raise ValueError(f"it holds no {missing[0]}")
    return found


def config_is_damaged(run_dir: RunDir) -> bool:
    """Whether config.yaml differs from what the stages wrote; False where no stage recorded it."""
    known = set()
    for name in FILES:
        with contextlib.suppress(DataError):  # a damaged file is reported with its stage
            known |= {_config_hash(run_dir.started(name))} - {None}
    try:
        return bool(known) and content_hash(run_dir.config.read_text(encoding="utf-8")) not in known
    except (OSError, UnicodeDecodeError):
        return True


def _config_hash(started: Path) -> str | None:
    """The hash of config.yaml in a started-file. It comes first: with many documents the file is
    large."""
    with contextlib.suppress(OSError), started.open("rb") as content:
        if head := _CONFIG_HASH.match(content.read(100)):
            return head[1].decode()
    return (read_plan(started) or {}).get("config_file")
