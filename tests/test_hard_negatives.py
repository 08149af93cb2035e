"""Hard negatives: below the positive, without the answer, the same for the same seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from rag_ft.relevance import is_negative
from rag_ft.schema import Chunk, Evidence, QAPair
from rag_ft.training.retriever.hard_negatives import mine_negatives


def chunk(name: str, text: str, start: int = 0) -> Chunk:
    return Chunk(name, name.partition("#")[0], "", text, start, start + len(text), 5, "train")


GOLD = chunk("a#0", "The bridge opened in 1900.")
CHUNKS = {
    c.id: c
    for c in [
        GOLD,
        chunk("a#1", "opened in 1900. It is long.", start=11),
        chunk("a#2", "The bridge was painted.", start=100),
        chunk("b#0", "Founded in 1900 by a queen."),
        chunk("b#1", "The tower opened late."),
        chunk("c#0", "Fish swim."),
        chunk("c#1", "The bridge opens for ships."),
    ]
}
COSINES = {"a#0": 0.8, "a#1": 0.7, "a#2": 0.6, "b#0": 0.65, "b#1": 0.5, "c#0": 0.1, "c#1": 0.79}
PAIR = QAPair(
    "q",
    "When did it open?",
    ("1900",),
    "a#0",
    "a",
    Evidence("1900", 21, 25),
    "factoid",
    "train",
    "imported",
)


class Retriever:
    """Ranks by fixed cosines: chunk n is a vector in the plane at that angle to every question."""

    def __init__(self, cosines: dict[str, float] = COSINES) -> None:
        self.row_of = {name: row for row, name in enumerate(cosines)}
        values = np.array(list(cosines.values()), dtype=np.float32)
        self.vectors = np.stack([values, np.sqrt(1 - values**2)], axis=1)
        self._cosines = cosines
        self.encoder = self

    def encode_queries(self, questions: Sequence[str]) -> np.ndarray:
        return np.tile(np.array([1, 0], dtype=np.float32), (len(questions), 1))

    def search(
        self, questions: Sequence[str], k: int, mode: str | None = None, filters: Any = None
    ) -> list[list[tuple[str, float]]]:
        ranked = sorted(self._cosines.items(), key=lambda item: -item[1])[:k]
        return [ranked for _ in questions]


def mine(pair: QAPair = PAIR, num: int = 2, margin: float = 0.05, seed: int = 0) -> tuple[str, ...]:
    return mine_negatives([pair], Retriever(), CHUNKS, num, margin, seed)[pair.id]


def test_a_chunk_with_the_answer_or_part_of_the_evidence_is_no_negative() -> None:
    negatives = {name for name, c in CHUNKS.items() if is_negative(c, PAIR)}
    assert negatives == {"a#2", "b#1", "c#0", "c#1"}


def test_an_answer_counts_as_whole_words_only() -> None:
    assert is_negative(chunk("z#0", "It has 19000 rivets."), PAIR)
    assert not is_negative(chunk("z#0", "In 1900, it rained."), PAIR)


def test_a_negative_scores_below_the_positive_by_the_margin() -> None:
    assert set(mine(num=2)) <= {"a#2", "b#1", "c#0"}  # c#1 at 0.79 is above 0.95 x 0.8
    assert set(mine(num=3, margin=0.3)) == {"b#1", "c#0", "a#2"} or "a#2" not in mine(
        num=2, margin=0.3
    )
    assert "c#1" in mine(num=4, margin=0.0)


def test_chunks_that_fooled_the_round_trip_come_first() -> None:
    assert mine(replace(PAIR, hard_chunk_ids=("c#0",)), num=1) == ("c#0",)
    answering = replace(PAIR, hard_chunk_ids=("b#0",))
    assert "b#0" not in mine(answering, num=3)


def test_the_draw_depends_on_seed_and_pair_alone() -> None:
    assert mine(seed=3) == mine(seed=3)
    others = [replace(PAIR, id=f"q{n}") for n in range(20)]
    together = mine_negatives(others, Retriever(), CHUNKS, 1, 0.05, 0)
    alone = {
        pair.id: mine_negatives([pair], Retriever(), CHUNKS, 1, 0.05, 0)[pair.id] for pair in others
    }
    assert together == alone
    assert len(set(together.values())) > 1


def test_chunks_that_may_not_be_trained_on_are_never_drawn() -> None:
    allowed = {name: c for name, c in CHUNKS.items() if c.document_id != "b"}
    drawn = mine_negatives([PAIR], Retriever(), allowed, 5, 0.05, 0)["q"]
    assert set(drawn) <= allowed.keys()


def test_where_nothing_is_hard_enough_random_negatives_fill_up() -> None:
    low = Retriever({**COSINES, "a#0": 0.05})
    drawn = mine_negatives([PAIR], low, CHUNKS, 2, 0.05, 0)["q"]
    assert len(drawn) == 2
    assert all(is_negative(CHUNKS[name], PAIR) for name in drawn)


def test_an_answer_that_nearly_every_chunk_mentions_still_gets_its_negatives() -> None:
    chunks = {GOLD.id: GOLD}
    for n in range(300):
        text = "The fair is over." if n in (7, 150) else f"Number {n} of the year 1900."
        chunks[f"n#{n}"] = chunk(f"n#{n}", text)
    near = Retriever({GOLD.id: 0.8, **{name: 0.9 for name in chunks if name != GOLD.id}})
    drawn = mine_negatives([PAIR], near, chunks, 2, 0.05, 0)["q"]
    assert set(drawn) == {"n#7", "n#150"}
    assert drawn == mine_negatives([PAIR], near, chunks, 2, 0.05, 0)["q"]
    assert set(mine_negatives([PAIR], near, chunks, 3, 0.05, 0)["q"]) == {"n#7", "n#150"}


def test_no_negatives_wanted_gives_none() -> None:
    assert mine(num=0) == ()
