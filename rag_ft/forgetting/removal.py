"""Removes what a run holds about one document; a killed removal is continued by the next one.

What names the document comes last: first the lines that are found by its pairs and chunks, then its
pairs, its vectors, its chunks, and itself.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from rag_ft.chunk_store import ChunkStore
from rag_ft.done_files import read_plan, write_done
from rag_ft.file_marks import Mark, damage, mark_file
from rag_ft.forgetting.traces import PRUNED, Traces
from rag_ft.freshness import REVIEWS, fingerprint_of, record_outputs
from rag_ft.line_index import offsets_of
from rag_ft.retrieval.pruning import prune_index
from rag_ft.run_dir import RunDir
from rag_ft.schema import Chunk
from rag_ft.stage_table import NAMES
from rag_ft.storage import (
    append_lock,
    file_sha256,
    leftovers,
    naming,
    read_rows,
    temporary_beside,
    to_json,
    write_json,
)

# Made anew without asking a model anything: what these stages wrote stays valid.
KEPT_STAGES = ("ingest", "index", "generate")
SCRATCH = ("checkpoints", "generator.tmp", "documents.unsplit.jsonl", "documents.unsplit.grams")
PAGES = ("report.html", "report.md")
SUMMARIES = ("metrics.json", "fusion.json", "reranking.json", "generated/counts.json")
Kept = Callable[[bytes], bytes | None]


def files_of_lines(run_dir: RunDir) -> list[Path]:
    """The JSONL files of a run, in the order in which lines may go: those that name pairs, chunks
    and the document last."""
    last = [run_dir.generated_rejects, run_dir.generated_pairs, run_dir.qa]
    last += [run_dir.chunks, run_dir.documents]
    inside = [path for path in run_dir.path.rglob("*.jsonl") if not _is_scratch(run_dir, path)]
    return [*sorted(set(inside) - set(last)), *(path for path in last if path.exists())]


def _is_scratch(run_dir: RunDir, path: Path) -> bool:
    return path.relative_to(run_dir.path).parts[0] in SCRATCH


def keeper(path: Path, run_dir: RunDir, traces: Traces) -> Kept:
    """What stays of a line of a file: the line, the line without ids of chunks that it merely
    lists, or None."""

    def kept(line: bytes) -> bytes | None:
        try:
            row = json.loads(line)
        except ValueError:
            return None  # the unfinished last line of a killed writer
        if path == run_dir.documents:
            # Another document may quote this one.
            return None if row["id"] == traces.document_id else line
        if traces.concern(row):
            return None
        listed = row.get(PRUNED) or []
        if any(map(traces.names, listed)):
            row[PRUNED] = [chunk_id for chunk_id in listed if not traces.names(chunk_id)]
            return (to_json(row) + "\n").encode()
        return line

    # A stored reply without `about` comes from a version that did not say what it was shown.
    if path.parent == run_dir.path / "replies":
        return lambda line: kept(line) if b'"about":' in line else None
    return kept


def count_lines(run_dir: RunDir, traces: Traces) -> dict[str, tuple[int, int]]:
    """{file: (lines that go, all lines)} of the files of which any go."""
    found = {}
    for path in files_of_lines(run_dir):
        kept = keeper(path, run_dir, traces)
        with path.open("rb") as lines:
            goes = [kept(line) is None for line in lines]
        if any(goes):
            found[path.relative_to(run_dir.path).as_posix()] = (sum(goes), len(goes))
    return found


def mentions(run_dir: RunDir, traces: Traces) -> bool:
    """Whether any line of a run is about the document."""
    files = (path for path in files_of_lines(run_dir) if path != run_dir.documents)
    return any(traces.concern(row) for path in files for row in read_rows(path))


def remove_lines(path: Path, kept: Kept, shared: bool) -> None:
    """Writes the file without the lines of which nothing is kept, by one rename; a file that stays
    as it is keeps its time. `shared`: other processes may append to it meanwhile."""
    temporary, changed = temporary_beside(path), False
    with append_lock(path) if shared else contextlib.nullcontext():
        try:
            with naming(path), path.open("rb") as lines, temporary.open("xb") as out:
                for line in lines:
                    rest = kept(line)
                    changed |= rest != line
                    out.write(rest or b"")
            if changed:
                temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def remove_dependents(run_dir: RunDir, traces: Traces) -> None:
    """First step: everything but the pairs, the indexes, the chunks and the document."""
    last = {run_dir.generated_rejects, run_dir.generated_pairs, run_dir.qa}
    last |= {run_dir.chunks, run_dir.documents}
    for path in files_of_lines(run_dir):
        if path not in last:
            shared = path in (run_dir.reviews, run_dir.served, run_dir.feedback)
            remove_lines(path, keeper(path, run_dir, traces), shared)
    summaries = [run_dir.path / name for name in SUMMARIES]
    for path in [*summaries, *(run_dir.done(stage) for stage in NAMES)]:
        found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        # Of done-files the counts alone hold examples.
        part = found.get("counts") if path.name.endswith(".done.json") else found
        left = traces.scrubbed(part)
        if left != part:
            content = {**found, "counts": left} if part is not found else left
            write_json(path, content, indent=1)
    pages = [run_dir.path / name for name in (*PAGES, *SCRATCH)]
    tables = [offsets_of(run_dir.documents), offsets_of(run_dir.chunks)]
    # The report is made again from what is left.
    for path in [
        *pages,
        *tables,
        run_dir.vllm_log,
        run_dir.done("report"),
        run_dir.started("report"),
        *leftovers(run_dir.path),
    ]:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def remove_document(run_dir: RunDir, traces: Traces) -> None:
    """Second step: its pairs, its vectors, its chunks, and itself."""
    for path in (run_dir.generated_rejects, run_dir.generated_pairs, run_dir.qa):
        if path.exists():
            remove_lines(path, keeper(path, run_dir, traces), shared=False)

    def chunks() -> Iterator[Chunk]:
        return (c for c in ChunkStore(run_dir.chunks) if c.document_id != traces.document_id)

    for folder in (run_dir.index, run_dir.retriever_index, run_dir.given_index):
        prune_index(folder, chunks)
    _remove_signature(run_dir, traces.document_id)
    for path in (run_dir.chunks, run_dir.documents):
        if path.exists():
            remove_lines(path, keeper(path, run_dir, traces), shared=False)


def _remove_signature(run_dir: RunDir, document_id: str) -> None:
    """Removes the document's row of the signatures, which are in the order of the documents."""
    if not run_dir.signatures.exists() or not run_dir.documents.exists():
        return
    with run_dir.documents.open("rb") as lines:
        ids = [json.loads(line)["id"] for line in lines]
    signatures = np.load(run_dir.signatures, allow_pickle=False)
    # A killed call may have removed it already. Another version may share the file by a link.
    if document_id in ids and len(ids) == len(signatures):
        temporary = temporary_beside(run_dir.signatures)
        with temporary.open("xb") as out:
            np.save(out, np.delete(signatures, ids.index(document_id), axis=0))
        temporary.replace(run_dir.signatures)


def renew_done_files(run_dir: RunDir, forgotten: Path, reviews_before: str | None) -> None:
    """Third step: what ingest, index and generate wrote is valid as it is now. Later stages stay
    recorded with what they were made from, and so become stale.

    `reviews_before` is the hash of reviews.jsonl before lines went.
    """
    results: dict[str, str] = {}
    listed = mark_file(forgotten)
    for stage in NAMES:
        done = dict(read_plan(run_dir.done(stage)) or {})
        if not done or "outputs" not in done:
            continue
        if damage(run_dir.path, done["outputs"]):
            done |= record_outputs(run_dir, stage)
        if stage in KEPT_STAGES:
            own: dict[str, Mark] = {}
            if stage == "ingest" and listed:
                own[forgotten.name] = listed
            if stage == "generate" and done["inputs"].get(REVIEWS) == reviews_before is not None:
                own[REVIEWS] = mark_file(run_dir.reviews) or []
            hashes = {name: str(mark[2]) for name, mark in own.items()}
            earlier = {name: value for name, value in results.items() if name in done["inputs"]}
            done["inputs"] = {**done["inputs"], **earlier, **hashes}
            done["sources"] = {**done["sources"], **own}
            done["fingerprint"] = fingerprint_of(stage, done["config"], done["inputs"])
            results[stage] = done["result"]
        if done != read_plan(run_dir.done(stage)):
            write_done(run_dir.done(stage), done)


def hash_of_reviews(run_dir: RunDir) -> str | None:
    """Of a file that people append to; None where nobody has reviewed."""
    return file_sha256(run_dir.reviews) if run_dir.reviews.exists() else None
