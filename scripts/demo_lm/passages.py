"""Passages: entities, their facts, filler and the layouts real documents have."""

import random
import re
from dataclasses import dataclass, field, replace

from . import filler, grammar, names
from .grammar import Domain, Entity, Relation
from .wordlists import words

LEADS = [lead + " " for lead in words("leads")]
TAILS = [tail.replace("_", " ") if tail[0] == "_" else tail for tail in words("tails")]
QUESTION_LEADS = (
    "According to the text, ",
    "Tell me: ",
    "Please say: ",
    "From the context: ",
    "I would like to know: ",
)
SECTIONS = words("sections")


@dataclass(frozen=True)
class Fact:
    """One thing a passage states. `answer` is spelled as in the text, `sentence` is the line that states it."""

    entity: Entity
    domain: str
    relation: Relation | None
    attribute: str
    answer: str
    sentence: str

    @property
    def key(self) -> str:
        """Identifies what is asked, whatever the entity."""
        return self.relation.name if self.relation else "attribute:" + self.attribute


@dataclass(frozen=True)
class Style:
    """How hard passages are. `held` chooses the paraphrases: train or held."""

    facts: tuple[int, int] = (3, 6)
    entities: tuple[int, ...] = (1,)
    pronoun: float = 0.45
    filler: float = 0.45
    attribute: float = 0.25
    decorated: float = 0.25
    listed: float = 0.15
    joined: float = 0.07
    titled: float = 0.5
    paraphrases: str = "train"
    relations: str = "train"
    split: str = "train"


@dataclass
class Passage:
    """A chunk of text with its ground truth."""

    title: str
    text: str
    facts: list[Fact]
    fillers: list[str]
    entities: list[tuple[Entity, Domain]] = field(default_factory=list)

    @property
    def with_title(self) -> str:
        """Heading line and text."""
        return f"{self.title}\n{self.text}" if self.title else self.text


def allowed_relations(domain: Domain, style: Style) -> list[Relation]:
    """The relations a style may use: those trained on, the held-out ones, or all of a held-out domain."""
    if domain.held:
        return list(domain.relations)
    return [r for r in domain.relations if r.held == (style.relations == "held")]


def _draw_keys(
    rng: random.Random, domain: Domain, style: Style, number: int, wanted: list[str]
) -> list[Relation | str]:
    relations = allowed_relations(domain, style)
    rng.shuffle(relations)
    relations.sort(key=lambda r: r.name not in wanted)
    keys: list[Relation | str] = []
    for _ in range(number):
        if relations and rng.random() >= style.attribute:
            keys.append(relations.pop(0))
        else:
            keys.append(_attribute(rng, wanted))
    return keys


def _attribute(rng: random.Random, wanted: list[str]) -> str:
    shared = [w.split(":", 1)[1] for w in wanted if w.startswith("attribute:")]
    if shared and rng.random() < 0.5:
        return rng.choice(shared)
    if rng.random() < 0.2:
        return names.syllable(rng) + names.syllable(rng)
    return rng.choice(grammar.ATTRIBUTES)


def _statement(rng: random.Random, relation: Relation | None, style: Style) -> str:
    held = style.paraphrases == "held"
    if relation is None:
        options = grammar.ATTRIBUTE_STATEMENTS[-1:] if held else grammar.ATTRIBUTE_STATEMENTS[:-1]
    else:
        options = relation.held_statements if held else relation.statements
    return grammar.choose_alternatives(rng, rng.choice(options))


def question_templates(fact_relation: Relation | None, paraphrases: str) -> tuple[str, ...]:
    """The question templates of a relation (None: generic attribute) in the given split of paraphrases."""
    if fact_relation is None:
        return grammar.ATTRIBUTE_QUESTIONS[-1:] if paraphrases == "held" else grammar.ATTRIBUTE_QUESTIONS[:-1]
    return fact_relation.held_questions if paraphrases == "held" else fact_relation.questions


def ask(rng: random.Random, entity: Entity, relation: Relation | None, attribute: str, paraphrases: str) -> str:
    """A question that names the entity in full."""
    template = grammar.choose_alternatives(rng, rng.choice(question_templates(relation, paraphrases)))
    return grammar.capitalise(grammar.fill(template, entity.name, entity.name + "'s", attribute=attribute))


def question_for(rng: random.Random, fact: Fact, paraphrases: str = "train") -> str:
    """A question the fact answers."""
    return ask(rng, fact.entity, fact.relation, fact.attribute, paraphrases)


def _reference(rng: random.Random, entity: Entity, style: Style, introduced: bool) -> tuple[str, str]:
    if introduced and rng.random() < style.pronoun:
        if rng.random() < 0.55:
            return entity.pronoun, entity.possessive
        return entity.short, entity.short + "'s"
    return entity.name, entity.name + "'s"


def _decorate(rng: random.Random, text: str, style: Style) -> str:
    if rng.random() < style.decorated:
        pick = rng.random()
        if pick < 0.6:
            return rng.choice(LEADS) + text
        if "," not in text:
            return grammar.capitalise(text[:-1] + rng.choice(TAILS) + ".")
    return grammar.capitalise(text)


def _as_written(sentence: str, value: str) -> str:
    """The value as the sentence spells it (its first letter may have been capitalised)."""
    return value if value in sentence else grammar.capitalise(value)


def _value(rng: random.Random, key: Relation | str, split: str) -> str:
    kind = key.value_type if isinstance(key, Relation) else rng.choice(grammar.ATTRIBUTE_TYPES)
    return names.VALUE_TYPES[kind](rng, split)


def _state(
    rng: random.Random, key: Relation | str, reference: tuple[str, str], value: str, style: Style, short: str
) -> str:
    relation = key if isinstance(key, Relation) else None
    template = _statement(rng, relation, style)
    if reference[0] in ("she", "he") and not template.startswith("{e}"):
        reference = (short, reference[1])  # "the office of she" is no English
    return grammar.fill(template, *reference, value, "" if relation else str(key))


def _fact(entity: Entity, domain: Domain, key: Relation | str, value: str, sentence: str) -> Fact:
    relation = key if isinstance(key, Relation) else None
    return Fact(entity, domain.name, relation, "" if relation else str(key), _as_written(sentence, value), sentence)


def _listing(rng: random.Random, entity: Entity, domain: Domain, pairs: list[tuple[Relation | str, str]]) -> list[Fact]:
    layout = rng.choice(("- {k}: {v}", "- {k}: {v}", "{k}: {v}", "{k}: {v}.", "* {k}: {v}", "{k} | {v}", "{k} - {v}"))
    facts = []
    for key, value in pairs:
        label = key.label if isinstance(key, Relation) else grammar.capitalise(str(key))
        facts.append(_fact(entity, domain, key, value, layout.replace("{k}", label).replace("{v}", value)))
    return facts


@dataclass
class _Lines:
    """The sentences of one group and which of them start a new line."""

    parts: list[tuple[str, str]] = field(default_factory=list)  # (separator before, sentence)
    facts: list[Fact] = field(default_factory=list)
    fillers: list[str] = field(default_factory=list)

    def add(self, sentence: str, separator: str = " ") -> None:
        self.parts.append((separator if self.parts else "", sentence))

    def text(self) -> str:
        return "".join(separator + sentence for separator, sentence in self.parts)


def _add_filler(rng: random.Random, lines: _Lines, entity: Entity, style: Style) -> None:
    while rng.random() < style.filler:
        sentence = filler.sentence(rng, entity.name)
        lines.add(sentence)
        lines.fillers.append(sentence)
        if rng.random() < 0.5:
            break


def _prose(
    rng: random.Random,
    lines: _Lines,
    entity: Entity,
    domain: Domain,
    pairs: list[tuple[Relation | str, str]],
    style: Style,
    introduced: bool,
) -> None:
    position = 0
    while position < len(pairs):
        key, value = pairs[position]
        text = _state(rng, key, _reference(rng, entity, style, introduced), value, style, entity.short)
        taken = [(key, value)]
        if position + 1 < len(pairs) and rng.random() < style.joined:
            other, second = pairs[position + 1]
            taken.append((other, second))
            reference = (entity.pronoun, entity.possessive)
            text = (
                text[:-1]
                + rng.choice((", and ", " and ", "; "))
                + _state(rng, other, reference, second, style, entity.short)
            )
        sentence = _decorate(rng, text, style)
        lines.add(sentence)
        lines.facts += [_fact(entity, domain, k, v, sentence) for k, v in taken]
        position, introduced = position + len(taken), True
        _add_filler(rng, lines, entity, style)


def _group(
    rng: random.Random, entity: Entity, domain: Domain, style: Style, number: int, wanted: list[str], introduced: bool
) -> _Lines:
    keys = list(dict.fromkeys(_draw_keys(rng, domain, style, number, wanted)))
    rng.shuffle(keys)
    pairs = [(key, _value(rng, key, style.split)) for key in keys]
    pairs = list({value: (key, value) for key, value in pairs}.values())
    lines = _Lines()
    if not introduced and rng.random() < 0.15 * (style.titled > 0):
        lines.add(rng.choice(("", "", "# ", "## ")) + grammar.capitalise(entity.name))
        introduced = True
    listed = pairs[-rng.randint(1, len(pairs)) :] if rng.random() < style.listed else []
    heading = bool(lines.parts)
    body = _Lines()
    _prose(rng, body, entity, domain, pairs[: len(pairs) - len(listed)], style, introduced and rng.random() < 0.5)
    if listed and not body.parts and not introduced:
        body.add(rng.choice(("", "About ", "Facts about ", "Notes on ")) + entity.name + rng.choice((":", "")))
        body.parts[0] = ("", grammar.capitalise(body.parts[0][1]))
    for fact in _listing(rng, entity, domain, listed):
        body.add(fact.sentence, "\n")
        body.facts.append(fact)
    if heading and body.parts:
        body.parts[0] = ("\n", body.parts[0][1])
    body.parts = lines.parts + body.parts
    return body


def _title(rng: random.Random, entity: Entity) -> str:
    name, section = grammar.capitalise(entity.name), rng.choice(SECTIONS)
    return rng.choice(
        (f"{section} > {name}", f"{section} > {name}", name, section, f"{section} > {rng.choice(SECTIONS)} > {name}")
    )


def make_passage(
    rng: random.Random, domain: Domain, style: Style, wanted: list[str] | None = None, kind: str = ""
) -> Passage:
    """A passage about one to three entities; `wanted` facts come first, `kind` makes its first entity a sibling."""
    count = rng.choice(style.entities)
    pool = grammar.domains_for(style.split)
    entities: list[tuple[Entity, Domain]] = []
    for index in range(count):
        where = domain if index == 0 or domain.held or rng.random() < 0.6 else rng.choice(pool)
        entities.append(
            (grammar.make_entity(rng, where, style.split, kind if where is domain and index == 0 else ""), where)
        )
    title = _title(rng, entities[0][0]) if rng.random() < style.titled else ""
    number, groups = rng.randint(*style.facts), []
    for index, (entity, where) in enumerate(entities):
        share = max(1, number // count)
        titled = index == 0 and entity.name.lower() in title.lower()
        groups.append(_group(rng, entity, where, style, share, wanted or [], titled))
    text = groups[0].text()
    for group in groups[1:]:
        text += rng.choice(("\n", "\n", " ")) if text.endswith(".") and "\n" not in text else "\n"
        text += group.text()
    return Passage(title, text, [f for g in groups for f in g.facts], [f for g in groups for f in g.fillers], entities)


def sibling_set(rng: random.Random, domain: Domain, style: Style, number: int, sibling: float = 0.6) -> list[Passage]:
    """`number` passages; with probability `sibling` the others are about entities of the same kind and relations."""
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


def stated(passages: list[Passage], entity: Entity) -> set[str]:
    """What the passages say about an entity."""
    return {f.key for p in passages for f in p.facts if f.entity.name == entity.name}


def unanswerable(rng: random.Random, passages: list[Passage], style: Style) -> str:
    """A question the passages do not answer: absent relation, absent attribute, or an entity that is not there."""
    passage = rng.choice(passages)
    entity, domain = rng.choice(passage.entities)
    known, pick = stated(passages, entity), rng.random()
    absent = [r for r in allowed_relations(domain, style) if r.name not in known]
    elsewhere = {f.key for p in passages for f in p.facts}
    tempting = [r for r in absent if r.name in elsewhere]
    if pick < 0.55 and absent:
        return ask(rng, entity, rng.choice(tempting or absent), "", style.paraphrases)
    if pick < 0.68 or not passage.facts:
        unused = [a for a in grammar.ATTRIBUTES if "attribute:" + a not in known]
        return ask(rng, entity, None, rng.choice(unused), style.paraphrases)
    fact = rng.choice(passage.facts)
    kind = fact.entity.name.split()[-1].capitalize()
    where = grammar.load_domains()[fact.domain]
    stranger = grammar.make_entity(rng, where, style.split, kind if kind in where.kinds else "")
    return question_for(rng, replace(fact, entity=stranger), style.paraphrases)


def asked_fact(question: str, passage: Passage) -> Fact | None:
    """The fact a question asks for by the grammar, None when no template matches."""
    for fact in passage.facts:
        templates = question_templates(fact.relation, "train") + question_templates(fact.relation, "held")
        if grammar.question_matches(question, templates, fact.entity.name, fact.attribute):
            return fact
    return None


def word_count(text: str) -> int:
    """Words by white space."""
    return len(re.findall(r"\S+", text))
