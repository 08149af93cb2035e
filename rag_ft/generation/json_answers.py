"""Answers that are no texts in JSON: numbers, true and false."""

from __future__ import annotations

import json
import re
from typing import Any

from rag_ft.storage import encodable

_TRUE_OR_FALSE = re.compile(r"\btrue\b|\bfalse\b", re.IGNORECASE)


def truth_value(value: bool, question: str) -> str:
    """The word for true or false that answers a question."""
    return (("false", "true") if _TRUE_OR_FALSE.search(question) else ("no", "yes"))[value]


def answers_in_words(answers: Any, line: bytes, question: str) -> Any:
    """The `answers` of a JSON line; numbers as they are spelled (2.50), true and false as words."""
    given = answers if isinstance(answers, list) else [answers]
    if not any(isinstance(answer, int | float) for answer in given):
        return answers
    spelled = json.loads(line.decode("utf-8-sig"), parse_int=str, parse_float=str)["answers"]
    given = spelled if isinstance(spelled, list) else [spelled]
    return [truth_value(a, question) if isinstance(a, bool) else encodable(a) for a in given]
