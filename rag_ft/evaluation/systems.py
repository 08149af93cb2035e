"""The systems of an evaluation and the chunks each of them is shown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from rag_ft.records import Chunk, QAPair
from rag_ft.relevance import mentions_answer, oracle_context, second_chunk_id

MIN_HITS = 20  # recall@10 needs ten; withholding the gold chunks must still leave top_k
MIN_WITHHELD_CHARACTERS = (
    4  # shorter answers ("3", "no") stand in too many chunks that do not prove them
)


@dataclass(frozen=True)
class System:
    """`generator` and `retriever` say which half is tuned; `context` which chunks are shown. Where gold is withheld
    both halves see the base retriever's chunks, so that nothing but the generator differs. Oracle and withheld are
    asked of no answerable question whose proof is unknown: there is nothing to show or to withhold."""

    name: str
    generator: Literal["base", "tuned"]
    retriever: Literal["base", "tuned"]
    context: Literal["none", "retrieved", "oracle", "withheld"]
    meaning: str


SYSTEMS = (
    System("closed_book", "base", "base", "none", "base generator without any context"),
    System("closed_book_tuned", "tuned", "base", "none", "tuned generator without any context: what it recites"),
    System("base", "base", "base", "retrieved", "nothing tuned: what you have today"),
    System("tuned_generator", "tuned", "base", "retrieved", "tuned generator, base retriever"),
    System("tuned_retriever", "base", "tuned", "retrieved", "base generator, tuned retriever"),
    System("tuned", "tuned", "tuned", "retrieved", "both halves tuned"),
    System("oracle_base", "base", "base", "oracle", "base generator shown the chunk that proves the answer"),
    System("oracle_tuned", "tuned", "base", "oracle", "tuned generator shown the chunk that proves the answer"),
    System("withheld_base", "base", "base", "withheld", "base generator, proof removed: right is to abstain"),
    System("withheld_tuned", "tuned", "base", "withheld", "tuned generator, proof removed: right is to abstain"),
)  # fmt: skip
NAMES = tuple(system.name for system in SYSTEMS)
# RA-DIT's own decoding, on request: one prompt per chunk, answers weighted by the retriever.
ENSEMBLES = (
    System("ensemble_base", "base", "base", "retrieved", "nothing tuned, one chunk at a time"),
    System("ensemble_tuned", "tuned", "tuned", "retrieved", "both tuned, one chunk at a time"),
)
RETRIEVERS = {
    "base": "base encoder, as served",
    "tuned": "tuned encoder, as served",
    "lexical": "BM25 alone",
    "dense_base": "base encoder alone",
    "dense_tuned": "tuned encoder alone",
}


@dataclass(frozen=True)
class Ask:
    """One prompt to put to one half: `probe` names the system, or the setting of a robustness curve. `passages`, where
    given, replace the chunks' texts; `answers` are those accepted (none: right is to abstain)."""

    pair: QAPair
    system: str
    generator: Literal["base", "tuned"]
    chunk_ids: tuple[str, ...]
    answers: tuple[str, ...]
    passages: tuple[str, ...] | None = None


def asks_of(
    pair: QAPair,
    hits: Mapping[str, Sequence[str]],
    gold: set[str],
    chunks: Mapping[str, Chunk],
    top_k: int,
) -> list[Ask]:
    """What each of SYSTEMS is shown for one question, without those that cannot be asked it."""
    proof_unknown = pair.answerable and not gold
    asked = (s for s in SYSTEMS if not (proof_unknown and s.context in ("oracle", "withheld")))
    return [ask_of(system, pair, hits, gold, chunks, top_k) for system in asked]


def ask_of(
    system: System,
    pair: QAPair,
    hits: Mapping[str, Sequence[str]],
    gold: set[str],
    chunks: Mapping[str, Chunk],
    top_k: int,
) -> Ask:
    """What `system` is shown for one question; `hits` are its ranked chunk ids by retriever (base, tuned)."""
    ranked = hits[system.retriever]
    shown: Iterable[str]
    if system.context == "none":
        shown = ()
    elif system.context == "oracle":
        shown = oracle_context(pair, gold, chunks) or ranked[:top_k]
    elif system.context == "withheld":
        withheld = {*gold, second_chunk_id(pair)}
        # Another place, or a copy, may give away what is withheld.
        answers = [a for a in pair.answers if pair.answerable and len(a) >= MIN_WITHHELD_CHARACTERS]
        others = (
            i for i in ranked if i not in withheld and not mentions_answer(chunks[i], answers)
        )
        shown = islice(others, top_k)
    else:
        shown = ranked[:top_k]
    accepted = pair.answers if pair.answerable and system.context != "withheld" else ()
    return Ask(pair, system.name, system.generator, tuple(shown), accepted)
