"""RA-DIT's decoding: every retrieved chunk is asked alone, and the answers are weighted by the
retriever.

p(y | x) = sum_j p(y | c_j, x) p_R(c_j | x) (RA-DIT, eq. 2), here over whole answers: equal ones (in
SQuAD's normal form) add up their chunks' probabilities, and the answer with the largest sum wins.
Most chunks do not contain the answer, so the model abstains on them: abstaining wins only where
every chunk gives that reply.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence

from rag_ft.evaluation.systems import ENSEMBLES, Answered, Ask
from rag_ft.schema import Hit, Prediction, QAPair
from rag_ft.text import normalise

RETRIEVER_TEMPERATURE = 0.1  # of the softmax over the served scores, 0 to 1 where they are fused
PART = "#"  # between the system's name and the chunk's rank


def part_asks(
    pairs: Sequence[QAPair], rankings: Mapping[str, Mapping[str, Sequence[str]]], top_k: int
) -> list[Ask]:
    """One Ask per question and chunk; its system is named `<ensemble>#<rank>`."""
    asks = []
    for pair in pairs:
        answers = pair.answers if pair.answerable else ()
        for system in ENSEMBLES:
            shown = rankings[system.ranking][pair.id][:top_k]
            asks += [
                Ask(pair, f"{system.name}{PART}{rank}", system.generator, (chunk_id,), answers)
                for rank, chunk_id in enumerate(shown, 1)
            ]
    return asks


def combine(
    answered: Iterable[Answered], hits: Mapping[str, Iterable[Hit]], abstains: Callable[[str], bool]
) -> list[Answered]:
    """The answered asks, with one prediction for each ensemble in place of its parts. It names the
    chunks it shows, cites those whose answer won, and took all parts' seconds together. `hits` are
    by ranking (base, tuned)."""
    kept: list[Answered] = []
    parts: dict[tuple[str, str], list[Answered]] = {}
    for ask, prediction in answered:
        name, part, _ = ask.system.partition(PART)
        if part:
            parts.setdefault((ask.pair.id, name), []).append((ask, prediction))
        else:
            kept.append((ask, prediction))

    systems = {system.name: system for system in ENSEMBLES}
    needed = {systems[name].ranking for _, name in parts}
    scores = {name: {(h.question_id, h.chunk_id): h.score for h in hits[name]} for name in needed}
    for (question_id, name), votes in parts.items():
        # Abstentions count only where there is nothing else.
        voting = [vote for vote in votes if not abstains(vote[1].answer)] or votes
        weights: dict[str, float] = {}
        for ask, prediction in voting:
            score = scores[systems[name].ranking][question_id, ask.chunk_ids[0]]
            answer = normalise(prediction.answer)
            weights[answer] = weights.get(answer, 0.0) + math.exp(score / RETRIEVER_TEMPERATURE)
        # Of equally heavy answers the first wins: the one from the better-ranked chunk.
        best = max(weights, key=lambda answer: weights[answer])
        winners = [vote for vote in voting if normalise(vote[1].answer) == best]

        first = votes[0][0]
        shown = tuple(ask.chunk_ids[0] for ask, _ in votes)
        cited = tuple(ask.chunk_ids[0] for ask, _ in winners)
        seconds = round(sum(prediction.seconds for _, prediction in votes), 4)
        said = Prediction(question_id, name, winners[0][1].answer, shown, cited, seconds)
        kept.append((Ask(first.pair, name, systems[name].generator, shown, first.answers), said))
    return kept
