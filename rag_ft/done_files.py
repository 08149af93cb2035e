"""Started- and done-files: what a stage was given, and what it wrote."""

from __future__ import annotations

import contextlib
import functools
import json
import mmap
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rag_ft.errors import ConfigError, DataError
from rag_ft.file_marks import is_mark
from rag_ft.run_dir import RunDir
from rag_ft.run_files import FILES
from rag_ft.storage import content_hash, file_sha256, json_text, write_json, write_text

Plan = dict[str, Any]
SOURCES = "ingest.sources/"  # what the names of source files begin with, in inputs and sources
# The last part of a done-file that names many source files: their marks.
_DOCUMENTS = '\n "documents": '
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
    return _read(path, False)


def read_head(path: Path) -> Plan | None:
    """As read_plan; `inputs` and `sources` may lack the source files of ingest, if they are many.
    Takes the same time for any number of them."""
    return _read(path, True)


def _read(path: Path, head: bool) -> Plan | None:
    try:
        version = ((now := path.stat()).st_ino, now.st_size, now.st_mtime_ns)
        return _parse_once(path, _head_of(path, *version) if head else None, *version)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ConfigError(
            f"cannot read {path}: {error.strerror}; is run.dir a folder of yours?"
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path} is damaged ({error}): run the stage again with --force") from error


def write_done(path: Path, done: Plan) -> None:
    """Writes a done-file. Where the folders of many source files are recorded, the marks of these
    files come last, for `read_head`, and their hashes once."""
    inputs, sources = done["inputs"], done["sources"]
    many = {
        name: mark
        for name, mark in sources.items()
        if name.startswith(SOURCES) and inputs.get(name) == mark[2]
    }
    if not done.get("folders") or not many:
        write_json(path, done, indent=1)
        return
    few = [{n: v for n, v in part.items() if n not in many} for part in (inputs, sources)]
    head = json_text({**done, "inputs": few[0], "sources": few[1]}, indent=1)
    last = json_text(many)
    write_text(path, f"{head.removesuffix('}').rstrip()},{_DOCUMENTS}{last}\n}}\n")


def unchanged_sources(plan: Plan, done: Plan) -> set[str]:
    """The ids of the source files of ingest that are as they were; none where something else that
    ingest reads has changed."""

    def others(inputs: Mapping[str, str]) -> dict[str, str]:
        return {name: value for name, value in inputs.items() if not name.startswith(SOURCES)}

    if others(plan["inputs"]) != others(done["inputs"]):
        return set()
    same = {
        name.removeprefix(SOURCES)
        for name, value in plan["inputs"].items()
        if name.startswith(SOURCES) and value != "unreadable" and done["inputs"].get(name) == value
    }
    # Two files with one id cannot be told apart.
    return {name for name in same if f"{SOURCES}{name} (2)" not in plan["inputs"]}


def chunks_hash(run_dir: RunDir) -> str:
    """sha256 of chunks.jsonl: the one that ingest recorded, while size and time are the same."""
    found = run_dir.chunks.stat()
    outputs = (read_head(run_dir.done("ingest")) or {}).get("outputs", {})
    size, time, known = outputs.get(run_dir.chunks.name, (None, None, ""))
    if (found.st_size, found.st_mtime_ns) == (size, time):
        return str(known)
    return file_sha256(run_dir.chunks)


# With many documents these files are large, and each stage of a command asks for them.
@functools.lru_cache(maxsize=3 * len(FILES))
def _parse_once(path: Path, head: str | None, *version: int) -> Plan:
    found = json.loads(head or path.read_text(encoding="utf-8"))
    if not isinstance(found, dict) or "fingerprint" not in found:
        raise ValueError("it holds no fingerprint")
    for part in ("config", "inputs", "sources", "outputs", "folders", "documents"):
        held = found.get(part, {})
        has_marks = isinstance(held, dict) and part in ("sources", "outputs", "documents")
        if not isinstance(held, dict) or (has_marks and not all(map(is_mark, held.values()))):
            raise ValueError(f"its {part} are not what a stage writes")
    needed = {"config", "inputs", "sources", "counts", "result"}
    if found.keys() & {"outputs", "documents"} and (missing := sorted(needed - found.keys())):
        raise ValueError(f"it holds no {missing[0]}")
    if documents := found.pop("documents", {}):
        found["inputs"] = {**found["inputs"], **{n: mark[2] for n, mark in documents.items()}}
        found["sources"] = {**found["sources"], **documents}
    return found


@functools.lru_cache(maxsize=2 * len(FILES))
def _head_of(path: Path, *version: int) -> str | None:
    """The JSON of a done-file without the part that comes last; None where it has no such part."""
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        end = content.find(_DOCUMENTS.encode())
        return f"{content[:end].decode().removesuffix(',')}\n}}" if end > 0 else None


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
