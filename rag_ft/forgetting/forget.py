"""Forgets a document in all versions of a run: what that takes, and doing it."""

from __future__ import annotations

import contextlib
import difflib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rag_ft.done_files import SOURCES, read_plan
from rag_ft.errors import ConfigError, DataError
from rag_ft.forgetting.record import Forgotten, trainings
from rag_ft.forgetting.removal import (
    count_lines,
    hash_of_reviews,
    mentions,
    remove_dependents,
    remove_document,
    renew_done_files,
)
from rag_ft.forgetting.traces import Traces
from rag_ft.freshness import check_files
from rag_ft.lock import locked
from rag_ft.run_dir import RunDir
from rag_ft.storage import read_rows, write_json
from rag_ft.versions import escaped, first_version, versions_of


@dataclass(frozen=True)
class Forgetting:
    """What goes with a document. `lines` has {file: (lines that go, all)} for each version,
    `trained` the components that learnt from it with their trainings, `copies` the places outside
    of the run that hold it or what learnt from it. `continues`: a killed call has begun with it."""

    first: RunDir
    run_dirs: list[RunDir]
    traces: Traces
    lines: Mapping[str, Mapping[str, tuple[int, int]]]
    trained: Mapping[str, Mapping[str, str]]
    copies: list[str]
    continues: bool


@contextlib.contextmanager
def locked_versions(run: Path) -> Iterator[list[RunDir]]:
    """The folders of all versions, in which no stage runs meanwhile.

    Raises:
        DataError: there is no such run.
        RagFtError: another process works in one of them.
    """
    run_dirs = [version.run_dir for version in versions_of(run)]
    with contextlib.ExitStack() as held:
        for run_dir in run_dirs:
            held.enter_context(locked(run_dir, "forget"))
        yield run_dirs


def unfinished(run: Path) -> dict[str, Any]:
    """{document, reviews} with which a killed call has begun; empty where there is none."""
    path = RunDir(first_version(run)).forgetting
    found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    return found


def survey(run_dirs: list[RunDir], document_id: str) -> Forgetting:
    """What goes with a document, of the versions `run_dirs`, the first one first.

    Raises:
        ConfigError: no version knows the document.
        DataError: a version has no other document, or a file has changed since its stage wrote it.
    """
    first = run_dirs[0]
    continues = unfinished(first.path).get("document") == document_id
    for run_dir in () if continues else run_dirs:
        check_files(run_dir)
    traces = Traces(document_id, run_dirs)
    # A document that an update has removed may still stand in replies and logs.
    is_known = continues or traces.documents or any(mentions(d, traces) for d in run_dirs)
    if not is_known:
        known = [row["id"] for run_dir in run_dirs for row in documents_of(run_dir)]
        near = difflib.get_close_matches(document_id, known, 3) or known[:3]
        raise ConfigError(f"{first.path} has no document '{document_id}': try {', '.join(near)}")
    lines = {run_dir.path.name: count_lines(run_dir, traces) for run_dir in run_dirs}
    for run_dir in run_dirs:
        gone, number = lines[run_dir.path.name].get(run_dir.documents.name, (0, 0))
        if gone == number > 0:
            raise DataError(f"{run_dir.path} has no other document: delete the folder instead")

    # A test document is never trained on; where its split is not known any more, it may have been.
    held = traces.documents
    learnt = [d for d in run_dirs if not held or split_in(traces, d) not in (None, "test")]
    trained = {run_dir.path.name: trainings(run_dir) for run_dir in learnt}
    rows = [row for d in run_dirs if d.copies.exists() for row in read_rows(d.copies)]
    copies = dict.fromkeys(str(row["to"]) for row in rows)
    there = [place for place in copies if "://" in place or Path(place).exists()]
    return Forgetting(first, run_dirs, traces, lines, trained, there, continues)


def documents_of(run_dir: RunDir) -> Iterator[dict[str, Any]]:
    """The lines of documents.jsonl; none where ingest has not run."""
    return read_rows(run_dir.documents) if run_dir.documents.exists() else iter(())


def split_in(traces: Traces, run_dir: RunDir) -> str | None:
    """The split of the document in a version; None where it is not there."""
    found = traces.documents.get(run_dir.path.name)
    return found.split if found else None


def forget(work: Forgetting) -> None:
    """Removes the document; a killed call is continued by the next one. The order: what must never
    be taken again, what depends on the document, the document, and the records of the stages."""
    first, traces = work.first, work.traces
    reviews = {run_dir.path.name: hash_of_reviews(run_dir) for run_dir in work.run_dirs}
    begun = unfinished(first.path) or {"document": traces.document_id, "reviews": reviews}
    write_json(first.forgetting, begun)
    listed = Forgotten(first.forgotten)
    known = {text for entry in listed.entries for text in entry["texts"]}
    if not work.continues or not known.issuperset(traces.texts):
        each = [item for trained in work.trained.values() for item in trained.items()]
        marks = {name: [mark for other, mark in each if other == name] for name, _ in each}
        listed.add(traces.texts, files_of(work), marks)
    # What a killed call of `improve` left of a version that it was just making.
    for path in first.path.parent.glob(f".{escaped(first.path.name)}.v*.new"):
        shutil.rmtree(path)
    for run_dir in work.run_dirs:
        remove_dependents(run_dir, traces)
    for run_dir in work.run_dirs:
        remove_document(run_dir, traces)
    for run_dir in work.run_dirs:
        renew_done_files(run_dir, first.forgotten, begun["reviews"].get(run_dir.path.name))
    first.forgetting.unlink()


def files_of(work: Forgetting) -> list[tuple[int, str]]:
    """(size, sha256) of the source files that hold the document alone, as ingest recorded them."""
    found = set()
    for run_dir in work.run_dirs:
        sources = (read_plan(run_dir.done("ingest")) or {}).get("sources", {})
        if mark := sources.get(f"{SOURCES}{work.traces.document_id}"):
            found.add((int(mark[0]), str(mark[2])))
    return sorted(found)
