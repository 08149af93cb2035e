"""A new version begins with what its parent has: documents, chunks, vectors, replies, LM scores."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import yaml

from rag_ft.run_dir import RunDir
from rag_ft.run_files import FILES
from rag_ft.storage import link_or_copy, write_text
from rag_ft.text import redact
from rag_ft.versions import write_version

# An update of these stages changes what has changed. The others find replies and scores again.
UPDATED = ("ingest", "index")


def take_over(parent: RunDir, last: RunDir, folder: Path, settings: dict[str, Any]) -> None:
    """Makes the run folder of a version that continues `parent`. It appears by one rename, with its
    config.yaml (`settings`) and version.json. Replies and scores are those of `last`, the version
    that was made last.

    Nothing that is done to the version changes the other two: files that are appended to are
    copies, the others hard links where the file system has them.
    """
    unfinished = RunDir(folder.with_name(f".{folder.name}.new"))
    shutil.rmtree(unfinished.path, ignore_errors=True)
    unfinished.path.mkdir()

    replies = [path for stage in FILES for path in last.writes(stage, "replies")]
    results = [path for stage in UPDATED for path in parent.writes(stage, "result")]
    marks = [mark for stage in UPDATED for mark in (parent.started(stage), parent.done(stage))]
    for path in [*replies, *results, *marks, parent.signatures, parent.findings]:
        home = last if path in replies else parent
        target = unfinished.path / path.relative_to(home.path)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, target, copy_function=link_or_copy)
        elif path in results and path.exists():
            link_or_copy(path, target)
        elif path.exists():
            shutil.copy2(path, target)

    text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True)
    write_text(unfinished.config, redact(text))
    write_version(unfinished, parent.path.name, {})
    os.replace(unfinished.path, folder)
