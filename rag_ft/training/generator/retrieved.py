"""The chunks that serving finds for the questions of pairs, without those of test documents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rag_ft.relevance import second_chunk_id
from rag_ft.schema import Chunk, QAPair
from rag_ft.session import Session

EXTRA_HITS = 10  # beyond what is shown: distractors to choose from


@dataclass(frozen=True)
class Retrieved:
    """`hits`: pair id -> ids of the chunks that the serving index finds, best first, without chunks
    of test documents and those that the pair's filters exclude. `chunks`: those chunks and the
    pairs' own, by id."""

    hits: dict[str, list[str]]
    chunks: dict[str, Chunk]


def retrieve(session: Session, pairs: Sequence[QAPair]) -> Retrieved:
    """One search for all pairs, in the index that serving uses, twice as deep as serving."""
    retriever = session.retriever(session.tuned_components - {"reranker"})
    depth = 2 * session.config.retrieval.top_k + EXTRA_HITS
    questions, filters = [pair.question for pair in pairs], [pair.filters for pair in pairs]
    found = retriever.search(questions, depth, filters=filters)
    hits = {p.id: [i for i, _ in ranked] for p, ranked in zip(pairs, found, strict=True)}

    # Chunks that a pair names itself may not be among its hits.
    wanted = {chunk_id for ids in hits.values() for chunk_id in ids}
    for pair in pairs:
        own = (pair.chunk_id, second_chunk_id(pair), *pair.hard_chunk_ids)
        wanted.update(chunk_id for chunk_id in own if chunk_id)

    # Without chunks of test documents, the others keep the order of serving.
    # As they are shown: a neighbour may contain the answer.
    shown = session.answer_prompt.shown
    chunks = {i: shown(c) for i, c in session.chunks.select(wanted).items() if c.split != "test"}
    return Retrieved({p: [i for i in ids if i in chunks] for p, ids in hits.items()}, chunks)
