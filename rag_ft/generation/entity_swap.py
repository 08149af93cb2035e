"""Unanswerable questions made of answerable ones: the same question about another thing that its document names.

"When was the Old Mill built?" becomes "When was the Mill Store built?". Where no chunk tells that, the question differs
from an answerable one in what the chunks say alone, while one that a language model invents is often odd in itself.
Entity swaps, as in Gautam et al. 2023 (https://arxiv.org/abs/2310.19403).
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from rag_ft.generation.filters import Failure
from rag_ft.generation.question_dedup import duplicate
from rag_ft.generation.round_trip import SHORT_ANSWER_TOKENS, Job, RoundTrip, answer_request
from rag_ft.llm.interface import Reply
from rag_ft.schema import QAPair
from rag_ft.storage import content_hash

Earlier = Callable[[Sequence[str]], list[str | None]]  # for each question the one that it repeats

_NAME_WORD = re.compile(r"\w[\w-]*")
SWAPPED, SWAPPED_TO = "swapped_from", "swapped_to"
LEAST_CHARACTERS = 4  # "The" is no name


@dataclass(frozen=True)
class Swaps:
    """A further pass over the pairs that the round trip kept; `asked` counts what is tried, by kind. What repeats a
    question that `earlier` finds is not put to the model: that one has an answer."""

    trip: RoundTrip
    seed: int
    asked: Counter[str]
    earlier: Earlier | None = None

    def jobs(self, pairs: Iterable[QAPair]) -> Iterator[Job]:
        """All pairs as they are, without a request, and after those of a document its swapped ones, each as often as
        chunks among those the retriever finds hold the other name: read alone, since what is hard to find among several
        passages would pass for unanswerable."""
        settings = self.trip.settings
        for _, group in groupby(pairs, key=lambda pair: pair.document_id):
            kept = list(group)
            yield from ((pair, None, None) for pair in kept)
            made = swap_names(
                kept, self.trip.prompt.prompts.abstain, settings.advanced.swaps_per_pair, self.seed
            )
            self.asked["unanswerable"] += len(made)
            repeated = (
                self.earlier([pair.question for pair in made])
                if self.earlier and made
                else [None] * len(made)
            )
            for pair, same in zip(made, repeated, strict=True):
                if same:
                    yield pair, duplicate(pair.question, same), None
            new = [pair for pair, same in zip(made, repeated, strict=True) if not same]
            hits = (
                self.trip.retriever.search(
                    [pair.question for pair in new], settings.advanced.round_trip_k
                )
                if new
                else []
            )
            for pair, found in zip(new, hits, strict=True):
                yield from self._requests(pair, [chunk_id for chunk_id, _ in found])

    def verdict(self, pair: QAPair, replies: Iterable[Reply]) -> QAPair | Failure:
        """The pair where the model finds no answer in any chunk, else why it fails."""
        for reply in replies:
            if reply.error:
                return Failure("llm_error", reply.error[:300])
            result = self.trip.verdict(pair, reply)
            if isinstance(result, Failure):
                return (
                    replace(result, reason="swap_answered")
                    if result.reason == "round_trip_answer"
                    else result
                )
            pair = result
        return pair

    def _requests(self, pair: QAPair, found: list[str]) -> Iterator[Job]:
        home = pair.provenance["chunk_id"]
        for number, chunk_id in enumerate(dict.fromkeys([home, *found])):
            chunk = self.trip.chunks[chunk_id]
            if chunk_id == home or pair.provenance[SWAPPED_TO] in self.trip.prompt.text(chunk):
                messages = self.trip.prompt.messages(pair.question, [chunk])
                request = answer_request(pair, messages, SHORT_ANSWER_TOKENS)
                yield pair, None, replace(request, id=f"{pair.id}/{number}")


def swap_names(pairs: Sequence[QAPair], abstain: str, per_pair: int, seed: int) -> list[QAPair]:
    """At most `per_pair` unanswerable candidates of each single-fact pair, no two alike and none asked by `pairs`.

    Args:
        pairs: accepted pairs of one document. A name is what one of them asks about and its own evidence holds.
        abstain: the answer where there is none.
        per_pair: how many other names to ask about instead.
        seed: which of them.
    """
    named = {pair.id: name for pair in pairs if pair.kind == "factoid" and (name := subject(pair))}
    homes: dict[str, QAPair] = {}
    for pair in pairs:
        if pair.id in named:
            homes.setdefault(named[pair.id], pair)
    asked, made = {pair.question for pair in pairs}, []
    for pair in pairs:
        name = named.get(pair.id)
        others = [
            other for other in homes if name and other not in pair.question and name not in other
        ]
        for other in random.Random(f"{seed}:{pair.id}").sample(others, min(per_pair, len(others))):
            question = pair.question.replace(name or "", other)
            if question not in asked:
                asked.add(question)
                made.append(_candidate(pair, homes[other], other, question, abstain))
    return made


def subject(pair: QAPair) -> str | None:
    """The longest name (words in upper case in a row, the first word apart) of a question, where the evidence holds
    it too; None where there is none, as in scripts without upper case."""
    runs: list[str] = []
    end = -1
    for place, word in enumerate(_NAME_WORD.finditer(pair.question)):
        if place and (word[0][0].isupper() or (end >= 0 and word[0][0].isdigit())):
            follows = end >= 0 and pair.question[end : word.start()] == " "
            runs.append(f"{runs.pop()} {word[0]}" if follows else word[0])
            end = word.end()
        else:
            end = -1
    proof = pair.evidence.text if pair.evidence else ""
    return max(
        (run for run in runs if len(run) >= LEAST_CHARACTERS and run in proof),
        key=len,
        default=None,
    )


def _candidate(pair: QAPair, home: QAPair, other: str, question: str, abstain: str) -> QAPair:
    """`home` asks about the other name: its chunk is where an answer would stand first."""
    return QAPair(
        id=content_hash(pair.id, question, abstain),
        question=question,
        answers=(abstain,),
        chunk_id=None,
        document_id=pair.document_id,
        evidence=None,
        kind="unanswerable",
        split=pair.split,
        origin="generated",
        provenance=home.provenance
        | {"variant": f"swap {pair.id}", SWAPPED: pair.id, SWAPPED_TO: other},
    )
