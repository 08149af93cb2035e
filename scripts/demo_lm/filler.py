"""Sentences that state nothing the grammar could ask: combinatorial prose and ordinary English
shipped with Python."""

import importlib
import inspect
import random
import re
from functools import cache

from .wordlists import words

_SENTENCE = re.compile(r"[A-Z][^.!?\n|`*_<>\\={}\[\]]{30,190}[.](?=\s|$)")
_SLOT = re.compile(r"\{(\w+)\}")


def _slot(rng: random.Random, key: str) -> str:
    if key == "people_bare":
        return rng.choice([p for p in words("filler people") if not p.startswith("the ")])
    word = rng.choice(words("filler " + key.lower()))
    return word[0].upper() + word[1:] if key[0].isupper() else word


def _expand(rng: random.Random, template: str) -> str:
    text = _SLOT.sub(lambda match: _slot(rng, match.group(1)), template)
    return re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text)


@cache
def english_sentences() -> tuple[str, ...]:
    """Ordinary English from Python's own topic help and docstrings (they state nothing about any
    entity)."""
    topics = importlib.import_module("pydoc_data.topics").topics
    texts = list(topics.values())
    for name in words("doc modules"):
        try:
            module = importlib.import_module(name)
        except ImportError:  # a build of Python without sqlite3 or tkinter
            continue
        objects = [module] + [
            value for key, value in sorted(vars(module).items()) if not key.startswith("_")
        ]
        texts += [inspect.getdoc(o) or "" for o in objects]
    found = (
        " ".join(s.split())
        for text in texts
        for s in _SENTENCE.findall(re.sub(r"(?<=\w)\n\s*(?=\w)", " ", text))
    )
    return tuple(sorted({s for s in found if 6 <= len(s.split()) <= 28 and s.isascii()}))


def sentence(rng: random.Random, entity: str = "") -> str:
    """One filler sentence; with an entity, a third of them mention it without stating a fact."""
    pick = rng.random()
    if entity and pick < 0.33:
        text = _expand(
            rng, rng.choice(words("filler about an entity")).replace("{e}", "\0")
        ).replace("\0", entity)
        return text[0].upper() + text[1:]
    if pick > 0.86:
        return rng.choice(english_sentences())
    return _expand(rng, rng.choice(words("filler templates")))
