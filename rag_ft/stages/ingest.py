"""Reads the sources and writes documents.jsonl and chunks.jsonl, with splits by document.

There are two passes, so that only a few documents' texts are in memory at a time. In the first,
worker processes read every document and cut it into chunks; temporary files take both, and what
tells whether a document holds a part of another one. Then near-duplicates are known and splits are
decided. The second pass writes documents and chunks.

An update takes over the documents of unchanged files, and every known document keeps its split.
"""

from __future__ import annotations

import itertools
import logging
import shutil
from array import array
from collections import Counter
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import numpy as np
from tqdm import tqdm

from rag_ft.config import EngineConfig, IngestConfig
from rag_ft.documents.buckets import Reader, reader_of
from rag_ft.documents.containment import TestParts
from rag_ft.documents.discovery import RawDocument, free_id
from rag_ft.documents.known import KnownDocuments
from rag_ft.documents.near_duplicates import Signatures, groups, least_estimate
from rag_ft.documents.prepare import Prepared, chunk_rows, document_row
from rag_ft.documents.source_files import SourceFile, find_files
from rag_ft.documents.splits import (
    NamedSplits,
    decide_splits,
    read_splits,
    strictest,
    text_digest,
)
from rag_ft.documents.stored import StoredDocuments
from rag_ft.errors import ConfigError, DataError
from rag_ft.forgetting.record import FORGOTTEN, Forgotten
from rag_ft.model_hub import resolve
from rag_ft.run_dir import RunDir
from rag_ft.schema import Reject, Split
from rag_ft.session import Session
from rag_ft.storage import encodable, read_rows, replacing, to_json, write_jsonl
from rag_ft.versions import forgotten_list

logger = logging.getLogger(__name__)
# These rejects are no failures: min_kept_share does not count them.
HARMLESS = frozenset({"unknown type", "duplicate", FORGOTTEN})


def run(session: Session, unchanged: Container[str] | None = None) -> dict[str, Any]:
    """Writes documents.jsonl, chunks.jsonl and rejects/ingest.jsonl, and returns their counts.

    A source that cannot be read is a reject. `unchanged` makes it an update of an earlier ingest:
    it has the ids of the source files whose documents are taken over without reading them. Known
    documents keep their split, except near-duplicates of test documents: these join the test split.

    Raises:
        ConfigError: settings contradict each other, or there is no source.
        DataError: a source is missing, or too few of the sources can be read.
    """
    settings, run_dir = session.config.ingest, session.run_dir
    check(settings)
    encoder = resolve(session.config.encoder.model, "encoder")

    # First pass: read everything; the split is not known yet.
    stored = None if unchanged is None else StoredDocuments(run_dir, unchanged)
    named = read_splits(settings.advanced.splits)
    run_dir.path.mkdir(parents=True, exist_ok=True)
    forgotten, signatures = Forgotten(forgotten_list(run_dir.path)), Signatures(run_dir.path)
    sources = Sources(forgotten, signatures, stored, named)
    engine = EngineConfig() if stored else session.config.engine
    prepare = reader_of(settings, encoder, engine, run_dir.checkpoints("ingest"))
    found = sources.wanted(find_files(settings.sources))
    files = tqdm(drained(found), desc="ingest", unit="file", total=len(found))
    unsplit = run_dir.documents_unsplit
    try:
        with run_dir.grams_unsplit.open("wb") as grams, replacing(run_dir.findings) as findings:
            write_jsonl(unsplit, sources.read(files, prepare, grams, findings))
        write_jsonl(run_dir.rejects("ingest"), sources.rejects)
        _check_kept(settings, sources, run_dir)

        splits, near = split_all(sources, settings)

        # Second pass: every document gets its split, and its chunks inherit it.
        rows = zip(read_rows(unsplit), splits, strict=True)
        write_jsonl(run_dir.documents, (document_row(row, split) for row, split in rows))
        num_chunks, num_leaking = write_chunks(run_dir, sources, splits)
        sources.signatures.save(run_dir.signatures, len(sources.ids))
        shutil.rmtree(run_dir.checkpoints("ingest"), ignore_errors=True)
    finally:
        unsplit.unlink(missing_ok=True)
        run_dir.grams_unsplit.unlink(missing_ok=True)
        if stored:
            stored.close()
    partial = sum(reject.partial for reject in sources.rejects)
    return {
        "num_sources": len(sources.ids) + len(sources.rejects) - partial,
        "num_documents": len(sources.ids),
        "num_reused_documents": sources.num_reused,
        "num_rejects": len(sources.rejects) - partial,
        "num_partly_read": partial,
        "num_chunks": num_chunks,
        "num_leaking_chunks": num_leaking,
        **{f"num_{split}_documents": splits.count(split) for split in ("train", "dev", "test")},
        "num_near_duplicate_groups": int((np.bincount(near) > 1).sum()),
        **sources.summary(),
        "sensitive_masked": settings.sensitive == "mask",
    }


def drained(files: list[SourceFile]) -> Iterator[SourceFile]:
    """Yields the files in order, and takes each off the list, to free its memory."""
    files.reverse()
    while files:
        yield files.pop()


def split_all(sources: Sources, settings: IngestConfig) -> tuple[list[Split], np.ndarray]:
    """(the split, the number of the group of near-duplicates) of each document. Near-duplicates
    share a split, so that no test document resembles a train document: one that is there, or one
    that has changed since, or gone."""
    if sources.named and not sources.num_named:
        logger.warning("no document is in %s: shares decide the splits", settings.advanced.splits)
    ids, keys, fixed = list(sources.ids), list(sources.keys), list(sources.fixed)
    for name, split, own in sources.stored.replaced() if sources.stored else ():
        ids.append(name)
        keys.append(name)  # its split is fixed: no key decides
        fixed.append(split)
        sources.signatures.add([own])
    similarity = settings.advanced.near_duplicate_similarity
    near = groups(sources.signatures, least_estimate(similarity))
    splits = decide_splits(ids, keys, fixed, near, settings)
    return splits[: len(sources.ids)], near[: len(sources.ids)]


def write_chunks(run_dir: RunDir, sources: Sources, splits: list[Split]) -> tuple[int, int]:
    """Writes the chunks of all documents; returns their number, and that of chunks of train and dev
    documents that hold a part of a test document: they are left out, and listed after the other
    rejects."""
    owned = sources.grams(run_dir.grams_unsplit)
    parts = TestParts(zip(sources.ids, splits, owned, strict=True), run_dir.path)
    leaks: list[Reject] = []

    def chunks() -> Iterator[dict[str, Any]]:
        rows = read_rows(run_dir.documents_unsplit)
        for number, (row, split) in enumerate(zip(rows, splits, strict=True)):
            # Few documents hold anything of another one: only their chunks are looked at.
            if split != "test" and parts.touches(number):
                yield from parts.without(chunk_rows(row, split), number, leaks)
            else:
                yield from chunk_rows(row, split)

    num_chunks = write_jsonl(run_dir.chunks, chunks())
    if leaks:
        logger.warning(
            "%d chunks of train and dev documents hold parts of test documents and are left out, "
            "such as %s (%s): see %s",
            len(leaks),
            leaks[0].item,
            leaks[0].detail,
            run_dir.rejects("ingest"),
        )
        write_jsonl(run_dir.rejects("ingest"), [*sources.rejects, *leaks])
    return num_chunks, len(leaks)


def check(config: IngestConfig) -> None:
    """Checks the settings that depend on each other.

    Raises:
        ConfigError: there is no source, or two settings contradict each other.
    """
    if not config.sources:
        raise ConfigError("ingest.sources is empty: list the files or folders with your documents")
    if config.advanced.chunk_overlap_tokens >= config.chunk_tokens:
        raise ConfigError("ingest.advanced.chunk_overlap_tokens must be below ingest.chunk_tokens")
    if config.test_share + config.dev_share >= 1:
        raise ConfigError(
            "ingest.test_share + ingest.dev_share must be below 1: the rest is the train split"
        )
    if config.advanced.folds == 1 or config.advanced.fold >= max(config.advanced.folds, 1):
        raise ConfigError(
            "ingest.advanced.folds must be 0 or at least 2, and ingest.advanced.fold below it"
        )


@dataclass
class Sources:
    """What is kept in memory of all documents; the lists have one element a document.

    `forgotten` is not taken. `stored` is what an earlier ingest knows, `named` the user's file of
    splits. `fixed` are the splits that the user set, or else those that are known; `keys` decide
    the others. `known` has where an id comes from, and the place of a text in the lists.
    `sensitive` counts what is sensitive, by kind, `languages` documents.
    """

    forgotten: Forgotten
    signatures: Signatures
    stored: StoredDocuments | None
    named: NamedSplits
    ids: list[str] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    fixed: list[Split | None] = field(default_factory=list)
    num_grams: array[int] = field(default_factory=lambda: array("I"))
    rejects: list[Reject] = field(default_factory=list)
    known: KnownDocuments = field(default_factory=KnownDocuments)
    num_reused: int = 0
    num_named: int = 0
    num_words: int = 0
    num_pages: int = 0
    sensitive: Counter[str] = field(default_factory=Counter)
    languages: Counter[str] = field(default_factory=Counter)
    num_sensitive_documents: int = 0

    def wanted(self, files: Iterable[SourceFile]) -> list[SourceFile]:
        """The files without the forgotten ones, which become rejects."""
        wanted = []
        for file in files:
            if self.forgotten.has_file(file.path):
                self.rejects.append(Reject(encodable(str(file.path)), FORGOTTEN))
            else:
                wanted.append(file)
        return wanted

    def read(
        self, files: Iterable[SourceFile], prepare: Reader, grams: BinaryIO, findings: TextIO
    ) -> Iterator[dict[str, Any]]:
        """Yields the rows of the temporary file, fills the lists meanwhile, and appends the
        documents' letter sequences to `grams`, and language and what is sensitive to `findings`.

        Each row is a document with its chunks, both without a split. `prepare` reads what `stored`
        has not.
        """

        def prepared() -> Iterator[Prepared | Reject]:
            if not (stored := self.stored):
                yield from prepare(files)
                return
            # Files that follow each other are read together, so that the order stays.
            for known, several in itertools.groupby(files, stored.has):
                if not known:
                    yield from prepare(several)
                    continue
                for document in itertools.chain.from_iterable(map(stored.of, several)):
                    self.num_reused += 1
                    yield document

        for found in prepared():
            if isinstance(found, Reject):
                self.rejects.append(found)
                continue
            kept = self.add(found.document)
            if isinstance(kept, Reject):
                self.rejects.append(kept)
                continue
            self.signatures.add([found.signature])
            self.num_grams.append(len(found.grams))
            grams.write(found.grams.tobytes())
            self.sensitive.update(found.sensitive)
            self.languages[found.language] += 1
            self.num_sensitive_documents += bool(found.sensitive)
            self.num_words += len(kept.text.split())
            self.num_pages += int(kept.metadata.get("num_pages") or 0)
            own = {"language": found.language, "sensitive": found.sensitive}
            findings.write(to_json({"document_id": kept.id, **own}) + "\n")
            row = {name: getattr(kept, name) for name in ("id", "title", "text", "source")}
            yield {**row, "metadata": kept.metadata, "chunks": found.chunks}

    def grams(self, path: Path) -> Iterator[np.ndarray]:
        """Yields the letter sequences of each document, from the file that `read` has written."""
        with path.open("rb") as stored:
            for number in self.num_grams:
                yield np.frombuffer(stored.read(8 * number), np.uint64)

    def summary(self) -> dict[str, Any]:
        """Returns what was found: words and pages, how many sources were rejected or read in part,
        by reason, and what is sensitive, by kind."""
        parts = Counter(reject.detail.split(":")[0] for reject in self.rejects if reject.partial)
        return {
            "num_words": self.num_words,
            "num_pages": self.num_pages,
            "rejected_by_reason": dict(self.reasons().most_common()),
            "partly_read_by_reason": dict(parts.most_common()),
            "documents_by_language": dict(self.languages.most_common()),
            "num_sensitive_documents": self.num_sensitive_documents,
            "sensitive_by_kind": dict(self.sensitive.most_common()),
        }

    def reasons(self) -> Counter[str]:
        """Returns why sources were rejected, and how many."""
        return Counter(reject.reason for reject in self.rejects if not reject.partial)

    def add(self, found: RawDocument) -> RawDocument | Reject:
        """Returns the document with an id that is unique, or why it is rejected."""
        document = replace(found, id=free_id(found, self.known))
        digest = text_digest(document.text)
        if self.forgotten.has_text(digest):
            return Reject(document.where, FORGOTTEN)
        first = self.known.number_of(digest)
        if first is not None:
            # The copy is dropped, but its split counts: no text of the test split is trained on.
            wanted = {split for split in (self.fixed[first], document.split) if split}
            self.fixed[first] = strictest(wanted) if wanted else None
            if len(wanted) > 1:
                logger.warning(
                    "%s goes to %s: its copy %s has another split",
                    self.ids[first],
                    self.fixed[first],
                    document.where,
                )
            return Reject(document.where, "duplicate", f"duplicate of {self.ids[first]}")
        if (other := self.known.place_of(document.id)) is not None:
            return Reject(document.where, "duplicate id", f"'{document.id}' is also {other}")
        self.known.add(document.id, document.where, digest, len(self.ids))
        self.ids.append(document.id)
        # An id that comes from a path says nothing: a renamed document keeps its split.
        self.keys.append(digest.hex() if document.folder else document.id)
        known = self.stored.splits.split_of(document.id, digest) if self.stored else None
        named = self.named.split_of(document.id, digest)
        self.num_named += named is not None
        self.fixed.append(document.split or known or named)
        return document


def _check_kept(config: IngestConfig, sources: Sources, run_dir: RunDir) -> None:
    where = f"see {run_dir.rejects('ingest')}"
    reasons = sources.reasons()
    summary = ", ".join(f"{number} {reason}" for reason, number in reasons.most_common(4))
    if not sources.ids:
        paths = ", ".join(str(getattr(source, "path", source)) for source in config.sources)
        raise DataError(
            f"no document could be read from {paths} ({summary or 'no files'}): {where}"
        )
    failed = sum(number for reason, number in reasons.items() if reason not in HARMLESS)
    kept_share = len(sources.ids) / (len(sources.ids) + failed)
    if kept_share < config.advanced.min_kept_share:
        raise DataError(
            f"only {kept_share:.0%} of the sources could be read ({summary}): {where}, "
            "or lower ingest.advanced.min_kept_share"
        )
