"""The chunks that the served and the base retriever find for the questions of pairs, without those
of test documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rag_ft.relevance import second_chunk_id
from rag_ft.schema import Chunk, QAPair
from rag_ft.session import Session

EXTRA_HITS = 10  # beyond what is shown: distractors to choose from


@dataclass(frozen=True)
class Retrieved:
    """`rankings`: for each retriever that was asked, the served one first, {pair id: ids of the
    chunks that it finds, best first, without chunks of test documents and those that the pair's
    filters exclude}. `chunks`: those chunks and the pairs' own, by id."""

    rankings: tuple[dict[str, list[str]], ...]
    chunks: dict[str, Chunk]

    def hits(self, pair_id: str, arrangement: int = 0) -> list[str]:
        """The ids that a retriever finds: the served one first, in each further arrangement of the
        chunks the next one.

        A tuned retriever knows the questions that it was trained on, so their gold chunk nearly
        always comes first. A generator that sees nothing else reads no other chunk.
        """
        return self.rankings[arrangement % len(self.rankings)][pair_id]


def retrieve(session: Session, pairs: Sequence[QAPair], arrangements: int = 1) -> Retrieved:
    """One search of each retriever for all pairs, twice as deep as serving.

    `arrangements`: how many times examples are made of a pair. From two on the base retriever is
    asked too, where the served one is tuned.
    """
    depth = 2 * session.config.retrieval.top_k + EXTRA_HITS
    questions, filters = [pair.question for pair in pairs], [pair.filters for pair in pairs]
    served = ["retriever"] if session.serves_tuned_retriever else []
    rankings = []
    for tuned in [served, []] if served and arrangements > 1 else [served]:
        found = session.retriever(tuned).search(questions, depth, filters=filters)
        rankings.append({p.id: [i for i, _ in hits] for p, hits in zip(pairs, found, strict=True)})

    # Chunks that a pair names itself may not be among its hits.
    wanted = {i for ranking in rankings for ids in ranking.values() for i in ids}
    for pair in pairs:
        own = (pair.chunk_id, second_chunk_id(pair), *pair.hard_chunk_ids)
        wanted.update(chunk_id for chunk_id in own if chunk_id)

    # Chunks of test documents are left out. The others are kept as they are shown, since the
    # neighbours that a chunk is shown with may contain the answer.
    shown = session.answer_prompt.shown
    chunks = {i: shown(c) for i, c in session.chunks.select(wanted).items() if c.split != "test"}
    allowed = ({p: [i for i in ids if i in chunks] for p, ids in r.items()} for r in rankings)
    return Retrieved(tuple(allowed), chunks)
