"""Which train documents are held out to decide by: whole groups of near-duplicates, by the hash of their ids."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping

import numpy as np

from rag_ft.documents.near_duplicates import groups, signature
from rag_ft.documents.splits import hash_share
from rag_ft.paths import RunDir
from rag_ft.records import Document, read_jsonl


def train_groups(run_dir: RunDir, similarity: float) -> dict[str, str]:
    """`group_near_duplicates` of the run's train documents."""
    documents = (
        document
        for document in read_jsonl(run_dir.documents, Document)
        if document.split == "train"
    )
    return group_near_duplicates(
        ((document.id, document.text) for document in documents), similarity
    )


def group_near_duplicates(texts: Iterable[tuple[str, str]], similarity: float) -> dict[str, str]:
    """(document id, text)... -> {document id: the first id of its group}, in the order of the ids."""
    signatures = dict(sorted((name, signature(text)) for name, text in texts))
    ids = list(signatures)
    near = groups(np.array(list(signatures.values())), similarity) if ids else []
    return {name: ids[first] for name, first in zip(ids, near, strict=True)}


def held_out(asked: Collection[str], group_of: Mapping[str, str], share: float) -> set[str]:
    """About `share` of the documents `asked`, chosen by hash, and what is nearly the same as one of them, asked or not.

    A group that would make it more than the share is passed over, or else few large groups would leave nothing to train
    on; where every group is too large, the smallest is taken, but never the only one.
    """
    members: dict[str, set[str]] = defaultdict(set)
    for name in asked:
        members[group_of.get(name, name)].add(name)
    order = sorted(sorted(members), key=lambda first: hash_share(f"dev {first}"))
    most, number, chosen = round(share * len(asked)), 0, set[str]()
    for first in order:
        if number + len(members[first]) <= most:
            chosen.add(first)
            number += len(members[first])
    if most and not chosen and len(order) > 1:
        chosen.add(min(order, key=lambda first: len(members[first])))
    return {name for name in {*asked, *group_of} if group_of.get(name, name) in chosen}
