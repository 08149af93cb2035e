"""The systems of an evaluation and the chunks each of them is shown."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from rag_ft.evaluation.components import COMPONENTS, EVERY, RANKING, in_order, named_set
from rag_ft.relevance import contains_evidence, mentions_answer, oracle_context, second_chunk_id
from rag_ft.schema import Chunk, Prediction, QAPair

# recall@10 needs ten, and top_k chunks must be left when the gold chunks are withheld.
MIN_HITS = 20
# Shorter answers ("3", "no") occur in too many chunks that are not gold.
MIN_WITHHELD_CHARACTERS = 4

State = Literal["base", "tuned"]
GENERATOR = "generator"
NOTHING: frozenset[str] = frozenset()


@dataclass(frozen=True)
class System:
    """A set of tuned components and what the generator is shown: a row of the table of answers.

    `tuned` names the tuned components, the others are base. `context`: "each" shows one retrieved
    chunk at a time, "oracle" the gold chunk, "withheld" retrieved chunks without it. "oracle" and
    "withheld" always read the base ranking, so only the generator differs. They skip answerable
    questions whose gold chunk is unknown.
    """

    name: str
    tuned: frozenset[str]
    context: Literal["none", "retrieved", "each", "oracle", "withheld"]
    meaning: str

    @property
    def generator(self) -> State:
        """Which generator answers."""
        return "tuned" if GENERATOR in self.tuned else "base"

    @property
    def ranking(self) -> str:
        """The name of the ranking that it reads from, as in hits/."""
        return next(
            name for name, ranking in SERVED.items() if ranking.tuned == self.tuned & RANKING
        )

    @property
    def is_retrieved(self) -> bool:
        """Whether it is shown just what its ranking finds."""
        return self.context in ("retrieved", "each")


@dataclass(frozen=True)
class Ranking:
    """A row of the table of retrieval, and a file in hits/. `context`: "served" is the order that
    users get, "mixture" is it before the feature ranker, "lexical" and "dense" are one part of it
    alone."""

    name: str
    tuned: frozenset[str]
    context: Literal["served", "mixture", "lexical", "dense"]
    meaning: str


def _alone(name: str, among: Collection[str] = EVERY) -> str:
    """ "tuned generator, base retriever": what has one tuned component."""
    others = (other for other in in_order(among) if other != name)
    base = (f"base {other}" for other in others if not COMPONENTS[other].optional)
    return ", ".join([f"tuned {name}", *base])


SERVED = {
    ranking.name: ranking
    for ranking in (
        Ranking("base", NOTHING, "served", "base encoder, as served"),
        Ranking("tuned", RANKING, "served", "everything tuned, as served"),
        *(
            Ranking(f"tuned_{n}", frozenset({n}), "served", f"{_alone(n, RANKING)}, as served")
            for n in in_order(RANKING)
        ),
    )
}
RANKINGS = SERVED | {
    ranking.name: ranking
    for ranking in (
        Ranking("lexical", NOTHING, "lexical", "BM25 alone"),
        Ranking("dense_base", NOTHING, "dense", "base encoder alone"),
        Ranking("dense_tuned", frozenset({"retriever"}), "dense", "tuned encoder alone"),
        Ranking("mixture_base", NOTHING, "mixture", "base encoder and BM25 alone"),
        Ranking(
            "mixture_tuned",
            frozenset({"retriever"}),
            "mixture",
            "tuned encoder and BM25 alone",
        ),
    )
}
RETRIEVERS = {name: ranking.meaning for name, ranking in RANKINGS.items()}

# Each system with one tuned component, then the one with every component.
TUNED_SYSTEMS = (
    *(System(f"tuned_{name}", frozenset({name}), "retrieved", _alone(name)) for name in COMPONENTS),
    System("tuned", EVERY, "retrieved", "all components tuned"),
)
_TUNED = frozenset({GENERATOR})
SYSTEMS = (
    System("closed_book", NOTHING, "none", "base generator without any context"),
    System(
        "closed_book_tuned",
        _TUNED,
        "none",
        "tuned generator without any context: what it knows by heart",
    ),
    System("base", NOTHING, "retrieved", "no model tuned"),
    *TUNED_SYSTEMS,
    System("oracle_base", NOTHING, "oracle", "base generator, shown the gold chunk"),
    System("oracle_tuned", _TUNED, "oracle", "tuned generator, shown the gold chunk"),
    System(
        "withheld_base",
        NOTHING,
        "withheld",
        "base generator, gold chunk withheld: right is to abstain",
    ),
    System(
        "withheld_tuned",
        _TUNED,
        "withheld",
        "tuned generator, gold chunk withheld: right is to abstain",
    ),
)
NAMES = tuple(system.name for system in SYSTEMS)
# On request, RA-DIT's own decoding: one prompt per chunk, answers weighted by the retriever.
ENSEMBLES = (
    System("ensemble_base", NOTHING, "each", "nothing tuned, one chunk at a time"),
    System("ensemble_tuned", EVERY, "each", "all components tuned, one chunk at a time"),
)


def shipped_system(ship: str) -> System:
    """The system that is served after the verdict `ship`."""
    chosen = named_set(ship)
    wanted = EVERY if len(chosen) > 1 else chosen
    return next(s for s in SYSTEMS if s.context == "retrieved" and s.tuned == wanted)


def distinct(systems: Iterable[System], tuned: Collection[str]) -> list[System]:
    """The systems without those that repeat an earlier one when only the components `tuned` were
    tuned: with the generator alone, `tuned` repeats `tuned_generator`."""
    found: dict[tuple[str, frozenset[str]], System] = {}
    for system in systems:
        found.setdefault((system.context, system.tuned & frozenset(tuned)), system)
    return list(found.values())


def ranking_name(components: frozenset[str], tuned: Collection[str]) -> str:
    """The served ranking of these components, when only the components `tuned` were tuned: the
    first one that is the same."""
    wanted = components & RANKING & frozenset(tuned)
    return next(name for name, row in SERVED.items() if row.tuned & frozenset(tuned) == wanted)


def distinct_rankings(tuned: Collection[str]) -> list[str]:
    """The rankings that there are when only the components `tuned` were tuned. "tuned" always is
    one; others that repeat one before are left out."""
    return [
        name
        for name, row in RANKINGS.items()
        if name == "tuned"
        or (row.context == "served" and ranking_name(row.tuned, tuned) == name)
        or (row.context != "served" and row.tuned <= frozenset(tuned))
    ]


def shown_systems(tuned: Collection[str]) -> list[System]:
    """SYSTEMS without those of an optional component alone that was not tuned."""
    optional = {name for name, component in COMPONENTS.items() if component.optional}
    return [s for s in SYSTEMS if not (s.tuned and s.tuned <= optional.difference(tuned))]


@dataclass(frozen=True)
class Ask:
    """One prompt for one generator. `system` names the system or the robustness probe. `passages`
    replace the chunks' texts, where there are any. `answers` are the accepted ones; without any,
    abstaining is right."""

    pair: QAPair
    system: str
    generator: State
    chunk_ids: tuple[str, ...]
    answers: tuple[str, ...]
    passages: tuple[str, ...] | None = None


Answered = tuple[Ask, Prediction]


def asks_of(
    pair: QAPair,
    hits: Mapping[str, Sequence[str]],
    gold: set[str],
    chunks: Mapping[str, Chunk],
    top_k: int,
    tuned: Collection[str] = EVERY,
) -> list[Ask]:
    """What each of the systems is shown for one question, when only the components `tuned` were
    tuned; other arguments as of `ask_of`.

    Without a known gold chunk of an answerable question, "oracle" and "withheld" are left out.
    """
    asks = []
    for system in shown_systems(tuned):
        needs_gold = system.context in ("oracle", "withheld")
        if gold or not needs_gold or not pair.answerable:
            asks.append(ask_of(system, pair, hits, gold, chunks, top_k))
    return asks


def ask_of(
    system: System,
    pair: QAPair,
    hits: Mapping[str, Sequence[str]],
    gold: set[str],
    chunks: Mapping[str, Chunk],
    top_k: int,
) -> Ask:
    """What `system` is shown for one question.

    Args:
        system: a row of SYSTEMS.
        pair: the question.
        hits: the question's chunk ids, best first, by ranking (base, tuned).
        gold: its gold chunks' ids.
        chunks: every chunk that may be shown, by id.
        top_k: number of chunks shown.
    """
    ranked = hits[system.ranking]
    shown: Iterable[str]
    if system.context == "none":
        shown = ()
    elif system.context == "oracle":
        shown = oracle_context(pair, gold, chunks) or ranked[:top_k]
    elif system.context == "withheld":
        # Another place in the documents, or a copy, may also contain the withheld answer.
        withheld = {*gold, second_chunk_id(pair)}
        answers = [a for a in pair.answers if pair.answerable and len(a) >= MIN_WITHHELD_CHARACTERS]
        others = (
            i
            for i in ranked
            if i not in withheld
            and not contains_evidence(chunks[i], pair)
            and not mentions_answer(chunks[i], answers)
        )
        shown = islice(others, top_k)
    else:
        shown = ranked[:top_k]
    accepted = pair.answers if pair.answerable and system.context != "withheld" else ()
    return Ask(pair, system.name, system.generator, tuple(shown), accepted)
