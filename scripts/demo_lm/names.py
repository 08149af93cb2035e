"""Invented names and typed values. Names of the evaluation split never occur in training (split by
checksum)."""

import calendar
import random
import zlib
from collections.abc import Callable, Sequence

from .wordlists import words

SPLITS = ("train", "eval")

ONSETS, VOWELS, STEMS, ENDINGS = words("onsets"), words("vowels"), words("stems"), words("endings")
CODAS = ["" if coda == "-" else coda for coda in words("codas")]
FIRST_NAMES, SURNAME_ENDINGS = words("first names"), words("surname endings")
GOODS, GOODS_ADJECTIVES = words("goods"), words("goods adjectives")
ROLES, ROOMS, LANGUAGES = words("roles"), words("rooms"), words("languages")
MONTHS = calendar.month_name[1:]
WEEKDAYS = list(calendar.day_name)
STREET_KINDS = ["Street", "Lane", "Quay", "Road", "Square", "Row", "Walk"]
NUMBER_WORDS = ["two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "twelve"]


def syllable(rng: random.Random) -> str:
    """One invented syllable."""
    return (
        rng.choice(ONSETS) + rng.choice(VOWELS) + (rng.choice(CODAS) if rng.random() < 0.5 else "")
    )


def in_split(word: str, split: str) -> bool:
    """Every tenth name (by checksum) belongs to the evaluation split."""
    return (zlib.crc32(word.encode()) % 10 == 9) == (split == "eval")


def _coined(rng: random.Random) -> str:
    if rng.random() < 0.3:
        return rng.choice(STEMS) + rng.choice(ENDINGS)
    return "".join(syllable(rng) for _ in range(rng.choice((2, 2, 2, 3)))).capitalize()


def invented(rng: random.Random, split: str) -> str:
    """A one-word invented name such as "Shainjex" or "Dunmere"."""
    while True:
        word = _coined(rng)
        if 4 <= len(word) <= 11 and in_split(word, split):
            return word


def surname(rng: random.Random, split: str) -> str:
    """An invented name, a third of them with the ending of a familiar surname."""
    if rng.random() > 0.35:
        return invented(rng, split)
    while True:
        stem = syllable(rng).capitalize() + (
            syllable(rng) if rng.random() < 0.3 else rng.choice(ONSETS[:18])
        )
        word = stem + rng.choice(SURNAME_ENDINGS)
        if in_split(word, split):
            return word


def person(rng: random.Random, split: str) -> str:
    """Two names, "Ilva Torrent"; sometimes with an initial."""
    first = rng.choice(FIRST_NAMES) if rng.random() < 0.45 else invented(rng, split)
    middle = f" {rng.choice('ABCDEFGHJKLMNPRSTVW')}." if rng.random() < 0.06 else ""
    return f"{first}{middle} {surname(rng, split)}"


def place(rng: random.Random, split: str) -> str:
    """A town, pier or village."""
    name = invented(rng, split)
    pick = rng.random()
    if pick < 0.12:
        kinds = ["Point", "Pier", "Harbour", "Quay", "Sound", "Head", "Bay", "Cove"]
        return f"{name} {rng.choice(kinds)}"
    return (
        f"{rng.choice(['Port', 'North', 'Upper', 'East', 'Old'])} {name}" if pick < 0.18 else name
    )


def code(rng: random.Random, split: str) -> str:
    """Form codes, fuses, call signs: "KV-218", "T40", "RX-7"."""
    letters = "".join(rng.choice("ABCDEFGHKLMNPRTVXZ") for _ in range(rng.choice((1, 2, 2, 2, 3))))
    return letters + rng.choice(("-", "-", "-", "", " ")) + str(rng.randint(4, 999))


def clock(rng: random.Random, split: str) -> str:
    """A clock time, mostly 24 hours."""
    minute = rng.choice((0, 0, 5, 10, 15, 20, 30, 30, 40, 45, 50))
    if rng.random() < 0.12:
        return f"{rng.randint(1, 12)}:{minute:02d} {rng.choice(['am', 'pm'])}"
    return f"{rng.randint(0, 23):02d}:{minute:02d}"


def day_month(rng: random.Random, split: str) -> str:
    """A date without a year."""
    day, month = rng.randint(1, 28), rng.choice(MONTHS)
    return (
        f"{day} {month}" if rng.random() < 0.7 else f"the first {rng.choice(WEEKDAYS)} in {month}"
    )


def goods(rng: random.Random, split: str) -> str:
    """Goods with or without an adjective, sometimes two."""
    pick, word = rng.random(), rng.choice(GOODS)
    if pick < 0.3:
        return f"{rng.choice(words('goods adjectives'))} {word}"
    return f"{word} and {rng.choice([g for g in GOODS if g != word])}" if pick < 0.5 else word


def room(rng: random.Random, split: str) -> str:
    """Numbered, lettered or named rooms."""
    pick = rng.random()
    if pick < 0.45:
        return f"room {rng.choice(['', '', 'A', 'B', 'C', 'E'])}{rng.randint(1, 60)}"
    if pick < 0.55:
        return (
            f"{rng.choice(['hall', 'cabinet', 'studio', 'gallery'])} {rng.choice('123456ABCDEF')}"
        )
    return f"the {rng.choice(words('rooms'))}"


def location(rng: random.Random, split: str) -> str:
    """Where something is: a town, a street address, a floor or a room."""
    pick = rng.random()
    if pick < 0.45:
        return place(rng, split)
    if pick < 0.7:
        return f"{rng.randint(1, 99)} {invented(rng, split)} {rng.choice(STREET_KINDS)}"
    if pick < 0.85:
        floor = rng.choice(["first", "second", "third", "ground", "top"])
        return f"the {floor} floor of {invented(rng, split)} {rng.choice(['House', 'Hall'])}"
    places = ["the quay", "the slipway", "the green", "the old jetty", "the market square"]
    return rng.choice([*places, "the boat hall"])


def vessel_name(rng: random.Random, split: str) -> str:
    """A boat as a value."""
    return f"the {invented(rng, split)}" + (
        f" {rng.choice(['Ferry', 'Barge', 'Launch'])}" if rng.random() < 0.5 else ""
    )


def languages(rng: random.Random, split: str) -> str:
    """One to three languages."""
    picked = rng.sample(LANGUAGES, rng.choice((1, 2, 2, 3)))
    return picked[0] if len(picked) == 1 else ", ".join(picked[:-1]) + " and " + picked[-1]


def job(rng: random.Random, split: str) -> str:
    """A post with or without its article."""
    title = rng.choice(ROLES)
    return rng.choice(("", "", "the ", "an " if title[0] in "aeiou" else "a ")) + title


def count_noun(rng: random.Random, split: str) -> str:
    """ "two signatures", "a doctor's note"."""
    if rng.random() < 0.4:
        return rng.choice(words("single papers"))
    noun = rng.choice(words("countable papers"))
    plural = {"copy": "copies", "witness": "witnesses"}.get(noun, noun + "s")
    return f"{rng.choice(NUMBER_WORDS[:4])} {plural}"


def euros(rng: random.Random, split: str) -> str:
    """Prices in several spellings."""
    amount = rng.choice((rng.randint(2, 60), rng.randint(10, 990), rng.randint(2, 99) * 50))
    pick = rng.random()
    if pick < 0.12:
        return f"{amount}.{rng.choice(('50', '20', '80'))} euros"
    return (
        f"EUR {amount}"
        if pick < 0.2
        else f"{amount // 1000},{amount % 1000:03d} euros"
        if amount > 999
        else f"{amount} euros"
    )


def extension(rng: random.Random, split: str) -> str:
    """Telephone extensions and numbers."""
    return rng.choice(
        (
            f"{rng.randint(100, 999)}",
            f"extension {rng.randint(10, 999)}",
            f"0{rng.randint(10, 99)} {rng.randint(1000, 9999)}",
            f"ext. {rng.randint(100, 999)}",
        )
    )


def span(rng: random.Random, split: str) -> str:
    """A stretch of time."""
    unit, top = rng.choice(
        (("days", 60), ("weeks", 30), ("months", 48), ("hours", 90), ("years", 12))
    )
    number = rng.randint(2, top)
    word = NUMBER_WORDS[number - 2] if number <= 10 and rng.random() < 0.4 else str(number)
    return f"{word} working {unit}" if unit == "days" and rng.random() < 0.25 else f"{word} {unit}"


def counted(
    unit: str, low: int, high: int, decimals: float = 0.0
) -> Callable[[random.Random, str], str]:
    """A value type "N unit" with N in [low, high]; small numbers are sometimes written as words."""

    def draw(rng: random.Random, split: str) -> str:
        number = rng.randint(low, high)
        if rng.random() < decimals:
            return f"{number}.{rng.randint(1, 9)} {unit}"
        return (
            f"{NUMBER_WORDS[number - 2]} {unit}"
            if 2 <= number <= 10 and rng.random() < 0.2
            else f"{number} {unit}"
        )

    return draw


def _pick(options: Sequence[str]) -> Callable[[random.Random, str], str]:
    return lambda rng, split: rng.choice(options)


VALUE_TYPES: dict[str, Callable[[random.Random, str], str]] = {
    "person": person,
    "place": place,
    "code": code,
    "clock": clock,
    "goods": goods,
    "room": room,
    "location": location,
    "vesselname": vessel_name,
    "languages": languages,
    "countnoun": count_noun,
    "euros": euros,
    "extension": extension,
    "span": span,
    "job": job,
    "daymonth": day_month,
    "year": lambda rng, split: str(rng.randint(1700, 2039)),
    "date": lambda rng, split: (
        f"{rng.randint(1, 28)} {rng.choice(MONTHS)} {rng.randint(1860, 2039)}"
    ),
    "role": lambda rng, split: f"the {rng.choice(ROLES)}",
    "percent": lambda rng, split: f"{rng.randint(2, 60)}{rng.choice((' per cent', '%', ' %'))}",
    "material": _pick(words("materials")),
    "colour": _pick(words("colours")),
    "weekday": _pick(WEEKDAYS),
    "month": _pick(MONTHS),
    "food": _pick(words("food")),
    "prize": _pick(words("prizes")),
    "days": counted("days", 2, 60),
    "kg": counted("kg", 2, 990, 0.1),
    "metres": counted("metres", 3, 900, 0.1),
    "degrees": counted("degrees", 2, 180),
    "minutes": counted("minutes", 3, 95),
    "people": counted("people", 2, 990),
    "litres": counted("litres", 2, 500, 0.1),
    "rooms": counted("rooms", 2, 90),
    "knots": counted("knots", 3, 40, 0.1),
    "kilowatts": counted("kilowatts", 2, 90, 0.2),
    "years": counted("years", 20, 900),
    "sqm": counted("square metres", 9, 990),
}
