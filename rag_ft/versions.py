"""Versions of a run: runs/X and runs/X.v2, runs/X.v3 ..., and which one is served.

`version.json` in each further version says where it comes from and why it was promoted or not;
`promoted.json` in runs/X names the version that is served, and those that were before it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rag_ft.errors import ConfigError, DataError
from rag_ft.forgetting.record import Forgotten
from rag_ft.run_dir import RunDir
from rag_ft.storage import now, write_json

_NAME = re.compile(r"(?P<first>.+)\.v(?P<number>[1-9]\d*)$")


@dataclass(frozen=True)
class Version:
    """`number` counts from 1, which is the run itself. `parent` is the name of the version that it
    continues, `changes` says what is new, `decision` why it is served or not; of the first one they
    are empty."""

    name: str
    number: int
    run_dir: RunDir
    parent: str | None
    changes: dict[str, Any]
    decision: dict[str, Any]
    is_promoted: bool

    @property
    def is_complete(self) -> bool:
        """Whether it has an index, so that it can be served."""
        return self.run_dir.done("index").exists()


def first_version(run: Path) -> Path:
    """The folder runs/X of a version of X. A folder without version.json is a first one."""
    found = _NAME.match(run.name)
    if found and RunDir(run).version.exists():
        return run.with_name(found["first"])
    return run


def forgotten_list(run: Path) -> Path:
    """The forgotten.json of all versions of a run, which stands in the first one."""
    return RunDir(first_version(run)).forgotten


def versions_of(run: Path) -> list[Version]:
    """All versions of the run that `run` is a version of, the first one first.

    Raises:
        DataError: there is no such run, or a version.json or promoted.json is damaged.
    """
    first = first_version(run)
    if not first.is_dir():
        raise DataError(f"{first} is no run folder: name a folder that `rag-ft run` wrote")
    folders = {1: first}
    for path in first.parent.glob(f"{escaped(first.name)}.v*"):
        found = _NAME.match(path.name)
        if found and found["first"] == first.name and RunDir(path).version.exists():
            folders[int(found["number"])] = path
    served = promoted(first)
    versions = []
    for number, path in sorted(folders.items()):
        run_dir = RunDir(path)
        about = _read(run_dir.version) if number > 1 else {}
        versions.append(
            Version(
                path.name,
                number,
                run_dir,
                about.get("parent"),
                about.get("changes") or {},
                about.get("decision") or {},
                path == served,
            )
        )
    return versions


def promoted(run: Path) -> Path:
    """The folder of the version that is served: the first one until another is promoted.

    Raises:
        DataError: promoted.json is damaged, or names a version that is not there.
    """
    first = first_version(run)
    path = RunDir(first).promoted
    if not path.exists():
        return first
    name = _read(path).get("version")
    found = first.with_name(str(name))
    if first_version(found) != first or not found.is_dir():
        raise DataError(f"{path} names {name}, which is no version of {first.name}: correct it")
    return found


def promote(version: Version) -> None:
    """Makes a version the one that is served, by one rename.

    Raises:
        DataError: it has no index, or a component learnt from a document that was forgotten.
    """
    if not version.is_complete:
        raise DataError(f"{version.run_dir.path} has no index: it cannot be served")
    if learnt := Forgotten(forgotten_list(version.run_dir.path)).learnt(version.run_dir):
        raise DataError(
            f"{version.run_dir.path}: its {' and '.join(learnt)} learnt from a document that was "
            "forgotten since: make a version that did not with `rag-ft improve`"
        )
    first = first_version(version.run_dir.path)
    path = RunDir(first).promoted
    before = _read(path) if path.exists() else {"version": first.name, "before": []}
    if before["version"] == version.name:
        return
    history = [*(before.get("before") or []), before["version"]]
    content = {"version": version.name, "before": history, "time": now()}
    write_json(path, content, indent=1)


def rollback(run: Path, wanted: str | None = None) -> Version:
    """Promotes an earlier version again, and returns it.

    Args:
        run: any version of the run.
        wanted: v2, X.v2, v1 or X. None: the one that was served before.

    Raises:
        ConfigError: there is no such version, or none was served before.
        DataError: see `promote`.
    """
    versions = versions_of(run)
    names = {name: v for v in versions for name in (v.name, f"v{v.number}")}
    if wanted is None:
        path = RunDir(versions[0].run_dir.path).promoted
        history = (_read(path).get("before") or []) if path.exists() else []
        if not history:
            raise ConfigError(f"no other version of {versions[0].name} was served before")
        wanted = history[-1]
    if wanted not in names:
        known = ", ".join(version.name for version in versions)
        raise ConfigError(f"no version '{wanted}': there are {known}")
    promote(names[wanted])
    return names[wanted]


def next_version(run: Path) -> Path:
    """The folder of the version that comes after all others. A run of its own that has such a name
    is left alone."""
    versions = versions_of(run)
    first, number = versions[0], versions[-1].number + 1
    while (folder := first.run_dir.path.with_name(f"{first.name}.v{number}")).exists():
        number += 1
    return folder


def read_changes(run_dir: RunDir) -> dict[str, Any]:
    """The `changes` of a version; empty for a run that continues none.

    Raises:
        DataError: version.json is damaged.
    """
    return (_read(run_dir.version).get("changes") or {}) if run_dir.version.exists() else {}


def write_version(
    run_dir: RunDir, parent: str, changes: dict[str, Any], decision: dict[str, Any] | None = None
) -> None:
    """Writes version.json; without a decision the version is not finished."""
    content = {"parent": parent, "changes": changes, "decision": decision or {}}
    write_json(run_dir.version, content, indent=1)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise DataError(f"{path} is damaged: it must be a JSON object")
    return content


def escaped(name: str) -> str:
    """A name in which a pattern finds nothing but itself."""
    return re.sub(r"([\[*?])", r"[\1]", name)
