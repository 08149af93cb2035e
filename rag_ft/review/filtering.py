"""A card of a review, and which cards the page shows: by kind, split, document, text and checks."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rag_ft.schema import QAPair

# pair: passed the checks; rejected: by a check; added: by people; served: a user rated it.
Where = Literal["pair", "rejected", "added", "served"]
COMPARED = re.compile(r"^(\w+)(<=|>=|<|>|=)(.+)$")
WORDS = re.compile(r'"([^"]+)"|(\S+)')  # "words in this order", or one word
SIGNS = {
    "<": operator.lt,
    ">": operator.gt,
    "<=": operator.le,
    ">=": operator.ge,
    "=": operator.eq,
}
# The checks of generation by which cards are filtered, by the names that the page has for them.
CHECKS = {"rank": "round_trip_rank", "agreement": "round_trip_f1", "evidence": "evidence"}
FACTS = (*CHECKS, "doubt")
PAIR_FIELDS = ("kind", "split", "document_id")
FIELDS = ("words", "where", "shown_as", *PAIR_FIELDS, *FACTS)


@dataclass(frozen=True)
class Card:
    """One pair to look at. `said` is what users of the server said of the answer."""

    number: int
    key: str
    pair: QAPair
    where: Where
    doubt: float
    said: tuple[dict[str, Any], ...] = ()

    def field(self, name: str) -> Any:
        """The value of a field of FIELDS; None where there is none."""
        pair = self.pair
        if name == "words":
            return "\n".join([pair.question, *pair.answers]).casefold()
        if name in ("where", "doubt"):
            return self.doubt if name == "doubt" else self.where
        if name == "shown_as":
            return pair.origin if self.where == "pair" else self.where
        return getattr(pair, name) if name in PAIR_FIELDS else pair.checks.get(CHECKS[name])


@dataclass(frozen=True)
class Wanted:
    """Which cards to show; an empty text is no condition.

    `status`: open (not yet decided by me, and not another reviewer's), mine, decided, disputed or
    all. `where` may also be a pair's origin. `text` holds words, "phrases", and comparisons such as
    rank>1.
    """

    status: str = "open"
    where: str = ""
    kind: str = ""
    split: str = ""
    document: str = ""
    text: str = ""


class Columns:
    """The fields of cards, each as a list by the cards' numbers. Going through a list is ten times
    as fast as going through 20,000 cards."""

    def __init__(self) -> None:
        self._of: dict[str, list[Any]] = {name: [] for name in FIELDS}

    def add(self, card: Card) -> None:
        """Appends the card with the next number."""
        for name, values in self._of.items():
            values.append(card.field(name))

    def among(self, numbers: Sequence[int], wanted: Wanted) -> list[int]:
        """Those of the cards that fulfil every condition but the status, in their order."""
        of = self._of
        equal = {"shown_as": wanted.where, "kind": wanted.kind, "split": wanted.split}
        equal["document_id"] = wanted.document
        for name, value in equal.items():
            if value:
                column = of[name]
                numbers = [n for n in numbers if column[n] == value]
        if not wanted.where:
            column = of["where"]
            numbers = [n for n in numbers if column[n] != "rejected"]
        for phrase, single in WORDS.findall(wanted.text.casefold()):
            word = phrase or single
            if (match := COMPARED.match(word)) and match[1] in FACTS:
                column, fits = of[match[1]], comparison(match[2], match[3])
                numbers = [n for n in numbers if fits(column[n])]
            else:
                column = of["words"]
                numbers = [n for n in numbers if word in column[n]]
        return list(numbers)


def comparison(sign: str, wanted: str) -> Callable[[float | str | None], bool]:
    """Whether the value of a check stands to `wanted` as `sign` says; one that is missing never
    does."""
    try:
        limit = float(wanted)
    except ValueError:
        limit = math.nan  # a word: only equal to itself
    holds = SIGNS[sign]

    def fits(value: float | str | None) -> bool:
        if isinstance(value, str):
            return value == wanted
        return value is not None and holds(value, limit)

    return fits
