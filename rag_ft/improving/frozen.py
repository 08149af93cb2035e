"""The test questions of a version's parent: they stay while their documents do, and decide."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass

from rag_ft.relevance import second_chunk_id
from rag_ft.run_dir import RunDir
from rag_ft.schema import Document, QAPair, Reject
from rag_ft.storage import content_hash, read_jsonl, write_jsonl
from rag_ft.versions import read_changes


@dataclass(frozen=True)
class Changes:
    """The ids of documents, in order: those that only the new version has, those whose title or
    text differs, those that only its parent has, and those that were trained on and are test
    documents now."""

    added: list[str]
    changed: list[str]
    deleted: list[str]
    now_test: list[str]


def compare_documents(parent: RunDir, version: RunDir) -> Changes:
    """What has changed, by content."""
    before, after = dict[str, str](), dict[str, str]()
    trained, test = set[str](), set[str]()
    for run_dir, found in ((parent, before), (version, after)):
        for document in read_jsonl(run_dir.documents, Document):
            found[document.id] = content_hash(document.title, document.text)
            if (found is before) != (document.split == "test"):
                (trained if found is before else test).add(document.id)
    return Changes(
        [name for name in after if name not in before],
        [name for name in after if name in before and after[name] != before[name]],
        [name for name in before if name not in after],
        sorted(trained & test),
    )


def freeze(parent: RunDir, version: RunDir, changes: Changes) -> tuple[int, list[Reject]]:
    """Writes frozen.jsonl: the parent's test questions whose documents are unchanged, and
    rejects/improve.jsonl: those that are retired. Returns the number of the first, and the
    others."""
    gone = {
        **dict.fromkeys(changes.changed, "its document has changed"),
        **dict.fromkeys(changes.deleted, "its document is deleted"),
    }
    kept, retired = [], []
    for pair in read_jsonl(parent.qa, QAPair):
        if pair.split != "test":
            continue
        why = next((gone[name] for name in documents_of(pair) if name in gone), None)
        if why is None:
            kept.append(pair)
        else:
            retired.append(Reject(pair.id, why, pair.question))
    write_jsonl(version.rejects("improve"), retired)
    return write_jsonl(version.frozen, kept), retired


def documents_of(pair: QAPair) -> Iterator[str]:
    """The documents that a question is about: one, or two of a multi_hop question."""
    if pair.document_id is not None:
        yield pair.document_id
    if second := second_chunk_id(pair):
        yield second.rpartition("#")[0]


def new_documents(version: RunDir) -> set[str] | None:
    """The documents whose test questions are new in a version; None in a run that continues
    none."""
    if not version.frozen.exists():
        return None
    changes = read_changes(version)
    return {*changes["added"], *changes["changed"]}


def without_redrawn(pairs: Iterable[QAPair], new: Container[str]) -> Iterator[QAPair]:
    """The pairs without test questions that a model wrote about documents which are not new: those
    of the parent stand in their place."""
    for pair in pairs:
        redrawn = pair.split == "test" and pair.origin == "generated"
        if not redrawn or pair.document_id in new:
            yield pair


def missing_in(pairs: Iterable[QAPair], others: Iterable[QAPair]) -> list[QAPair]:
    """The pairs whose id no test pair of `others` has."""
    ids = {pair.id for pair in others if pair.split == "test"}
    return [pair for pair in pairs if pair.id not in ids]
