"""Stage 1: sources -> documents.jsonl and chunks.jsonl, with splits by document.

Two passes, so that no more than one document's text is held: the first reads, tidies and signs every document into a
temporary file; then near-duplicates are known, splits are decided, and the second writes documents and chunks.
"""

from __future__ import annotations

import hashlib
import logging
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from rag_ft.config import IngestConfig
from rag_ft.documents.chunking import CountTokens, split_chunks
from rag_ft.documents.discovery import Draft, find_files, free_id, read_drafts
from rag_ft.documents.near_duplicates import groups, signature
from rag_ft.documents.splits import split_of, strictest
from rag_ft.errors import ConfigError, DataError
from rag_ft.model_hub import load_token_counter, resolve
from rag_ft.run_dir import RunDir
from rag_ft.schema import Chunk, Document, Reject, Split
from rag_ft.session import Session
from rag_ft.storage import read_jsonl, write_jsonl

logger = logging.getLogger(__name__)
# Rejects that say nothing about whether the sources could be read.
HARMLESS = frozenset({"unknown type", "duplicate"})


def run(session: Session) -> dict[str, int | float]:
    """Writes documents.jsonl, chunks.jsonl and rejects/ingest.jsonl; a source that cannot be read is a reject.

    Raises:
        ConfigError: knobs that contradict each other, or no source.
        DataError: a source is missing, nothing or too little of the sources can be read.
    """
    settings, run_dir = session.config.ingest, session.run_dir
    check(settings)
    count_tokens = load_token_counter(resolve(session.config.encoder.model, "encoder"))
    sources = _Read()
    unsplit = run_dir.documents_unsplit
    try:
        write_jsonl(unsplit, _read(settings, sources))
        write_jsonl(run_dir.rejects("ingest"), sources.rejects)
        _check_kept(settings, sources, run_dir)
        near = groups(np.array(sources.signatures), settings.advanced.near_duplicate_similarity)
        splits = decide_splits(sources.ids, sources.fixed, near, settings)
        write_jsonl(run_dir.documents, _with_splits(unsplit, splits))
    finally:
        unsplit.unlink(missing_ok=True)
    documents = tqdm(
        read_jsonl(run_dir.documents, Document),
        desc="ingest: chunk",
        total=len(sources.ids),
        unit="doc",
    )
    num_chunks = write_jsonl(run_dir.chunks, _chunks(documents, count_tokens, settings))
    return _counts(sources, splits, near, num_chunks)


def check(config: IngestConfig) -> None:
    """Raises ConfigError for knobs that are each valid and together not."""
    if not config.sources:
        raise ConfigError("ingest.sources is empty: name the files or folders with your documents")
    if config.advanced.chunk_overlap_tokens >= config.chunk_tokens:
        raise ConfigError("ingest.advanced.chunk_overlap_tokens must be below ingest.chunk_tokens")
    if config.test_share + config.dev_share >= 1:
        raise ConfigError(
            "ingest.test_share + ingest.dev_share must be below 1: nothing is left to train on"
        )
    if config.advanced.folds == 1 or config.advanced.fold >= max(config.advanced.folds, 1):
        raise ConfigError(
            "ingest.advanced.folds must be 0 or at least 2, and ingest.advanced.fold below it"
        )


@dataclass
class _Read:
    """What is kept in memory of all documents: ids, fixed splits, hashes and signatures."""

    ids: list[str] = field(default_factory=list)
    fixed: list[Split | None] = field(default_factory=list)
    signatures: list[np.ndarray] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)
    by_id: dict[str, str] = field(default_factory=dict)
    by_text: dict[bytes, int] = field(default_factory=dict)


def _read(config: IngestConfig, read: _Read) -> Iterator[dict[str, Any]]:
    """The rows of the temporary file (documents without their split), while `read` fills."""
    files = find_files(config.sources)
    for file in tqdm(files, desc="ingest: read", unit="file"):
        for found in read_drafts(file, config.advanced.max_document_mb * 2**20):
            kept = _accept(found, read)
            if isinstance(kept, Reject):
                read.rejects.append(kept)
                continue
            read.ids.append(kept.id)
            read.fixed.append(kept.split)
            read.signatures.append(signature(kept.text))
            yield {
                "id": kept.id,
                "title": kept.title,
                "text": kept.text,
                "source": kept.source,
                "split": "train",
                "metadata": kept.metadata,
            }


def _accept(found: Draft | Reject, read: _Read) -> Draft | Reject:
    if isinstance(found, Reject):
        return found
    draft = replace(found, id=free_id(found, read.by_id))
    plain = " ".join(unicodedata.normalize("NFC", draft.text).split())
    digest = hashlib.sha256(plain.encode()).digest()
    if (first := read.by_text.get(digest)) is not None:
        _hand_on_split(first, draft, read)
        return Reject(draft.where, "duplicate", f"duplicate of {read.ids[first]}")
    if draft.id in read.by_id:
        return Reject(draft.where, "duplicate id", f"'{draft.id}' is also {read.by_id[draft.id]}")
    read.by_id[draft.id] = draft.where
    read.by_text[digest] = len(read.ids)
    return draft


def _hand_on_split(first: int, copy: Draft, read: _Read) -> None:
    """A copy is dropped, but not what the user said of it: a text that is to be held out is not trained on."""
    wanted = {split for split in (read.fixed[first], copy.split) if split}
    if wanted:
        read.fixed[first] = strictest(wanted)
    if len(wanted) > 1:
        logger.warning(
            "%s goes to %s: its copy %s has another split",
            read.ids[first],
            read.fixed[first],
            copy.where,
        )


def _check_kept(config: IngestConfig, read: _Read, run_dir: RunDir) -> None:
    where = f"see {run_dir.rejects('ingest')}"
    reasons = Counter(reject.reason for reject in read.rejects)
    summary = ", ".join(f"{number} {reason}" for reason, number in reasons.most_common(4))
    if not read.ids:
        sources = ", ".join(str(getattr(source, "path", source)) for source in config.sources)
        raise DataError(
            f"no document could be read from {sources} ({summary or 'no files'}): {where}"
        )
    failed = sum(number for reason, number in reasons.items() if reason not in HARMLESS)
    kept_share = len(read.ids) / (len(read.ids) + failed)
    if kept_share < config.advanced.min_kept_share:
        raise DataError(
            f"only {kept_share:.0%} of the sources could be read ({summary}): {where}, or lower ingest.advanced.min_kept_share"
        )


def decide_splits(
    ids: list[str], fixed: list[Split | None], near: list[int], config: IngestConfig
) -> list[Split]:
    """The split of each document: that of its group of near-duplicates (`near`: the group's lowest index), which is
    what the user fixed for a member, else by the hash of the group's smallest id."""
    members: dict[int, list[int]] = {}
    for n, lowest in enumerate(near):
        members.setdefault(lowest, []).append(n)
    splits: list[Split] = ["train"] * len(ids)
    for group in members.values():
        wanted = {split for n in group if (split := fixed[n])}
        split = strictest(wanted) if wanted else split_of(min(ids[n] for n in group), config)
        if len(wanted) > 1:
            names = ", ".join(ids[n] for n in group[:5])
            logger.warning("near-duplicates with different splits all go to %s: %s", split, names)
        for n in group:
            splits[n] = split
    return splits


def _with_splits(unsplit: Path, splits: list[Split]) -> Iterator[Document]:
    for document, split in zip(read_jsonl(unsplit, Document), splits, strict=True):
        yield replace(document, split=split)


def _chunks(
    documents: Iterable[Document], count_tokens: CountTokens, config: IngestConfig
) -> Iterator[Chunk]:
    for document in documents:
        spans = split_chunks(
            document.text, count_tokens, config.chunk_tokens, config.advanced.chunk_overlap_tokens
        )
        for n, (start, end, num_tokens) in enumerate(spans):
            yield Chunk(f"{document.id}#{n}", document.id, document.title, document.text[start:end], start, end,
                        num_tokens, document.split)  # fmt: skip


def _counts(
    read: _Read, splits: list[Split], near: list[int], num_chunks: int
) -> dict[str, int | float]:
    for split in ("train", "test"):
        if split not in splits:
            logger.warning(
                "no document is in the %s split: add documents, or set their split in JSONL", split
            )
    return {
        "num_sources": len(read.ids) + len(read.rejects),
        "num_documents": len(read.ids),
        "num_rejects": len(read.rejects),
        "num_chunks": num_chunks,
        **{f"num_{split}_documents": splits.count(split) for split in ("train", "dev", "test")},
        "num_near_duplicate_groups": sum(number > 1 for number in Counter(near).values()),
    }
