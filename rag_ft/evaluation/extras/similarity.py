"""Cosine of an answer with the accepted ones in the base encoder's space: it recognises the same
answer in other words."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from rag_ft.evaluation.systems import Answered
from rag_ft.retrieval.encoder import ChunkEncoder
from rag_ft.schema import Score

METRIC = "similarity"


def similarity_scores(
    encoder: ChunkEncoder,
    answered: Iterable[Answered],
    abstains: Callable[[str], bool],
) -> Iterator[Score]:
    """The highest cosine (0-1, negative ones are 0) of each answer with an accepted one.

    Abstaining scores as in `score_answer`: 1 where the documents contain no answer, else 0; an
    answer where they contain none scores 0.
    """
    answered = list(answered)
    # Every distinct text is encoded once.
    texts = sorted({text for ask, said in answered for text in (said.answer, *ask.answers)})
    row = {text: number for number, text in enumerate(texts)}
    vectors = encoder.encode_chunks(texts)
    for ask, said in answered:
        abstained = not said.answer.strip() or abstains(said.answer)
        if abstained or not ask.answers:
            value = float(abstained and not ask.answers)
        else:
            cosines = vectors[[row[answer] for answer in ask.answers]] @ vectors[row[said.answer]]
            value = min(1.0, max(0.0, float(cosines.max())))
        yield Score(said.question_id, ask.system, METRIC, round(value, 6))
