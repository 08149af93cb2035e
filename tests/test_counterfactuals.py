"""The answer is exchanged in every chunk and as the target together, or nothing is."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from test_context_layouts import ABSTAIN, CHUNKS, HITS, LAYOUT, count, pair, render

from rag_ft.training.generator.context_layouts import Context, build_contexts, fit_to_length
from rag_ft.training.generator.counterfactuals import answers_by_form, counterfactual, form_of

ALWAYS = dataclasses.replace(LAYOUT, gold_share=1.0, counterfactual_share=1.0)
YEARS = ["1871", "1902", "1755", "2013", "14 km", "Ada Lane"]
ANSWERS = answers_by_form([pair(n, answers=(year,)) for n, year in enumerate(YEARS)])


def context(number: int = 0, **changes: Any) -> Context:
    found = build_contexts(pair(number, **changes), HITS, CHUNKS, ALWAYS)
    assert isinstance(found, list)
    return found[0]


def test_the_answer_is_exchanged_in_all_chunks_and_as_the_target() -> None:
    before, after = context(), counterfactual(context(), ANSWERS, ALWAYS)
    assert after.kind == "counterfactual" and after.answer in YEARS[1:4]
    texts = {c.id: c.text for c in after.chunks}
    assert texts["d#0"] == f"The mill opened in {after.answer} by the river."
    assert texts["e#0"] == f"The bridge was built in {after.answer} too."
    assert [c.id for c in after.chunks] == [c.id for c in before.chunks]
    example = fit_to_length(after, render, ABSTAIN, count, ALWAYS)
    assert (example.kind, example.answer) == ("counterfactual", after.answer)  # type: ignore[union-attr]
    # The chunks of the other examples stay as they are.
    assert CHUNKS["d#0"].text == "The mill opened in 1871 by the river."


def test_each_pass_draws_anew_which_examples_are_changed() -> None:
    half = dataclasses.replace(ALWAYS, counterfactual_share=0.5)
    passes = [dataclasses.replace(half, arrangement=number) for number in (0, 1)]
    drawn = [
        [counterfactual(context(n), ANSWERS, layout).kind for n in range(400)] for layout in passes
    ]
    assert 150 < drawn[0].count("counterfactual") < 250 and drawn[0] != drawn[1]
    assert counterfactual(context(), ANSWERS, LAYOUT) == context(), "off by default"


@pytest.mark.parametrize(
    "changes",
    [
        {"question": "Was it in 1871 that the mill opened?"},
        {"answers": ("the year 1871",)},  # not word for word in the chunk
        {"answers": ("14 km",)},  # no other answer of that form
    ],
)
def test_what_cannot_be_exchanged_everywhere_stays(changes: dict[str, Any]) -> None:
    assert counterfactual(context(**changes), ANSWERS, ALWAYS).kind == "answer"


def test_an_answer_that_a_heading_names_stays() -> None:
    shown = context()
    titled = [dataclasses.replace(c, headings=("News of 1871",)) for c in shown.chunks]
    shown = dataclasses.replace(shown, chunks=tuple(titled))
    assert counterfactual(shown, ANSWERS, ALWAYS) == shown


def test_a_context_to_abstain_from_stays() -> None:
    withheld = dataclasses.replace(context(), answer=None)
    assert counterfactual(withheld, ANSWERS, ALWAYS) == withheld


def test_answers_of_one_form_fit_into_the_same_sentence() -> None:
    assert form_of("25 minutes") == form_of("14 years") != form_of("14 km")
    assert form_of("Hedda Corliss") == form_of("Ada Lane") != form_of("Ada")
    assert form_of("三月") == form_of("五月") != form_of("十一月")
    assert form_of("SC-63") == form_of("MBT-641")
