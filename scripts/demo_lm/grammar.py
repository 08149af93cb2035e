"""Reads relations.txt and turns it into entities, statements and questions."""

import random
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from . import names
from .wordlists import words

_ALTERNATIVES = re.compile(r"\[([^\]]*)\]")
Lines = dict[str, list[str]]  # by the letter they begin with
ATTRIBUTES = words("attributes")
ATTRIBUTE_TYPES = (
    "person",
    "year",
    "code",
    "clock",
    "place",
    "date",
    "kg",
    "metres",
    "material",
    "colour",
    "weekday",
    "minutes",
    "euros",
    "span",
    "room",
    "location",
    "goods",
    "people",
    "role",
)
ATTRIBUTE_STATEMENTS = (
    "the {a} of {e} is {v}.",
    "the {a} of {e} [remains|was set as|is listed as|has always been] {v}.",
    "{p} {a} is {v}.",
    "as for the {a} of {e}, it is {v}.",
    "for {e} the {a} is {v}.",
    "{e} has {v} as its {a}.",
    "{v} is the {a} of {e}.",
    "the {a} [given|named|recorded] for {e} is {v}.",
    "in the register the {a} of {e} is {v}.",
    "the books give {v} as the {a} of {e}.",
)
ATTRIBUTE_QUESTIONS = (
    "what is the {a} of {e}?",
    "what is {p} {a}?",
    "which {a} does {e} have?",
    "what {a} is [listed|given|recorded] for {e}?",
    "what do the books give as the {a} of {e}?",
    "for {e}, what is the {a}?",
)


@dataclass(frozen=True)
class Relation:
    """One kind of fact. The held-out statements and questions are the last ones of their tuples."""

    name: str
    value_type: str
    label: str
    statements: tuple[str, ...]
    held_statements: tuple[str, ...]
    questions: tuple[str, ...]
    held_questions: tuple[str, ...]
    held: bool = False
    # In training only, see rephrase.py:
    labels: tuple[str, ...] = ()
    more_statements: tuple[str, ...] = ()
    more_questions: tuple[str, ...] = ()


@dataclass(frozen=True)
class Domain:
    """Entities of one kind and the relations they may have."""

    name: str
    kinds: tuple[str, ...]
    words: tuple[str, ...]
    common: tuple[str, ...]
    held: bool
    relations: tuple[Relation, ...]


@dataclass(frozen=True)
class Entity:
    """A named thing: `name` is what questions use, `short` a reference by kind ("the barge"),
    `pronoun` it or they."""

    name: str
    short: str
    pronoun: str
    possessive: str


def _relation(domain: str, block: list[str], paraphrases: dict[str, Lines]) -> Relation:
    name, value_type, label = (part.strip() for part in block[0].split(":"))
    more = paraphrases.get(f"{domain}.{name}", {})
    lines: dict[str, list[str]] = {"s": [], "S": [], "q": [], "Q": []}
    for line in block[1:]:
        lines[line[0]].append(line[2:].strip())
    return Relation(
        name.rstrip("*"),
        value_type,
        label,
        tuple(lines["s"]),
        tuple(lines["S"]),
        tuple(lines["q"]),
        tuple(lines["Q"]),
        name.endswith("*"),
        tuple(more.get("l", ())),
        tuple(more.get("t", ())),
        tuple(more.get("u", ())),
    )


def _paraphrases() -> dict[str, Lines]:
    """paraphrases.txt: the lines of each kind (l, t, u) by "domain.relation"."""
    text = Path(__file__).with_name("paraphrases.txt").read_text(encoding="utf-8")
    found: dict[str, Lines] = {}
    for section in text.split("\n== ")[1:]:
        head, *lines = [line.strip() for line in section.splitlines() if line.strip()]
        kinds = found.setdefault(head, {"l": [], "t": [], "u": []})
        for line in lines:
            kinds[line[0]].append(line[2:])
    return found


def _domain(section: str, more: dict[str, Lines]) -> Domain:
    head, *lines = [line for line in section.splitlines() if line.strip()]
    parts = [part.strip() for part in head.split("|")]
    blocks: list[list[str]] = []
    for line in lines:
        if line[1] != " ":
            blocks.append([])
        blocks[-1].append(line)
    columns = [tuple(part.split()) if part != "-" else () for part in parts[1:4]]
    return Domain(
        parts[0],
        columns[0],
        columns[1],
        columns[2],
        len(parts) > 4,
        tuple(_relation(parts[0], block, more) for block in blocks),
    )


@cache
def load_domains() -> dict[str, Domain]:
    """All domains of relations.txt by name."""
    text = Path(__file__).with_name("relations.txt").read_text(encoding="utf-8")
    more = _paraphrases()
    domains = [_domain(section, more) for section in text.split("\n== ")[1:]]
    return {domain.name: domain for domain in domains}


def domains_for(split: str, held: bool = False) -> list[Domain]:
    """The domains trained on, or (held) the ones kept back for tuning."""
    return [domain for domain in load_domains().values() if domain.held == held]


def _person_entity(rng: random.Random, split: str) -> Entity:
    name = names.person(rng, split)
    pronoun = rng.choice(("she", "he", "they"))
    title = rng.choice(
        {"she": ("Ms ", "Mrs ", "", ""), "he": ("Mr ", "", ""), "they": ("Dr ", "")}[pronoun]
    )
    possessive = {"she": "her", "he": "his", "they": "their"}[pronoun]
    return Entity(
        name,
        title + name.split()[-1],
        pronoun if pronoun != "they" else title + name.split()[-1],
        possessive,
    )


def _supplier_entity(rng: random.Random, split: str, domain: Domain) -> Entity:
    name = names.invented(rng, split)
    pick = rng.random()
    full = (
        f"{name} & {names.invented(rng, split)}"
        if pick < 0.15
        else f"{name} {rng.choice(domain.kinds)}"
    )
    return Entity(
        f"{name} & Sons" if pick > 0.92 else full, f"the {rng.choice(domain.words)}", "it", "its"
    )


def make_entity(rng: random.Random, domain: Domain, split: str, kind: str = "") -> Entity:
    """A new entity, its name drawn from the split; `kind` forces a sibling of the same kind."""
    if domain.name == "person":
        return _person_entity(rng, split)
    if domain.name == "supplier":
        return _supplier_entity(rng, split, domain)
    kind = kind or rng.choice(domain.kinds)
    first = names.invented(rng, split)
    pick = rng.random()
    if split == "train" and pick < 0.12:
        first = rng.choice(domain.common)
    elif pick < 0.24:
        first = f"{first} {rng.choice(domain.common)}"
    if domain.name in ("lodging", "building") and rng.random() < 0.3 and " " not in first:
        return Entity(f"{first} {kind}", f"the {kind.lower()}", "it", "its")
    written = kind.lower() if rng.random() < 0.2 else kind
    return Entity(
        f"the {first} {written}",
        f"the {rng.choice((kind.lower(), kind.lower(), *domain.words))}",
        "it",
        "its",
    )


def choose_alternatives(rng: random.Random, template: str) -> str:
    """Resolves every [a|b] of a template."""
    return _ALTERNATIVES.sub(lambda match: rng.choice(match.group(1).split("|")), template)


def capitalise(text: str) -> str:
    """Upper-cases the first letter only."""
    return text[:1].upper() + text[1:]


def fill(template: str, name: str, possessive: str, value: str = "", attribute: str = "") -> str:
    """Fills the slots of a template whose alternatives are resolved."""
    return (
        template.replace("{p}", possessive)
        .replace("{e}", name)
        .replace("{v}", value)
        .replace("{a}", attribute)
    )


def _alternatives_pattern(escaped: str) -> str:
    return re.sub(r"\\\[(.*?)\\\]", lambda m: "(?:" + m.group(1).replace(r"\|", "|") + ")", escaped)


def question_matches(
    question: str, templates: tuple[str, ...], name: str, attribute: str = ""
) -> bool:
    """Whether the question is an instance of one of the templates for this entity."""
    for template in templates:
        escaped = fill(
            re.escape(template).replace(r"\{", "{").replace(r"\}", "}"),
            re.escape(name),
            re.escape(name + "'s"),
            "",
            re.escape(attribute),
        )
        if re.fullmatch(_alternatives_pattern(escaped), question.strip(), re.IGNORECASE):
            return True
    return False
