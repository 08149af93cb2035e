"""Single failures of the model are told from a server that is down."""

from __future__ import annotations

import pytest

from rag_ft.errors import DataError
from rag_ft.generation.ask_model import DOWN_AFTER_ERRORS, ErrorWatch
from rag_ft.llm.interface import Reply


def failed(error: str, refused: bool = False) -> Reply:
    return Reply("r", "", "error", 0, 0, 0.0, error, refused)


GOOD = Reply("r", "text", "stop", 1, 1, 0.1)


def test_a_row_of_errors_ends_the_stage_whatever_their_words() -> None:
    watch = ErrorWatch("generate: write")
    watch.see(GOOD)
    with pytest.raises(
        DataError, match=r"the last 32 requests for generate: write .*tokens per min"
    ):
        for _ in range(DOWN_AFTER_ERRORS):
            watch.see(failed("HTTP 429: tokens per min"))


def test_too_many_errors_in_all_end_the_stage_whatever_their_words() -> None:
    watch = ErrorWatch("generate: write")
    for n in range(80):
        watch.see(failed("HTTP 429: tokens per min") if n % 4 == 0 else GOOD)
    with pytest.raises(DataError, match=r"20 of 80 requests"):
        watch.finish()


def test_prompts_that_are_too_long_end_it_only_where_nothing_else_came() -> None:
    watch = ErrorWatch("generate: write")
    for _ in range(2 * DOWN_AFTER_ERRORS):
        watch.see(failed("too long", refused=True))
    with pytest.raises(DataError, match=r"64 of 64 requests"):
        watch.finish()
    watch.see(GOOD)
    watch.finish()
