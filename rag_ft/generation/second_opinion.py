"""A second opinion on generated pairs: the encoder's, which took no part in writing them.

The model that misread a sentence when it wrote a question misreads it again in the round trip, and
the pair passes. The encoder sees such a question far from its evidence. benchmarks/pairs.py
measures it on pairs labelled by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

import numpy as np

from rag_ft.generation.filters import Failure
from rag_ft.retrieval.encoder import ChunkEncoder, QueryEncoder
from rag_ft.schema import QAPair
from rag_ft.storage import batched

BATCH = 64


def near_evidence(
    pairs: Iterable[QAPair],
    questions: QueryEncoder,
    texts: ChunkEncoder,
    least_cosine: float,
    reject: Callable[[QAPair, Failure], None],
) -> Iterator[QAPair]:
    """The pairs whose question and evidence have a cosine of `least_cosine` or more, with that
    cosine in their checks; the others go to `reject`.

    Only single facts are judged: the question of a summary is about more than its evidence.
    """
    for batch in batched(pairs, BATCH):
        judged = [pair for pair in batch if pair.kind == "factoid" and pair.evidence]
        cosines = {}
        if judged:
            asked = questions.encode_queries([pair.question for pair in judged])
            told = texts.encode_chunks([pair.evidence.text for pair in judged if pair.evidence])
            cosines = {
                pair.id: float(cosine)
                for pair, cosine in zip(judged, np.sum(asked * told, axis=1), strict=True)
            }
        for pair in batch:
            cosine = cosines.get(pair.id)
            if cosine is None:
                yield pair
            elif cosine >= least_cosine:
                yield replace(pair, checks={**pair.checks, "evidence_similarity": round(cosine, 3)})
            else:
                evidence = pair.evidence.text[:200] if pair.evidence else ""
                detail = f"{cosine:.2f}: {pair.question} | {evidence}"
                reject(pair, Failure("evidence_similarity", detail))
