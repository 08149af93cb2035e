"""Questions about facts, questions without an answer, and which fact a question asks for."""

import random
from dataclasses import replace

from . import grammar, rephrase
from .facts import Fact, Passage, Style
from .grammar import Entity, Relation

PLAIN = Style()


def templates_of(relation: Relation | None, paraphrases: str) -> tuple[str, ...]:
    """The question templates of a relation (None: generic attribute) in the given split of
    paraphrases."""
    held = paraphrases in ("held", "held questions")
    if relation is None:
        return grammar.ATTRIBUTE_QUESTIONS[-1:] if held else grammar.ATTRIBUTE_QUESTIONS[:-1]
    return relation.held_questions if held else relation.questions


def ask(
    rng: random.Random, entity: Entity, relation: Relation | None, attribute: str, style: Style
) -> str:
    """A question that names the entity in full."""
    options = templates_of(relation, style.paraphrases)
    if style.varied and rng.random() < style.varied:
        it = "it" if entity.possessive == "its" else "this person"
        template = rephrase.question(rng, relation, options, it)
    else:
        template = grammar.choose_alternatives(rng, rng.choice(options))
    name = rephrase.mention(rng, entity) if style.varied else entity.name
    return grammar.capitalise(grammar.fill(template, name, name + "'s", attribute=attribute))


def question_for(rng: random.Random, fact: Fact, style: Style = PLAIN) -> str:
    """A question the fact answers."""
    return ask(rng, fact.entity, fact.relation, fact.attribute, style)


def unanswerable(
    rng: random.Random, passages: list[Passage], style: Style, tempting: bool = True
) -> str:
    """A question the passages do not answer: absent relation, absent attribute, or an entity that
    is not there.

    `tempting` prefers relations that are stated of another entity (hard to refuse); without it they
    are avoided, which is what a writer of unanswerable questions can learn.
    """
    passage = rng.choice(passages)
    entity, domain = rng.choice(passage.entities)
    pick = rng.random()
    absent = _absent_relations(passages, entity, style.allowed(domain), tempting)
    if style.varied and rng.random() < 0.4:  # one whose answer would look like one that is stated
        types = {f.relation.value_type for f in passage.facts if f.relation}
        absent = [r for r in absent if r.value_type in types] or absent
    if pick < 0.55 and absent:
        return ask(rng, entity, rng.choice(absent), "", style)
    if pick < (0.68 if tempting else 0.85) or not passage.facts:
        unused = [
            a
            for a in grammar.ATTRIBUTES
            if all("attribute:" + a != f.key for p in passages for f in p.facts)
        ]
        return ask(rng, entity, None, rng.choice(unused), style)
    return _about_a_stranger(rng, rng.choice(passage.facts), style)


def _absent_relations(
    passages: list[Passage], entity: Entity, allowed: list[Relation], tempting: bool
) -> list[Relation]:
    known = {f.key for p in passages for f in p.facts if f.entity.name == entity.name}
    elsewhere = {f.key for p in passages for f in p.facts}
    absent = [r for r in allowed if r.name not in known]
    if not tempting:
        return [r for r in absent if r.name not in elsewhere]
    return [r for r in absent if r.name in elsewhere] or absent


def _about_a_stranger(rng: random.Random, fact: Fact, style: Style) -> str:
    kind = fact.entity.name.split()[-1].capitalize()
    domain = grammar.load_domains()[fact.domain]
    stranger = grammar.make_entity(rng, domain, style.split, kind if kind in domain.kinds else "")
    if style.varied and rng.random() < 0.4:
        stranger = rephrase.namesake(rng, fact.entity, stranger)
    return question_for(rng, replace(fact, entity=stranger), style)


def asked_fact(question: str, passage: Passage) -> Fact | None:
    """The fact a question asks for by the grammar, None when no template matches."""
    for fact in passage.facts:
        templates = templates_of(fact.relation, "train") + templates_of(fact.relation, "held")
        if grammar.question_matches(question, templates, fact.entity.name, fact.attribute):
            return fact
    return None
