"""Unanswerable questions made by exchanging names."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from rag_ft.config_loader import make_config
from rag_ft.generation.entity_swap import SWAPPED, Swaps, subject, swap_names
from rag_ft.generation.filters import Failure
from rag_ft.generation.round_trip import RoundTrip
from rag_ft.llm.interface import Reply
from rag_ft.prompts.answer_prompt import AnswerPrompt
from rag_ft.prompts.prompt_set import load_prompts
from rag_ft.schema import Chunk, Evidence, QAPair

ABSTAIN = "I don't know."


def pair(
    question: str, evidence: str, chunk: str = "d#0", kind: str = "factoid", document: str = "d"
) -> QAPair:
    return QAPair(
        id=question,
        question=question,
        answers=("x",),
        chunk_id=chunk,
        document_id=document,
        evidence=Evidence(evidence, 0, len(evidence)),
        kind=kind,  # type: ignore[arg-type]
        split="train",
        origin="generated",
        provenance={"chunk_id": chunk, "variant": 0, "model": "m"},
    )


MILL = pair("When was the Old Mill built?", "The Old Mill was built in 1790.")
STORE = pair("Who keeps the Mill Store?", "The Mill Store is kept by Ola Brand.", "d#1")
HALL = pair(
    "What does the Long Hall's roof weigh?", "The roof of the Long Hall weighs 9 tonnes.", "d#2"
)


@pytest.mark.parametrize(
    ("question", "evidence", "found"),
    [
        ("When was the Old Mill built?", "The Old Mill was built in 1790.", "Old Mill"),
        ("What is the Old Mill's height?", "The Old Mill is 9 metres high.", "Old Mill"),
        ("Who did Ola Brand of Sorrel marry?", "Ola Brand married Berit in Sorrel.", "Ola Brand"),
        ("Who won Super Bowl 50?", "The Broncos won Super Bowl 50.", "Super Bowl 50"),
        ("Who built the Old Mill?", "It was built by Per Holm.", None),
        ("Who built it?", "Per Holm built it.", None),
        ("Mill or Store?", "Mill or Store", "Store"),
        ("Of what is The Bell made?", "The bell, and The chain.", None),
        ("埃菲尔铁塔在哪里？", "埃菲尔铁塔位于法国首都巴黎。", None),
    ],
)
def test_what_a_question_is_about_is_its_longest_name_that_the_evidence_contains(
    question: str, evidence: str, found: str | None
) -> None:
    assert subject(pair(question, evidence)) == found


def test_a_swapped_question_asks_the_same_about_another_name_and_starts_at_its_chunk() -> None:
    made = swap_names([MILL, STORE, HALL], ABSTAIN, per_pair=9, seed=0)
    assert {m.question for m in made} == {
        "When was the Mill Store built?",
        "When was the Long Hall built?",
        "Who keeps the Old Mill?",
        "Who keeps the Long Hall?",
        "What does the Old Mill's roof weigh?",
        "What does the Mill Store's roof weigh?",
    }
    built = next(m for m in made if m.question == "When was the Mill Store built?")
    assert built.provenance["chunk_id"] == "d#1" and built.provenance[SWAPPED] == MILL.id
    assert (built.answers, built.chunk_id, built.evidence) == ((ABSTAIN,), None, None)
    assert (built.kind, built.split, built.document_id) == ("unanswerable", "train", "d")
    assert len({m.id for m in made}) == len(made)


def test_swaps_are_as_many_as_wished_and_the_same_for_a_seed() -> None:
    made = [
        swap_names([MILL, STORE, HALL], ABSTAIN, per_pair=1, seed=seed) for seed in (0, 0, 1, 2, 3)
    ]
    assert [len(m) for m in made] == [3] * 5
    assert made[0] == made[1]
    assert len({tuple(m.question for m in each) for each in made}) > 1


def test_nothing_is_asked_that_a_pair_asks_and_only_single_facts_are_swapped() -> None:
    asked = pair("Who keeps the Old Mill?", "The Old Mill is kept by Per Holm.")
    made = swap_names([MILL, STORE, asked], ABSTAIN, per_pair=9, seed=0)
    assert {m.question for m in made} == {"When was the Mill Store built?"}
    summary = dataclasses.replace(MILL, kind="summary")
    assert swap_names([summary, STORE], ABSTAIN, per_pair=9, seed=0) == []
    assert swap_names([MILL], ABSTAIN, per_pair=9, seed=0) == []


def test_a_name_within_the_other_is_not_exchanged_for_it() -> None:
    longer = pair("Who built the Old Mill Store?", "Per Holm built the Old Mill Store.")
    assert swap_names([MILL, longer], ABSTAIN, per_pair=9, seed=0) == []


TEXTS = {
    "d#0": "About the Old Mill.",
    "d#1": "About the Mill Store.",
    "d#2": "The Mill Store again.",
}


def test_candidates_follow_their_document_and_are_asked_of_each_chunk_that_names_the_other() -> (
    None
):
    class Search:
        def search(
            self, questions: list[str], k: int, mode: str | None = None, filters: Any = None
        ) -> list[list[tuple[str, float]]]:
            return [[("d#2", 1.0), ("d#1", 0.5)] for _ in questions]

    chunks = {i: Chunk(i, "d", "t", text, 0, 9, 3, "train") for i, text in TEXTS.items()}

    config: Any = make_config({"generate": {"advanced": {"swaps_per_pair": 1}}})
    prompt = AnswerPrompt(load_prompts("full", ABSTAIN), "none")
    trip = RoundTrip(config.generate, 3, prompt, Search(), chunks)  # type: ignore[arg-type]
    swaps = Swaps(trip, 0)
    other = pair("Who is Ola Brand?", "Ola Brand is the keeper.", "e#0", document="e")
    items = list(swaps.requests([MILL, STORE, other]))
    tried = ["When was the Mill Store built?", "Who keeps the Old Mill?"]
    # of the Mill Store its own chunk and the one found that names it, of the Old Mill its own alone
    assert [item.question for item, _, _ in items] == [
        *(MILL.question, STORE.question),
        *(tried[0], tried[0], tried[1]),
        other.question,
    ]
    assert [request is None for _, _, request in items] == [True, True, False, False, False, True]
    requests = [request for _, _, request in items if request]
    assert len({request.id for request in requests}) == 3
    shown = [[i for i in TEXTS if TEXTS[i] in r.messages[-1]["content"]] for r in requests]
    assert shown == [["d#1"], ["d#2"], ["d#0"]]


def test_a_swap_is_kept_where_the_model_finds_no_answer_in_any_chunk() -> None:
    trip = RoundTrip(
        make_config({}).generate, 3, AnswerPrompt(load_prompts("full", ABSTAIN), "none"), None, None
    )  # type: ignore[arg-type]
    swaps, [candidate] = Swaps(trip, 0), swap_names([MILL, STORE], ABSTAIN, 1, 0)[:1]

    def said(*texts: str, error: str | None = None) -> list[Reply]:
        return [Reply("r", text, "stop", 1, 1, 0.1, error) for text in texts]

    kept = swaps.check(candidate, said(ABSTAIN, ABSTAIN))
    assert isinstance(kept, QAPair) and kept.checks["round_trip_f1"] == 1.0
    answered, failed = (
        swaps.check(candidate, said(ABSTAIN, "in 1790")),
        swaps.check(candidate, said("", error="no")),
    )
    assert isinstance(answered, Failure) and answered.reason == "swap_answered"
    assert isinstance(failed, Failure) and failed.reason == "llm_error"
