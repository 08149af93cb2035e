"""What a reply proves in the round trip, the swaps and the closed-book check."""

from __future__ import annotations

import pytest

from rag_ft.config_loader import make_config
from rag_ft.generation.entity_swap import Swaps
from rag_ft.generation.filters import Failure
from rag_ft.generation.round_trip import ClosedBook, RoundTrip
from rag_ft.llm.interface import Reply
from rag_ft.prompts.answer_prompt import AnswerPrompt
from rag_ft.prompts.prompt_set import load_prompts
from rag_ft.schema import QAPair

ABSTAIN = "I don't know."
CONFIG = make_config({})
PROMPTS = load_prompts("full", ABSTAIN)
TRIP = RoundTrip(CONFIG.generate, 3, AnswerPrompt(PROMPTS, "none"), None, None)  # type: ignore[arg-type]
FACT = QAPair(
    "p", "When was the mill built?", ("1905",), "d#0", "d", None, "factoid", "test", "generated"
)
NOTHING = QAPair(
    "u", "Who painted the mill?", (ABSTAIN,), None, "d", None, "unanswerable", "test", "generated"
)


def reply(text: str, finish_reason: str = "stop") -> Reply:
    return Reply("r", text, finish_reason, 1, 1, 0.1)


SAYS_NOTHING = [
    reply(""),
    reply(" \n"),
    reply("", "length"),
    reply("<quote>The mill was bui", "length"),
    reply("<think>The passage says that", "length"),
    reply("<think>\n\n</think>\n\n"),
]


@pytest.mark.parametrize("said", SAYS_NOTHING)
def test_a_reply_without_an_answer_is_no_abstention(said: Reply) -> None:
    results = [
        TRIP.check(FACT, said),
        TRIP.check(NOTHING, said),
        Swaps(TRIP, 0).check(NOTHING, [reply(ABSTAIN), said]),
        ClosedBook(CONFIG.generate, PROMPTS).check(FACT, said),
    ]
    assert [r.reason for r in results if isinstance(r, Failure)] == ["no_answer"] * 4
    cut = "cut off before an answer" if said.finish_reason == "length" else "an empty reply"
    assert results[1] == Failure("no_answer", f"{cut}: Who painted the mill?")


@pytest.mark.parametrize(
    "thought", ["", "<think>\n\n</think>\n\n", "<think>Is it 1905?</think>", "It is\n</think>\n"]
)
def test_the_abstain_sentence_is(thought: str) -> None:
    said = reply(thought + "I don't know.")
    assert isinstance(TRIP.check(NOTHING, said), QAPair)
    assert isinstance(Swaps(TRIP, 0).check(NOTHING, [said, said]), QAPair)
    assert isinstance(ClosedBook(CONFIG.generate, PROMPTS).check(FACT, said), QAPair)
    assert isinstance(TRIP.check(FACT, reply(thought + "1905")), QAPair)
    assert TRIP.check(FACT, said) == Failure(
        "round_trip_answer", "When was the mill built? -> 1905 | answered: I don't know."
    )
