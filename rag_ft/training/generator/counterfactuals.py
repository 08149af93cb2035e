"""Counterfactual examples: in some examples the answer is exchanged for the answer of another pair,
in the chunks and as the target.

What a model remembers of the documents is wrong there, so it learns to read (Longpre et al. 2021,
"Entity-Based Knowledge Conflicts in Question Answering"; Neeman et al. 2023, "DisentQA").
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from rag_ft.schema import QAPair
from rag_ft.text import is_unspaced
from rag_ft.training.generator.context_layouts import Context, LayoutSettings

Form = tuple[str, ...]
MIN_OTHERS = 3  # with fewer other answers of a form the model would learn these by heart
LONGEST_LITTLE_WORD = 3  # letters of "of", "the", "km"


def form_of(answer: str) -> Form:
    """What answers have in common that fit into the same sentence: for each word whether it begins
    with a digit or a capital, and little words themselves ("9 km" is no "9 words"). In scripts
    without spaces it is the number of characters."""
    if is_unspaced(answer):
        return (str(len(answer)),)
    return tuple(_form_of_word(word) for word in answer.split())


def _form_of_word(word: str) -> str:
    if word[0].isdigit():
        return "9"
    if word[0].isupper():
        return "A"
    return word if len(word) <= LONGEST_LITTLE_WORD else "a"


def answers_by_form(pairs: Iterable[QAPair]) -> dict[Form, list[str]]:
    """The answers of the pairs that have one."""
    found: defaultdict[Form, set[str]] = defaultdict(set)
    for pair in pairs:
        if pair.answerable:
            found[form_of(pair.answer)].add(pair.answer)
    return {form: sorted(answers) for form, answers in found.items()}


def counterfactual(
    context: Context, answers: Mapping[Form, Sequence[str]], layout: LayoutSettings
) -> Context:
    """The context with another answer, for `layout.counterfactual_share` of those that have one.

    It stays as it is where the answer does not stand in a chunk word for word, where question or
    headings name it, or where fewer than MIN_OTHERS other answers have its form.
    """
    answer, rng = context.answer, layout.rng(f"{context.id}:counterfactual")
    if answer is None or rng.random() >= layout.counterfactual_share:
        return context
    others = [other for other in answers.get(form_of(answer), ()) if other != answer]
    escaped = re.escape(answer)
    pattern = re.compile(escaped if is_unspaced(answer) else rf"(?<!\w){escaped}(?!\w)")
    named = (text for c in context.chunks for text in (c.title, *c.headings))
    is_named = any(pattern.search(text) for text in (context.question, *named))
    in_chunk = any(pattern.search(c.text) for c in context.chunks if c.id in context.needed)
    if len(others) < MIN_OTHERS or is_named or not in_chunk:
        return context

    other = rng.choice(others)

    def exchanged(text: str) -> str:
        return pattern.sub(lambda _: other, text)

    return replace(
        context,
        chunks=tuple(replace(chunk, text=exchanged(chunk.text)) for chunk in context.chunks),
        answer=other,
        quote=exchanged(context.quote),
        kind="counterfactual",
    )
