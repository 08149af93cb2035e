"""Questions about facts, questions without an answer, and which fact a question asks for."""

import random
from dataclasses import replace

from . import grammar
from .facts import Fact, Passage, Style
from .grammar import Entity, Relation


def templates_of(relation: Relation | None, paraphrases: str) -> tuple[str, ...]:
    """The question templates of a relation (None: generic attribute) in the given split of paraphrases."""
    held = paraphrases in ("held", "held questions")
    if relation is None:
        return grammar.ATTRIBUTE_QUESTIONS[-1:] if held else grammar.ATTRIBUTE_QUESTIONS[:-1]
    return relation.held_questions if held else relation.questions


def ask(rng: random.Random, entity: Entity, relation: Relation | None, attribute: str, paraphrases: str) -> str:
    """A question that names the entity in full."""
    template = grammar.choose_alternatives(rng, rng.choice(templates_of(relation, paraphrases)))
    return grammar.capitalise(grammar.fill(template, entity.name, entity.name + "'s", attribute=attribute))


def question_for(rng: random.Random, fact: Fact, paraphrases: str = "train") -> str:
    """A question the fact answers."""
    return ask(rng, fact.entity, fact.relation, fact.attribute, paraphrases)


def unanswerable(rng: random.Random, passages: list[Passage], style: Style) -> str:
    """A question the passages do not answer: absent relation, absent attribute, or an entity that is not there."""
    passage = rng.choice(passages)
    entity, domain = rng.choice(passage.entities)
    known = {f.key for p in passages for f in p.facts if f.entity.name == entity.name}
    pick = rng.random()
    absent = [r for r in style.allowed(domain) if r.name not in known]
    if pick < 0.55 and absent:
        elsewhere = {f.key for p in passages for f in p.facts}
        tempting = [r for r in absent if r.name in elsewhere]  # stated, but of another entity
        return ask(rng, entity, rng.choice(tempting or absent), "", style.paraphrases)
    if pick < 0.68 or not passage.facts:
        unused = [a for a in grammar.ATTRIBUTES if "attribute:" + a not in known]
        return ask(rng, entity, None, rng.choice(unused), style.paraphrases)
    return _about_a_stranger(rng, rng.choice(passage.facts), style)


def _about_a_stranger(rng: random.Random, fact: Fact, style: Style) -> str:
    kind = fact.entity.name.split()[-1].capitalize()
    domain = grammar.load_domains()[fact.domain]
    stranger = grammar.make_entity(rng, domain, style.split, kind if kind in domain.kinds else "")
    return question_for(rng, replace(fact, entity=stranger), style.paraphrases)


def asked_fact(question: str, passage: Passage) -> Fact | None:
    """The fact a question asks for by the grammar, None when no template matches."""
    for fact in passage.facts:
        templates = templates_of(fact.relation, "train") + templates_of(fact.relation, "held")
        if grammar.question_matches(question, templates, fact.entity.name, fact.attribute):
            return fact
    return None
