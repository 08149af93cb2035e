"""A reply that comes in pieces becomes the same answer however it is cut."""

from __future__ import annotations

import itertools
import random

import pytest

from rag_ft.prompts.answer_stream import AnswerStream, Mark
from rag_ft.prompts.prompt_set import is_abstention

ABSTAIN = "I don't know."


def answer(reply: str, num_shown: int | None = 3, cuts: list[int] | None = None) -> AnswerStream:
    stream = AnswerStream(num_shown, lambda text: is_abstention(text, ABSTAIN))
    shown = ""
    places = [0, *(cuts or []), len(reply)]
    for start, end in itertools.pairwise(places):
        shown += stream.feed(reply[start:end])
    shown += stream.finish()
    assert shown == stream.text
    return stream


CASES = {
    "Ola Brand [2].": ("Ola Brand [2].", [(10, 13, 2)]),
    "  Ola Brand [2] \n": ("Ola Brand [2]", [(10, 13, 2)]),
    "Ola [7] Brand [9]": ("Ola Brand", []),
    "At noon [1, 3] or [3,8].": ("At noon [1, 3] or [3].", [(8, 14, 1), (8, 14, 3), (18, 21, 3)]),
    "In [1998] and a[b] and [": ("In [1998] and a[b] and [", []),
    "I don't know. [1]": ("I don't know.", []),
    "[1] I don't know.": ("I don't know.", []),
    "[1] [2] I don't know. [3]": ("I don't know.", []),
    "[2] At noon": ("[2] At noon", [(0, 3, 2)]),
    "<think>so [1]</think>\n\nNoon [1]": ("Noon [1]", [(5, 8, 1)]),
    "<quote>It leaves at noon [1]</quote> noon": ("noon", []),
    "<quote>cut off": ("", []),
    "<thin ice": ("<thin ice", []),
    "": ("", []),
    "[0] [4]": ("", []),
    "two  spaces\n\nand lines [1]": ("two  spaces\n\nand lines [1]", [(23, 26, 1)]),
}


@pytest.mark.parametrize("reply", CASES)
def test_marks_are_kept_where_they_name_a_chunk_that_was_shown(reply: str) -> None:
    stream = answer(reply)
    text, marks = CASES[reply]
    assert stream.text == text
    assert stream.marks == [Mark(*mark) for mark in marks]


@pytest.mark.parametrize("reply", CASES)
def test_the_answer_does_not_depend_on_how_the_reply_is_cut(reply: str) -> None:
    whole, rng = answer(reply), random.Random(0)
    for _ in range(50):
        cuts = sorted(rng.choices(range(len(reply) + 1), k=rng.randint(0, 8)))
        cut = answer(reply, cuts=cuts)
        assert (cut.text, cut.marks) == (whole.text, whole.marks), cuts


def test_a_word_is_shown_as_soon_as_it_has_come() -> None:
    stream = AnswerStream(3, lambda text: is_abstention(text, ABSTAIN))
    assert [stream.feed(piece) for piece in ("The", " ferry", " leaves", " [", "1", "]", ".")] == [
        "The",
        " ferry",
        " leaves",
        "",
        "",
        " [1]",
        ".",
    ]


def test_without_chunks_marks_are_text() -> None:
    assert answer('{"a": [1], "b": [99]}', num_shown=None).text == '{"a": [1], "b": [99]}'


def test_a_citation_is_appended_to_a_finished_answer() -> None:
    stream = answer("At noon.")
    assert stream.cite(2) == " [2]"
    assert stream.text == "At noon. [2]"
    assert stream.marks == [Mark(9, 12, 2)]
