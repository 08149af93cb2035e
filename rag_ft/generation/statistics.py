"""Counts what becomes of every question asked for, and writes the rejects file."""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from rag_ft.errors import DataError
from rag_ft.generation.entity_swap import SWAPPED
from rag_ft.generation.filters import Failure
from rag_ft.generation.planner import PlannedQuestion
from rag_ft.llm.interface import Reply
from rag_ft.schema import QAPair, Reject
from rag_ft.storage import temporary_beside, to_json

EXAMPLES_PER_REASON = 3
LOWEST_DOCUMENTS = 10


class GenerationStats:
    """A context manager; at its end the rejects file and the file of rejected pairs get their
    names."""

    def __init__(self, rejects: Path, rejected_pairs: Path) -> None:
        self.asked: Counter[str] = Counter()
        self.accepted: Counter[str] = Counter()
        self.rejected: Counter[str] = Counter()
        self.repaired = 0
        self.coverage = Coverage()
        self.tokens = {"prompt_tokens": 0, "completion_tokens": 0}
        self._examples: dict[str, list[dict[str, str]]] = defaultdict(list)
        self._path, self._temporary = rejects, temporary_beside(rejects)
        self._out = self._temporary.open("x", encoding="utf-8", newline="\n")
        self._pairs_path, self._pairs_temporary = rejected_pairs, temporary_beside(rejected_pairs)
        self._pairs = self._pairs_temporary.open("x", encoding="utf-8", newline="\n")

    def ask(self, question: PlannedQuestion) -> None:
        """Counts a question asked for; those of a chunk follow each other."""
        self.asked[question.kind] += 1
        self.coverage.ask(question.chunk.document_id, question.chunk.id)

    def reject(self, item: PlannedQuestion | QAPair, failure: Failure) -> None:
        """Counts a question asked for that is not kept, and notes it in the rejects file."""
        # A pair has the name of its planned question: chunk id and variant.
        if isinstance(item, QAPair):
            name = f"{item.provenance['chunk_id']}/{item.provenance['variant']}"
        else:
            name = item.id
        self.rejected[failure.reason] += 1
        if len(self._examples[failure.reason]) < EXAMPLES_PER_REASON:
            self._examples[failure.reason].append({"item": name, "detail": failure.detail})
        self.note(Reject(name, failure.reason, failure.detail))
        # The pair itself, for people who see it differently.
        pair = item if isinstance(item, QAPair) else failure.pair
        if pair is not None:
            why = {"rejected": failure.reason, "detail": failure.detail}
            self._pairs.write(to_json(replace(pair, checks={**pair.checks, **why})) + "\n")

    def note(self, reject: Reject) -> None:
        """Writes a line of the rejects file without counting it as a question asked for."""
        self._out.write(json.dumps(asdict(reject), ensure_ascii=False) + "\n")

    def accepted_pairs(self, pairs: Iterable[QAPair]) -> Iterator[QAPair]:
        """Passes on the pairs that passed every check, and counts them."""
        for pair in pairs:
            self.accepted[pair.kind] += 1
            # A swapped pair is made from a pair that covers its chunk already.
            if SWAPPED not in pair.provenance:
                self.coverage.accept(pair.document_id or "", pair.provenance["chunk_id"])
            yield pair

    def count_tokens(self, reply: Reply) -> None:
        """Adds the tokens of a reply and its prompt."""
        self.tokens["prompt_tokens"] += reply.prompt_tokens
        self.tokens["completion_tokens"] += reply.completion_tokens

    def check_kept(self, least_share: float) -> None:
        """Raises DataError if less than `least_share` (0-1) of the questions asked for gave a pair,
        or none did. Call it after leaving the context."""
        asked, kept = self.asked.total(), self.accepted.total()
        if asked and kept < max(least_share * asked, 1):
            reason, count = self.rejected.most_common(1)[0]
            lower = ", or lower generate.advanced.min_kept_share" if kept else ""
            raise DataError(
                f"only {kept} of {asked} generated pairs passed the checks; most failed by "
                f"'{reason}' ({count}): see {self._path}, then change the model or "
                f"generate.advanced.checks{lower}"
            )

    def counts(self) -> dict[str, Any]:
        """The counts in generate.done.json; `kept_share` is a share (0-1)."""
        asked, kept = self.asked.total(), self.accepted.total()
        return {
            "asked": asked,
            "accepted": kept,
            "kept_share": round(kept / asked, 4) if asked else 0.0,
            "asked_by_kind": dict(self.asked),
            "accepted_by_kind": dict(self.accepted),
            "rejected_by_check": dict(self.rejected.most_common()),
            "reject_examples": dict(self._examples),
            "repaired_evidence": self.repaired,
            "coverage": self.coverage.counts(),
            **self.tokens,
        }

    def __enter__(self) -> GenerationStats:
        return self

    def __exit__(self, *_: object) -> None:
        # Also after an error: the rejects show what went wrong.
        self._out.close()
        os.replace(self._temporary, self._path)
        self._pairs.close()
        os.replace(self._pairs_temporary, self._pairs_path)


@dataclass
class Coverage:
    """Per document, how many of the chunks asked about have at least one accepted pair."""

    num_asked: Counter[str] = field(default_factory=Counter)
    num_covered: Counter[str] = field(default_factory=Counter)
    _last_asked: str = ""
    _last_chunk: str = ""

    def ask(self, document_id: str, chunk_id: str) -> None:
        """Counts a chunk that is asked about once; questions come in the order of their chunks."""
        self.num_asked[document_id] += chunk_id != self._last_asked
        self._last_asked = chunk_id

    def accept(self, document_id: str, chunk_id: str) -> None:
        """Counts the chunk of an accepted pair once; pairs come in the order of their chunks."""
        self.num_covered[document_id] += chunk_id != self._last_chunk
        self._last_chunk = chunk_id

    def counts(self) -> dict[str, Any]:
        """Totals, shares (0-1), and the LOWEST_DOCUMENTS documents with the lowest shares."""
        shares = {name: self.num_covered[name] / asked for name, asked in self.num_asked.items()}
        lowest = sorted(shares, key=lambda name: (shares[name], name))[:LOWEST_DOCUMENTS]
        return {
            "chunks": self.num_asked.total(),
            "chunks_with_pair": self.num_covered.total(),
            "chunk_share": round(self.num_covered.total() / max(1, self.num_asked.total()), 4),
            "documents": len(shares),
            "documents_without_pair": sum(share == 0 for share in shares.values()),
            "lowest": {name: round(shares[name], 4) for name in lowest},
        }
