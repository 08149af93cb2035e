"""Reads words.txt."""

from functools import cache
from pathlib import Path


@cache
def _lists() -> dict[str, tuple[str, ...]]:
    text = Path(__file__).with_name("words.txt").read_text(encoding="utf-8")
    sections = [section.partition("]\n") for section in text.split("\n[")[1:]]
    return {
        name: tuple(" ".join(item.split()) for item in body.split("|"))
        for name, _, body in sections
    }


def words(name: str) -> tuple[str, ...]:
    """The items of one list, in the order of the file."""
    return _lists()[name]
