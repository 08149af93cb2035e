"""Evaluation sets about entities the model has never seen, and the quick measure used while
training."""

import random
from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedTokenizerFast

from . import grammar, passages, tasks
from .batches import ANSWER, JSON, Encoded, encode_turns
from .facts import Passage, Style
from .model import DemoLM

EVAL_STYLE = Style(facts=(3, 6), entities=(1, 1, 2), filler=0.4, split="eval")


def _chunks(rng: random.Random, number: int, style: Style, held_domain: bool) -> list[Passage]:
    domain = rng.choice(grammar.domains_for("eval", held_domain))
    return passages.sibling_set(
        rng, domain, style if number == 1 else replace(style, facts=(2, 4)), number
    )


def qa_set(
    number: int,
    seed: int,
    chunks: int = 1,
    refusals: float = 0.0,
    held_domain: bool = False,
    style: Style = EVAL_STYLE,
) -> list[tasks.Turns]:
    """Single-turn answer items with unseen names."""
    rng = random.Random(seed)
    items: list[tasks.Turns] = []
    while len(items) < number:
        found = _chunks(rng, chunks, style, held_domain)
        if style.relations == "held" and not any(
            f.relation and f.relation.held for p in found for f in p.facts
        ):
            continue
        if style.relations == "held":
            for p in found:
                p.facts = [f for f in p.facts if f.relation and f.relation.held]
        items.append(tasks.answer_item(found, tasks.qa_turns(rng, found, style, 1, refusals)))
    return items


@dataclass(frozen=True)
class GenerationCase:
    """One generate prompt with what is needed to judge the reply."""

    prompt: str
    reference: str
    passage: Passage
    focus: str
    kind: str


def generation_set(number: int, seed: int, style: Style = EVAL_STYLE) -> list[GenerationCase]:
    """Generate prompts with unseen names."""
    rng = random.Random(seed)
    cases: list[GenerationCase] = []
    while len(cases) < number:
        passage = _chunks(rng, 1, style, False)[0]
        turns = tasks.generate_item(rng, passage, style, 1)
        if turns:
            focus, kind = turns[0][0].rsplit("\n\nSentence: ", 1)[1].rsplit("\nKind: ", 1)
            cases.append(GenerationCase(turns[0][0], turns[0][1], passage, focus, kind))
    return cases


def answer_sets(number: int) -> dict[str, list[tasks.Turns]]:
    """The named answer sets of the report."""
    known = replace(EVAL_STYLE, attribute=0.1)
    return {
        "one_passage": qa_set(number, 1),
        "three_passages": qa_set(number, 2, chunks=3),
        "unseen_statements": qa_set(
            number, 10, style=replace(known, attribute=0.0, paraphrases="held statements")
        ),
        "unseen_questions": qa_set(
            number, 11, style=replace(known, attribute=0.0, paraphrases="held questions")
        ),
        "unseen_paraphrases": qa_set(
            number, 3, style=replace(known, attribute=0.0, paraphrases="held")
        ),
        "held_relations": qa_set(number, 4, style=replace(known, relations="held", attribute=0.4)),
        "held_domain": qa_set(number, 5, held_domain=True, style=replace(known, attribute=0.0)),
        "refusals": qa_set(number, 6, refusals=1.0),
        "refusals_three": qa_set(number, 7, chunks=3, refusals=1.0),
    }


def quick_sets(tokenizer: PreTrainedTokenizerFast, number: int = 96) -> dict[str, list[Encoded]]:
    """Encoded sets for the log of a training run."""
    sets = answer_sets(number) | {
        "generate_exact": [[(c.prompt, c.reference)] for c in generation_set(number, 8)]
    }
    return {
        name: [encode_turns(tokenizer, turns) for turns in items] for name, items in sets.items()
    }


@torch.no_grad()
def teacher_forced(model: DemoLM, sets: dict[str, list[Encoded]]) -> dict[str, float]:
    """Share of replies of which every token is the most likely one (equals greedy exact match)."""
    return {
        name: round(sum(_all_right(model, item) for item in items) / len(items), 3)
        for name, items in sets.items()
    }


def _all_right(model: DemoLM, item: Encoded) -> bool:
    ids = torch.tensor(item[0])
    reply = (torch.tensor(item[1]) == ANSWER) | (torch.tensor(item[1]) == JSON)
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model(ids[None, :-1])[0][reply[1:]]
    return bool((model.logits(hidden.float()).argmax(-1) == ids[1:][reply[1:]]).all())
