"""What `generate` makes of the reviews: pairs that leave, change, come back, or are new."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from rag_ft.chunk_store import ChunkStore
from rag_ft.relevance import evidence_at
from rag_ft.review.store import Outcome, ReviewStore, key_of
from rag_ft.schema import Chunk, Evidence, QAPair, Reject, Review

# What retriever and language model said of a pair does not hold for another text.
MEASURED = ("round_trip_rank", "round_trip_f1", "closed_book")
WHY_REJECTED = ("rejected", "detail")


class Reviewed:
    """Applies the reviews of a run to its pairs.

    `rejects` are reviews that cannot be applied. They and `counts` are complete when all pairs of
    `kept` were read.
    """

    def __init__(self, store: ReviewStore, chunks: ChunkStore, abstain: str) -> None:
        """`abstain` is the answer of unanswerable questions."""
        self._store, self._chunks, self._abstain = store, chunks, abstain
        self.rejects: list[Reject] = list(store.rejects)
        names = ("accepted", "rejected", "edited", "added", "unsure")
        self.counts = {f"reviews_{name}": 0 for name in names}

    def kept(self, pairs: Iterable[QAPair]) -> Iterator[QAPair]:
        """The pairs in their order, without those that reviewers rejected."""
        for pair in pairs:
            key = key_of(pair)
            kept = self._apply(pair, key) if key in self._store.keys else pair
            if kept is not None:
                yield kept

    def extra(
        self, pairs: Callable[[], Iterable[QAPair]], rejected: Callable[[], Iterable[QAPair]]
    ) -> list[QAPair]:
        """The pairs that a check rejected and reviewers keep, and the questions that people added.

        Args:
            pairs: reads the pairs that passed the checks.
            rejected: reads the pairs that a check rejected.
        """
        if not self._store.keys:
            return []
        # A rejected pair may repeat a kept one: the review is about that one.
        known = {key for pair in pairs() if (key := key_of(pair)) in self._store.keys}
        found = []
        for pair in rejected():
            key = key_of(pair)
            if key in self._store.keys and key not in known:
                known.add(key)
                kept = self._apply(pair, key) if self._store.outcome(key).keeps else None
                found += [kept] if kept is not None else []
        for key, review in self._store.added.items():
            added = self._added(review) if key not in known else None
            kept = self._apply(added, key, "added") if added is not None else None
            found += [kept] if kept is not None else []
        return found

    def _apply(self, pair: QAPair, key: str, name: str = "") -> QAPair | None:
        """The pair as its reviewers left it; None where they rejected it. `name`: under which it is
        counted where it stays."""
        decided = self._store.outcome(key)
        if decided.keeps is None or (pair.split == "test" and not decided.reviewers):
            self.counts["reviews_unsure"] += bool(decided.reviewers)
            return pair
        if decided.text is None:
            self.counts["reviews_rejected"] += 1
            return None
        # An accepted pair may have got another answer since: the one that was accepted holds.
        own = (pair.question, pair.answers if pair.answerable else ())
        changed = (decided.text.question, decided.text.answers) != own
        if decided.text.decision == "edit" or changed:
            edited = self._edited(pair, decided.text)
            if edited is None:
                return pair
            pair = edited
        self.counts[f"reviews_{name or ('edited' if changed else 'accepted')}"] += 1
        return self._marked(pair, decided, changed)

    def _marked(self, pair: QAPair, decided: Outcome, changed: bool) -> QAPair:
        """The pair with its origin and reviewers, without checks that hold no longer."""
        gone = (*WHY_REJECTED, *(MEASURED if changed else ()))
        return replace(
            pair,
            # An imported question was written by a person already.
            origin="imported" if pair.origin == "imported" and not changed else "reviewed",
            checks={name: value for name, value in pair.checks.items() if name not in gone},
            provenance={**pair.provenance, "reviewers": sorted(decided.reviewers)},
        )

    def _edited(self, pair: QAPair, text: Review) -> QAPair | None:
        """The pair with the question, answers and evidence of a review; None where its evidence is
        gone from the documents."""
        kind = pair.kind if text.answers else "unanswerable"
        if text.answers and pair.kind == "unanswerable":
            kind = "factoid"
        chunk_id, evidence = (pair.chunk_id, None) if text.answers else (None, None)
        if text.answers and text.evidence:
            found = self._locate(text)
            if found is None:
                detail = f"{text.reviewer}: {text.question}"
                self.rejects.append(Reject(text.pair_id, "the evidence is gone", detail))
                return None
            chunk_id, evidence = found[0].id, found[1]
        return replace(
            pair,
            question=text.question,
            answers=text.answers or (self._abstain,),
            kind=kind,
            chunk_id=chunk_id,
            evidence=evidence,
            checks={**pair.checks, "evidence": "reviewed" if evidence else None},
            hard_chunk_ids=tuple(i for i in pair.hard_chunk_ids if i != chunk_id),
        )

    def _locate(self, review: Review) -> tuple[Chunk, Evidence] | None:
        """The first place of the evidence that the documents still have."""
        for place in review.evidence:
            chunk = self._chunks.get(place.chunk_id)
            if chunk is None or chunk.document_id != review.document_id:
                continue
            if (found := evidence_at(chunk, place)) is not None:
                return chunk, found
        return None

    def _added(self, review: Review) -> QAPair | None:
        """The pair of a question that somebody added; None where it has no place in the run."""
        chunks = self._chunks.of_documents([review.document_id])
        decided = self._store.outcome(review.key)
        why = "" if chunks else "its document is not in the run"
        if chunks and chunks[0].split == "test" and not decided.reviewers:
            # Anybody may correct an answer; only reviewers decide what is measured.
            why = "a correction about a test document waits for a review"
        if why:
            self.rejects.append(Reject(review.pair_id, why, review.question))
            return None
        base = QAPair(
            id=review.key[:16],
            question=review.question,
            answers=(self._abstain,),
            chunk_id=None,
            document_id=review.document_id,
            evidence=None,
            kind="unanswerable",
            split=chunks[0].split,
            origin="reviewed",
            provenance={"source": review.source},
        )
        return self._edited(base, review)
