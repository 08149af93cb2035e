"""Other words for statements and questions, for training only: grammar that fits every relation,
and the hand-written phrasings of paraphrases.txt.

Templates keep their slots ({e}, {p}, {v}, {a}), so that a rephrased one is filled like any other.
"""

import random
import re
from dataclasses import replace

from . import grammar
from .grammar import Entity, Relation
from .wordlists import words

_NOUN = re.compile(r"^the ([a-z ]{3,30}) (?:of|for|at|on) \{e\} (?:is|was|is given as) \{v\}\.$")
_AT_END = re.compile(
    r"^\{e\} ([^,{]+) (in|at|on|for|with|from|by|to|within|until|since|every|as) \{v\}\.$"
)
_FIRST = re.compile(r"^\{v\} ((?!is the|are|was).+)\.$")
_OBJECT = re.compile(r"^\{e\} (\w+s) \{v\}\.$")
_WHAT_IS = re.compile(r"^what is (the [^?{]+ \{e\}|\{p\} [^?{]+)\?$")
_DOES = re.compile(r"^(.+?) does \{e\} (\w+)(.*)\?$")
_AUXILIARY = re.compile(
    r"^(.+?) (is|was|are|can|must|may|should|will|has) "
    r"(\{e\}|\{p\} \w+|the [a-z]+ of \{e\}) ?(.*)\?$"
)
_SUBJECT = re.compile(r"^(?:who|what|which \w+) (?!is |was |are |does |did |do |can |must |may )")
_SYNONYMS = tuple(tuple(w.split(" = ")) for w in words("synonyms"))


def _third_person(verb: str) -> str:
    if verb == "have":
        return "has"
    if re.search(r"(s|sh|ch|x|o)$", verb):
        return verb + "es"
    return verb[:-1] + "ies" if re.search(r"[^aeiou]y$", verb) else verb + "s"


def _other_words(rng: random.Random, template: str) -> str:
    for old, new in rng.sample(_SYNONYMS, len(_SYNONYMS)):
        if rng.random() < 0.5:
            template = re.sub(rf"(?<![\w{{]){re.escape(old)}(?![\w}}])", new, template, count=1)
    return template


def _clause(rng: random.Random, template: str, value_type: str) -> str:
    """Another order of words for the shapes that most statements have."""
    if match := _NOUN.match(template):
        return rng.choice(words("noun statements")).replace("{n}", match[1])
    if match := _AT_END.match(template):
        rest, preposition = match[1], match[2]
        forms = [
            f"it is {preposition} {{v}} that {{e}} {rest}.",
            f"{preposition} {{v}} {{e}} {rest}.",
        ]
        if preposition in ("in", "at") and value_type in ("place", "location", "room"):
            forms += [f"{{v}} is where {{e}} {rest}.", f"the place where {{e}} {rest} is {{v}}."]
        if preposition == "by":
            forms += [f"{{v}} is the one by whom {{e}} {rest}."]
        return rng.choice(forms)
    if value_type in ("person", "role") and (match := _FIRST.match(template)):
        form = rng.choice(("it is {v} who %s.", "the one who %s is {v}.", "{v} is the one who %s."))
        return form % match[1]
    if match := _OBJECT.match(template):
        form = rng.choice(("what {e} %s is {v}.", "{v} is what {e} %s.", "it is {v} that {e} %s."))
        return form % match[1]
    return template


def _chosen(
    rng: random.Random,
    relation: Relation | None,
    further: tuple[str, ...],
    generic: tuple[str, ...],
    options: tuple[str, ...],
) -> str:
    """A template: a generic one with a label of the relation, a further one of the relation, or one
    of the options; now and then with synonyms."""
    labels = relation.labels if relation else ()
    if labels and rng.random() < 0.2:
        template = rng.choice(generic[:-1]).replace("{a}", rng.choice(labels))
    elif further and rng.random() < 0.6:
        template = rng.choice(further)
    else:
        template = rng.choice(options)
    template = grammar.choose_alternatives(rng, template)
    return _other_words(rng, template) if rng.random() < 0.4 else template


def statement(rng: random.Random, relation: Relation | None, options: tuple[str, ...]) -> str:
    """A statement template of the relation (None: generic attribute) in other words."""
    further = relation.more_statements if relation else ()
    template = _chosen(rng, relation, further, grammar.ATTRIBUTE_STATEMENTS, options)
    if rng.random() < 0.4:
        template = _clause(rng, template, relation.value_type if relation else "")
    if rng.random() < 0.12 and template.startswith("{e} "):
        template = "{e}" + rng.choice(words("insertions")).replace("_", " ") + template[3:]
    elif rng.random() < 0.15:
        template = rng.choice(words("that clauses")) + " " + template
    return template


def _indirect(template: str) -> str:
    """The question as a subordinate clause, or "" for a shape that is not known."""
    if match := _WHAT_IS.match(template):
        return f"what {match[1]} is"
    if match := _DOES.match(template):
        return f"{match[1]} {{e}} {_third_person(match[2])}{match[3]}"
    if match := _AUXILIARY.match(template):
        return f"{match[1]} {match[3]} {match[2]} {match[4]}".strip()
    return template[:-1] if _SUBJECT.match(template) else ""


def _opened(rng: random.Random, template: str) -> str:
    clause, pick = _indirect(template), rng.random()
    if (match := _WHAT_IS.match(template)) and pick < 0.4:
        return rng.choice(words("noun questions")).replace("{n}", match[1])
    if clause and pick < 0.7:
        opener = rng.choice(words("indirect openers"))
        return f"{opener} {clause}" + ("." if opener.startswith(("i ", "please")) else "?")
    if pick < 0.85:
        return rng.choice(words("question openers")) + " " + template
    return template[:-1] + rng.choice(words("question tails")).replace("_", " ") + "?"


def question(
    rng: random.Random, relation: Relation | None, options: tuple[str, ...], it: str
) -> str:
    """A question template in other words; `it` is how a second clause refers to the entity."""
    further = relation.more_questions if relation else ()
    template = _chosen(rng, relation, further, grammar.ATTRIBUTE_QUESTIONS, options)
    if rng.random() < 0.08 and template.count("{e}") + template.count("{p}") == 1:
        topic = rng.choice(words("topics"))
        template = topic + " " + template.replace("{e}", it).replace("{p}", f"{it}'s")
        return template.replace("it's", "its").replace("{t}", "{e}")
    if rng.random() < 0.35:
        template = _opened(rng, template)
    if rng.random() < 0.15:
        template = re.sub(r"^(what|who|where|when) is ", r"\1's ", template)
    return template


def mention(rng: random.Random, entity: Entity) -> str:
    """How a question names the entity: now and then without "the", or a person by title and
    surname or by first name."""
    if rng.random() > 0.15:
        return entity.name
    if entity.name.startswith("the "):
        return rng.choice(("", "our ", "this ")) + entity.name[4:]
    if entity.possessive == "its":
        return entity.name
    return rng.choice((entity.short, entity.name.split()[0]))


def namesake(rng: random.Random, entity: Entity, stranger: Entity) -> Entity:
    """The stranger under a name that shares its first or its last words with the entity's."""
    start, end = entity.name.rsplit(" ", 1), stranger.name.rsplit(" ", 1)
    if len(start) < 2 or len(end) < 2 or start[1].lower() == end[1].lower():
        return stranger
    name = f"{start[0]} {end[1]}" if rng.random() < 0.6 else f"{end[0]} {start[1]}"
    return replace(stranger, name=name, short=name)
