"""Makes unanswerable questions from answerable ones: the same question about another name.

"When was the Old Mill built?" becomes "When was the Mill Store built?". If no chunk contains the
answer, the question differs from an answerable one only in what the chunks say. An unanswerable
question that a language model invents is often odd in itself.
Entity swaps as in Gautam et al. 2023 (https://arxiv.org/abs/2310.19403).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from rag_ft.generation.ask_model import PassItem
from rag_ft.generation.filters import Failure
from rag_ft.generation.question_dedup import QuestionDeduplicator, duplicate
from rag_ft.generation.round_trip import SHORT_ANSWER_TOKENS, RoundTrip, answer_request
from rag_ft.llm.interface import Reply
from rag_ft.schema import QAPair
from rag_ft.storage import content_hash
from rag_ft.text import name_runs

SWAPPED, SWAPPED_TO = "swapped_from", "swapped_to"
LEAST_CHARACTERS = 4  # a shorter word in upper case, such as "The", is no name


@dataclass(frozen=True)
class Swaps:
    """A pass over the pairs that the round trip kept.

    `asked` counts the swapped questions by kind. A swapped question that repeats one of `known` is
    rejected without a request, because that one has an answer.
    """

    trip: RoundTrip
    seed: int
    asked: Counter[str]
    asked_before: QuestionDeduplicator | None = None
    known: Container[str] = ()

    def requests(self, pairs: Iterable[QAPair]) -> Iterator[PassItem]:
        """All pairs without a request; after those of a document its swapped questions.

        A swapped question has one request for the chunk of the other name and one for each chunk
        found that contains the other name. The model sees these chunks one at a time: among several
        chunks it overlooks an answer, and the question would pass as unanswerable.
        """
        settings, prompt = self.trip.settings.advanced, self.trip.prompt
        for _, group in groupby(pairs, key=lambda pair: pair.document_id):
            kept = list(group)
            yield from (PassItem(pair) for pair in kept)
            swapped = swap_names(kept, prompt.prompts.abstain, settings.swaps_per_pair, self.seed)
            self.asked["unanswerable"] += len(swapped)
            # Reject what repeats a known question.
            new = swapped
            if self.asked_before is not None:
                new = []
                questions = [pair.question for pair in swapped]
                repeated = self.asked_before.repeats(questions, keep=False)
                for pair, earlier in zip(swapped, repeated, strict=True):
                    if earlier is not None and earlier in self.known:
                        yield PassItem(pair, duplicate(pair.question, earlier))
                    else:
                        new.append(pair)
            if not new:
                continue
            # Ask the others of each chunk that could contain an answer.
            questions = [pair.question for pair in new]
            filters = [pair.filters for pair in new]
            hits = self.trip.retriever.search(questions, settings.round_trip_k, filters=filters)
            for pair, found in zip(new, hits, strict=True):
                home_id, name = pair.provenance["chunk_id"], pair.provenance[SWAPPED_TO]
                found_ids = (chunk_id for chunk_id, _ in found)
                for number, chunk_id in enumerate(dict.fromkeys([home_id, *found_ids])):
                    chunk = self.trip.chunks[chunk_id]
                    if chunk_id == home_id or name in prompt.text(chunk):
                        messages = prompt.messages(pair.question, [chunk])
                        shown = (chunk_id,)
                        request = answer_request(pair, messages, SHORT_ANSWER_TOKENS, shown)
                        request = replace(request, id=f"{pair.id}/{number}")
                        yield PassItem(pair, request=request)

    def check(self, pair: QAPair, replies: Iterable[Reply]) -> QAPair | Failure:
        """The pair if the model abstains for every chunk, else why it is rejected."""
        for reply in replies:
            if reply.error:
                return Failure("llm_error", reply.error[:300])
            result = self.trip.check(pair, reply)
            if isinstance(result, Failure):
                answered = result.reason == "round_trip_answer"
                return replace(result, reason="swap_answered") if answered else result
            pair = result
        return pair


def swap_names(pairs: Sequence[QAPair], abstain: str, per_pair: int, seed: int) -> list[QAPair]:
    """At most `per_pair` swapped questions from each single-fact pair, all different, and none that
    `pairs` ask.

    Args:
        pairs: accepted pairs of one document. The names are the subjects of these pairs.
        abstain: the answer of the swapped questions.
        per_pair: how many other names a question is asked about.
        seed: chooses these names.
    """
    named = {pair.id: name for pair in pairs if pair.kind == "factoid" and (name := subject(pair))}
    # The first pair about a name is its home: an answer would be found first in that pair's chunk.
    homes: dict[str, QAPair] = {}
    for pair in pairs:
        if pair.id in named:
            homes.setdefault(named[pair.id], pair)

    asked = {pair.question for pair in pairs}
    swapped = []
    for pair in (pair for pair in pairs if pair.id in named):
        name = named[pair.id]
        others = [other for other in homes if other not in pair.question and name not in other]
        for other in random.Random(f"{seed}:{pair.id}").sample(others, min(per_pair, len(others))):
            question = pair.question.replace(name, other)
            if question in asked:
                continue
            asked.add(question)
            made_from = {"variant": f"swap {pair.id}", SWAPPED: pair.id, SWAPPED_TO: other}
            swapped.append(
                QAPair(
                    id=content_hash(pair.id, question, abstain),
                    question=question,
                    answers=(abstain,),
                    chunk_id=None,
                    document_id=pair.document_id,
                    evidence=None,
                    kind="unanswerable",
                    split=pair.split,
                    origin="generated",
                    provenance=homes[other].provenance | made_from,
                    filters=pair.filters,
                )
            )
    return swapped


def subject(pair: QAPair) -> str | None:
    """The longest name in a question that its evidence contains too; None if there is none."""
    evidence = pair.evidence.text if pair.evidence else ""
    names = name_runs(pair.question)
    known = [name for name in names if len(name) >= LEAST_CHARACTERS and name in evidence]
    return max(known, key=len, default=None)
