"""Writes passages: entities, their facts, filler and the layouts real documents have."""

import random
from dataclasses import dataclass, field

from . import filler, grammar, names, rephrase
from .facts import Fact, Key, Passage, Style
from .grammar import Domain, Entity, Relation
from .wordlists import words

LEADS = [lead + " " for lead in words("leads")]
TAILS = [tail.replace("_", " ") if tail[0] == "_" else tail for tail in words("tails")]
SECTIONS = words("sections")
LAYOUTS = (
    "- {k}: {v}",
    "- {k}: {v}",
    "{k}: {v}",
    "{k}: {v}.",
    "* {k}: {v}",
    "{k} | {v}",
    "{k} - {v}",
)
HEADING_SHARE = 0.15  # of the entities no title names, how many get a heading line of their own


def _attribute(rng: random.Random, wanted: list[str]) -> str:
    shared = [w.split(":", 1)[1] for w in wanted if w.startswith("attribute:")]
    if shared and rng.random() < 0.5:
        return rng.choice(shared)
    if rng.random() < 0.2:
        return names.syllable(rng) + names.syllable(rng)
    return rng.choice(grammar.ATTRIBUTES)


def _draw_keys(
    rng: random.Random, domain: Domain, style: Style, number: int, wanted: list[str]
) -> list[Key]:
    relations = style.allowed(domain)
    rng.shuffle(relations)
    relations.sort(key=lambda r: r.name not in wanted)
    keys: list[Key] = []
    for _ in range(number):
        if relations and rng.random() >= style.attribute:
            keys.append(relations.pop(0))
        else:
            keys.append(_attribute(rng, wanted))
    keys = list(dict.fromkeys(keys))
    rng.shuffle(keys)
    return keys


def _value(rng: random.Random, key: Key, split: str) -> str:
    kind = key.value_type if isinstance(key, Relation) else rng.choice(grammar.ATTRIBUTE_TYPES)
    return names.VALUE_TYPES[kind](rng, split)


def _statement(rng: random.Random, key: Key, style: Style) -> str:
    held = style.paraphrases in ("held", "held statements")
    if isinstance(key, str):
        options = grammar.ATTRIBUTE_STATEMENTS[-1:] if held else grammar.ATTRIBUTE_STATEMENTS[:-1]
    else:
        options = key.held_statements if held else key.statements
    if style.varied and rng.random() < style.varied:
        return rephrase.statement(rng, key if isinstance(key, Relation) else None, options)
    return grammar.choose_alternatives(rng, rng.choice(options))


@dataclass
class _Group:
    """Writes what a passage says about one entity."""

    rng: random.Random
    entity: Entity
    domain: Domain
    style: Style
    parts: list[tuple[str, str]] = field(
        default_factory=list
    )  # separator before a sentence, the sentence
    facts: list[Fact] = field(default_factory=list)
    fillers: list[str] = field(default_factory=list)

    def write(self, number: int, wanted: list[str], introduced: bool) -> None:
        """Up to `number` facts, `wanted` ones first; `introduced` when a title names the entity
        already."""
        rng, style = self.rng, self.style
        keys = _draw_keys(rng, self.domain, style, number, wanted)
        pairs = [(key, _value(rng, key, style.split)) for key in keys]
        pairs = list({value: (key, value) for key, value in pairs}.values())
        if not introduced and rng.random() < HEADING_SHARE * (style.titled > 0):
            self._add(rng.choice(("", "", "# ", "## ")) + grammar.capitalise(self.entity.name))
            introduced = True
        heading = len(self.parts)
        listed = pairs[-rng.randint(1, len(pairs)) :] if rng.random() < style.listed else []
        self._prose(pairs[: len(pairs) - len(listed)], introduced and rng.random() < 0.5)
        if listed and len(self.parts) == heading and not introduced:
            opening = (
                rng.choice(("", "About ", "Facts about ", "Notes on "))
                + self.entity.name
                + rng.choice((":", ""))
            )
            self._add(grammar.capitalise(opening))
        self._listing(listed)
        if heading and len(self.parts) > 1:
            self.parts[1] = ("\n", self.parts[1][1])

    def text(self) -> str:
        """Everything written."""
        return "".join(separator + sentence for separator, sentence in self.parts)

    def _add(self, sentence: str, separator: str = " ") -> None:
        self.parts.append((separator if self.parts else "", sentence))

    def _add_fact(self, key: Key, value: str, sentence: str) -> None:
        relation, attribute = (key, "") if isinstance(key, Relation) else (None, key)
        written = (
            value if value in sentence else grammar.capitalise(value)
        )  # as the sentence spells it
        self.facts.append(
            Fact(self.entity, self.domain.name, relation, attribute, written, sentence)
        )

    def _prose(self, pairs: list[tuple[Key, str]], introduced: bool) -> None:
        position = 0
        while position < len(pairs):
            taken = [pairs[position]]
            text = self._state(*pairs[position], self._reference(introduced))
            if position + 1 < len(pairs) and self.rng.random() < self.style.joined:
                taken.append(pairs[position + 1])
                text = text[:-1] + self.rng.choice((", and ", " and ", "; "))
                text += self._state(
                    *pairs[position + 1], (self.entity.pronoun, self.entity.possessive)
                )
            sentence = self._decorate(text)
            self._add(sentence)
            for key, value in taken:
                self._add_fact(key, value, sentence)
            position, introduced = position + len(taken), True
            self._filler()

    def _reference(self, introduced: bool) -> tuple[str, str]:
        if introduced and self.rng.random() < self.style.pronoun:
            if self.rng.random() < 0.55:
                return self.entity.pronoun, self.entity.possessive
            return self.entity.short, self.entity.short + "'s"
        return self.entity.name, self.entity.name + "'s"

    def _state(self, key: Key, value: str, reference: tuple[str, str]) -> str:
        template = _statement(self.rng, key, self.style)
        if reference[0] in ("she", "he") and not template.startswith("{e}"):
            reference = (self.entity.short, reference[1])  # "the office of she" is no English
        return grammar.fill(template, *reference, value, key if isinstance(key, str) else "")

    def _decorate(self, text: str) -> str:
        if self.rng.random() < self.style.decorated:
            if self.rng.random() < 0.6:
                return self.rng.choice(LEADS) + text
            if "," not in text:
                return grammar.capitalise(text[:-1] + self.rng.choice(TAILS) + ".")
        return grammar.capitalise(text)

    def _filler(self) -> None:
        while self.rng.random() < self.style.filler:
            self.fillers.append(filler.sentence(self.rng, self.entity.name))
            self._add(self.fillers[-1])
            if self.rng.random() < 0.5:
                break

    def _label(self, key: Key) -> str:
        if isinstance(key, str):
            return grammar.capitalise(key)
        if key.labels and self.style.varied and self.rng.random() < 0.5:
            return grammar.capitalise(self.rng.choice(key.labels))
        return key.label

    def _listing(self, pairs: list[tuple[Key, str]]) -> None:
        layout = self.rng.choice(LAYOUTS)
        for key, value in pairs:
            label = self._label(key)
            line = layout.replace("{k}", label).replace("{v}", value)
            self._add(line, "\n")
            self._add_fact(key, value, line)


def _title(rng: random.Random, entity: Entity) -> str:
    name, section = grammar.capitalise(entity.name), rng.choice(SECTIONS)
    long = f"{section} > {rng.choice(SECTIONS)} > {name}"
    return rng.choice((f"{section} > {name}", f"{section} > {name}", name, section, long))


def _entities(
    rng: random.Random, domain: Domain, style: Style, kind: str
) -> list[tuple[Entity, Domain]]:
    found = []
    for index in range(rng.choice(style.entities)):
        same = index == 0 or domain.held or rng.random() < 0.6
        where = domain if same else rng.choice(grammar.domains_for(style.split))
        forced = kind if where is domain and index == 0 else ""
        found.append((grammar.make_entity(rng, where, style.split, forced), where))
    return found


def make_passage(
    rng: random.Random,
    domain: Domain,
    style: Style,
    wanted: list[str] | None = None,
    kind: str = "",
) -> Passage:
    """A passage about one to three entities; `wanted` facts come first, `kind` makes its first
    entity a sibling."""
    entities = _entities(rng, domain, style, kind)
    title = _title(rng, entities[0][0]) if rng.random() < style.titled else ""
    number = max(1, rng.randint(*style.facts) // len(entities))
    groups = [_Group(rng, entity, where, style) for entity, where in entities]
    for index, group in enumerate(groups):
        group.write(number, wanted or [], index == 0 and group.entity.name.lower() in title.lower())
    text = groups[0].text()
    for group in groups[1:]:
        text += rng.choice(("\n", "\n", " ")) if text.endswith(".") and "\n" not in text else "\n"
        text += group.text()
    return Passage(
        title,
        text,
        [f for g in groups for f in g.facts],
        [f for g in groups for f in g.fillers],
        entities,
    )


def sibling_set(
    rng: random.Random, domain: Domain, style: Style, number: int, sibling: float = 0.6
) -> list[Passage]:
    """`number` passages; with probability `sibling` the others are about entities of the same kind
    and relations."""
    first = make_passage(rng, domain, style)
    passages, similar = [first], rng.random() < sibling
    kind = first.entities[0][0].name.split()[-1] if rng.random() < 0.6 else ""
    kind = kind if kind in domain.kinds else ""
    for _ in range(number - 1):
        if similar:
            passages.append(make_passage(rng, domain, style, [f.key for f in first.facts], kind))
        else:
            other = domain if domain.held else rng.choice(grammar.domains_for(style.split))
            passages.append(make_passage(rng, other, style))
    rng.shuffle(passages)
    return passages
