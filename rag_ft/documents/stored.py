"""What an earlier ingest knows: the splits of its documents, and the documents of unchanged
files, which need not be read again."""

from __future__ import annotations

import bisect
from collections import defaultdict
from collections.abc import Container, Iterator

import numpy as np

from rag_ft.chunk_store import ChunkStore
from rag_ft.document_store import DocumentStore
from rag_ft.documents.chunking import ChunkPlace
from rag_ft.documents.containment import REASON, grams
from rag_ft.documents.discovery import RawDocument
from rag_ft.documents.near_duplicates import NUM_HASHES, signature
from rag_ft.documents.prepare import Prepared
from rag_ft.documents.reading import holds_documents
from rag_ft.documents.source_files import SourceFile
from rag_ft.documents.splits import NamedSplits, text_digest
from rag_ft.run_dir import RunDir
from rag_ft.schema import Document, Reject, Split
from rag_ft.storage import encodable, read_jsonl, read_rows


class StoredDocuments:
    """The documents that ingest wrote to a run folder; none where it wrote nothing."""

    def __init__(self, run_dir: RunDir, unchanged: Container[str]) -> None:
        """`unchanged` has the ids (paths) of source files that are as they were then."""
        self.splits = NamedSplits()
        self._unchanged = unchanged
        self._documents, self._chunks = DocumentStore(run_dir.documents), ChunkStore(run_dir.chunks)
        self._ids_of: dict[str, list[str]] = defaultdict(list)
        self._taken: set[str] = set()
        if not run_dir.documents.exists() or not run_dir.chunks.exists():
            return
        for document in read_jsonl(run_dir.documents, Document):
            self.splits.add(document.id, text_digest(document.text), document.split)
            self._ids_of[document.source].append(document.id)
        self._place = {document_id: n for n, document_id in enumerate(self.splits.by_id)}
        self._signatures = np.zeros((0, NUM_HASHES), np.uint32)
        if run_dir.signatures.exists():
            self._signatures = np.load(run_dir.signatures, allow_pickle=False)
        self._findings: list[tuple[str, dict[str, int]]] = []
        alike: dict[str, tuple[str, dict[str, int]]] = {}  # most documents have the same ones
        for row in read_rows(run_dir.findings) if run_dir.findings.exists() else ():
            own = row["language"], row["sensitive"]
            self._findings.append(alike.setdefault(str(own), own))
        if not len(self._signatures) == len(self._findings) == len(self.splits):
            self._unchanged = ()  # of an earlier version, or damaged: all files are read

        # A file with rejects is read again: it may have a copy of a text that is gone, and chunks
        # that were left out because of a test document that is gone.
        rejects = list(read_jsonl(run_dir.rejects("ingest"), Reject))
        self._rejected = sorted(reject.item for reject in rejects if reject.reason != REASON)
        self._leaking = {r.item.rpartition("#")[0] for r in rejects if r.reason == REASON}

    def has(self, file: SourceFile) -> bool:
        """Whether the documents of the file can be taken over as they are."""
        source = encodable(str(file.path))
        ids = self._ids_of.get(source, [])
        if not ids or file.id not in self._unchanged or holds_documents(file.path):
            return False
        place = bisect.bisect_left(self._rejected, source)
        rejected = self._rejected[place : place + 1]
        return not (rejected and rejected[0].startswith(source)) and self._leaking.isdisjoint(ids)

    def of(self, file: SourceFile) -> Iterator[Prepared]:
        """The documents of the file with their chunks, as reading it gave them."""
        rows = file.path.suffix.lower() == ".jsonl"
        for document_id in self._ids_of[encodable(str(file.path))]:
            stored = self._documents[document_id]
            self._taken.add(document_id)
            document = RawDocument(
                # An id that comes from a path is made unique again.
                id=stored.id if rows else file.id,
                title=stored.title,
                text=stored.text,
                source=stored.source,
                split=stored.split,
                metadata=stored.metadata,
                where=stored.source,
                folder=None if rows else file.folder,
            )
            chunks = [
                ChunkPlace(
                    c.start, c.end, c.num_tokens, c.page, c.page_end, c.headings, c.inner_headings
                )
                for c in self._chunks.of_documents([document_id])
            ]
            place = self._place[document_id]
            language, sensitive = self._findings[place]
            own = self._signatures[place]
            yield Prepared(document, chunks, own, grams(stored.text), sensitive, language)

    def replaced(self) -> Iterator[tuple[str, Split, np.ndarray]]:
        """(id, split, signature) of the documents that were not taken over, as they were: they have
        changed, or gone, perhaps to another name."""
        for document_id, split in self.splits.by_id.items():
            if document_id not in self._taken:
                yield document_id, split, signature(self._documents[document_id].text)

    def close(self) -> None:
        """Closes the files."""
        self._documents.close()
        self._chunks.close()
