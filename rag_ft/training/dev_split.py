"""Which pairs are trained on and which select weights.

Retriever and generator use this one rule, so that both hold out the same documents.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from rag_ft.chunk_store import ChunkStore
from rag_ft.documents.near_duplicates import Signatures, groups, signature
from rag_ft.documents.splits import hash_share
from rag_ft.run_dir import RunDir
from rag_ft.schema import Document, QAPair, Reject, Split
from rag_ft.storage import read_jsonl
from rag_ft.training.leakage import check_no_leakage, without_test_questions

MIN_DEV_QUESTIONS = 20  # with fewer, a gain cannot be told from noise: train documents join dev
DEV_SHARE = 0.15  # of the train documents
# With fewer questions, or about fewer documents, hardly any gain of a mixture is certain.
ENOUGH_QUESTIONS, ENOUGH_DOCUMENTS = 60, 20


@dataclass(frozen=True)
class TrainDev:
    """Pairs to train on, and pairs that select weights. They share no document: `dev_documents` are
    those of dev, with their near-duplicates. `rejects`: pairs that ask what a test pair asks."""

    train: list[QAPair]
    dev: list[QAPair]
    dev_documents: set[str]
    rejects: list[Reject] = field(default_factory=list)


def select_train_dev(
    run_dir: RunDir, store: ChunkStore, similarity: float, answerable: bool = False
) -> TrainDev:
    """The pairs of a run without those of test documents, split by `split_train_dev`.

    Args:
        run_dir: the run, whose pairs and documents are read.
        store: its chunks.
        similarity: 0-1, from which on two documents are near-duplicates.
        answerable: leave out unanswerable pairs.

    Raises:
        DataError: something of a test document is among the pairs to train on.
    """
    pairs = list(read_jsonl(run_dir.qa, QAPair))
    heldout = [pair for pair in pairs if pair.split == "test"]
    usable, rejects = without_test_questions(
        (p for p in pairs if p.split != "test" and (p.answerable or not answerable)), heldout
    )
    check_no_leakage(usable, heldout, store.of_splits({"test"}))
    split_of = store.split_by_document()
    split = split_train_dev(usable, split_of, lambda: train_groups(run_dir, similarity))
    return replace(split, rejects=rejects)


def split_train_dev(
    pairs: Sequence[QAPair],
    split_of: Mapping[str, Split],
    group_of: Callable[[], Mapping[str, str]],
) -> TrainDev:
    """Splits the pairs by document.

    If dev documents have fewer than MIN_DEV_QUESTIONS answerable pairs, DEV_SHARE of the train
    documents become dev documents too: of those with answerable pairs, or of all where neither
    train pairs nor dev documents exist.

    Args:
        pairs: pairs of train and dev documents, in the order of both results. Unanswerable ones
            follow their document: they do not change which documents are dev.
        split_of: document id -> split; test documents are ignored.
        group_of: called only where it is needed: document id -> the first id of its group of
            near-duplicates, which stay together (see `train_groups`).
    """
    allowed = {document_id for document_id, split in split_of.items() if split != "test"}
    dev = {document_id for document_id in allowed if split_of[document_id] == "dev"}
    asked = [p.document_id for p in pairs if p.answerable and p.document_id in allowed]

    # Too few dev questions: a part of the train documents becomes dev.
    if sum(document_id in dev for document_id in asked) < MIN_DEV_QUESTIONS:
        candidates = {document_id for document_id in asked if document_id is not None}
        if not candidates and not dev:
            candidates = allowed
        dev |= held_out(candidates - dev, group_of(), DEV_SHARE)

    return TrainDev(
        train=[p for p in pairs if p.split == "train" and p.document_id not in dev],
        dev=[p for p in pairs if p.split == "dev" or p.document_id in dev],
        dev_documents=dev,
    )


def enough(documents: Collection[str]) -> bool:
    """Whether questions about these documents, one entry for each question, can decide."""
    return len(documents) >= ENOUGH_QUESTIONS and len(set(documents)) >= ENOUGH_DOCUMENTS


def train_groups(run_dir: RunDir, similarity: float) -> dict[str, str]:
    """`group_near_duplicates` of the run's train documents."""
    documents = (d for d in read_jsonl(run_dir.documents, Document) if d.split == "train")
    return group_near_duplicates(((d.id, d.text) for d in documents), similarity)


def group_near_duplicates(texts: Iterable[tuple[str, str]], similarity: float) -> dict[str, str]:
    """(document id, text)... -> {document id: the first id of its group}, in order of the ids.

    Args:
        texts: documents in any order.
        similarity: 0-1; two texts are near-duplicates from this similarity on.
    """
    own = dict(sorted((name, signature(text)) for name, text in texts))
    ids, signatures = list(own), Signatures()
    signatures.add(own.values())
    near = groups(signatures, similarity).tolist()
    return {name: ids[first] for name, first in zip(ids, near, strict=True)}


def held_out(asked: Collection[str], group_of: Mapping[str, str], share: float) -> set[str]:
    """About `share` of the documents `asked`, chosen by hash, with all their near-duplicates.

    Groups of near-duplicates that would exceed `share` are skipped, so that a few large groups
    cannot consume the training set. If every group is too large, the smallest is used, unless it is
    the only one.

    Args:
        asked: ids of documents with questions.
        group_of: document id -> the first id of its group, of documents with and without questions.
        share: 0-1.
    """
    members: dict[str, set[str]] = defaultdict(set)
    for name in asked:
        members[group_of.get(name, name)].add(name)

    # Sorted by hash, a group keeps its place when other documents come or go.
    order = sorted(sorted(members), key=lambda first: hash_share(f"dev {first}"))
    most, number, chosen = round(share * len(asked)), 0, set[str]()
    for first in order:
        if number + len(members[first]) <= most:
            chosen.add(first)
            number += len(members[first])
    if most and not chosen and len(order) > 1:
        chosen.add(min(order, key=lambda first: len(members[first])))

    return {name for name in {*asked, *group_of} if group_of.get(name, name) in chosen}
