"""forgotten.json of a run: which documents no ingest takes again, and what was trained on them.

A document is known by hashes alone: of its text without white space, and of its file. No name and
no text stands there.
"""

from __future__ import annotations

import json
from collections.abc import Container, Mapping
from pathlib import Path
from typing import Any

from rag_ft.done_files import Plan, read_plan
from rag_ft.errors import DataError
from rag_ft.evaluation.components import COMPONENTS, Component
from rag_ft.run_dir import RunDir
from rag_ft.storage import file_sha256, now, write_json

FORGOTTEN = "forgotten"  # the reason of a reject of ingest
# {component: fingerprints of its trainings, in all versions}
Trained = Mapping[str, list[str]]


class Forgotten:
    """What a forgotten.json says; a run without one has forgotten nothing."""

    def __init__(self, path: Path) -> None:
        """Raises DataError where the file is damaged."""
        self._path, self.entries = path, list[dict[str, Any]]()
        self._texts, self._files = set[str](), set[tuple[int, str]]()
        if path.exists():
            try:
                self.entries = json.loads(path.read_text(encoding="utf-8"))["documents"]
                self._texts = {text for entry in self.entries for text in entry["texts"]}
                self._files = {(size, h) for e in self.entries for size, h in e["files"]}
            except (OSError, ValueError, LookupError, TypeError) as error:
                raise DataError(f"{path} is damaged ({error}): correct it") from error

    def has_text(self, digest: bytes) -> bool:
        """Whether a document with this `splits.text_digest` is not to be taken."""
        return digest.hex() in self._texts

    def has_file(self, path: Path) -> bool:
        """Whether a file is one whose document is not to be taken, whatever its name."""
        if not self._files:
            return False
        try:
            size = path.stat().st_size
            is_size_known = any(size == known for known, _ in self._files)
            return is_size_known and (size, file_sha256(path)) in self._files
        except OSError:
            return False

    def add(self, texts: list[str], files: list[tuple[int, str]], trained: Trained) -> None:
        """Writes the list with one more document. `trained` are the trainings that it took part
        in."""
        entry = {"texts": texts, "files": files, "time": now(), "trained": trained}
        content = {"documents": [*self.entries, entry]}
        write_json(self._path, content, indent=1)

    def learnt(self, run_dir: RunDir) -> list[str]:
        """The components of a version that learnt from a forgotten document: those that have not
        been trained again since, and those whose training began with such a one."""
        gone = {mark for e in self.entries for marks in e["trained"].values() for mark in marks}
        return [c.name for c in COMPONENTS.values() if gone and _learnt(c, run_dir, gone)]


def trainings(run_dir: RunDir) -> dict[str, str]:
    """{component: fingerprint of its training} of those that were trained in a run folder."""
    found = {c.name: _training(c, run_dir) for c in COMPONENTS.values()}
    return {name: str(done["fingerprint"]) for name, done in found.items() if done}


def _training(component: Component, run_dir: RunDir) -> Plan | None:
    """The done-file of a component's training, where there is a tuned one."""
    there = (run_dir.path / component.name).exists()
    return read_plan(run_dir.done(component.stage)) if there else None


def _learnt(component: Component, run_dir: RunDir, gone: Container[str]) -> bool:
    done = _training(component, run_dir)
    if done is None or done["fingerprint"] in gone:
        return done is not None
    start = done["config"].get(f"{component.stage}.advanced.start")
    return bool(start) and _learnt(component, RunDir(Path(start).parent), gone)
