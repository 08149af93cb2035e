"""No reader takes time that grows with the square of a text's length."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from document_files import read_as

from rag_ft.documents.formats.content import UnreadableError
from rag_ft.documents.sensitive import find_sensitive
from rag_ft.documents.sentences import split_sentences


@pytest.mark.parametrize(
    "name, start, unit",
    [
        ("a.md", "", "<table>"),
        ("a.md", "", "<table>\n\n"),
        ("a.md", "", '<a ="'),
        ("a.md", "", '<a =" x"'),
        ("a.md", "<a x", '=""'),
        ("a.md", "<table>", "\n\n**a"),
        ("a.mdx", "", "{/*"),
        ("a.html", "", "<iframe>"),
        ("a.html", "", "<nav '"),
        ("a.html", "", "<table><td><h1>"),
        ("a.rtf", "{\\rtf1 a", " "),
        ("a.rst", "", ":a:`" + " " * 500),
        ("a.tex", "\\begin{document}", "\\section["),
        ("a.tex", "\\begin{document}", "\\begin{verbatim}\n"),
        ("a.txt", "a line of a paragraph that is wrapped here and goes on\n", "/"),
        ("a.txt", "", "co-\n"),
    ],
)
def test_a_text_that_repeats_a_mark_is_read_at_once(
    tmp_path: Path, name: str, start: str, unit: str
) -> None:
    raw = (start + unit * (100_000 // len(unit)) + " b").encode()
    began = time.process_time()
    try:
        read_as(tmp_path, name, raw)
    except UnreadableError as error:
        assert error.reason in ("empty", "corrupt")
    assert time.process_time() - began < 5


def test_a_key_is_searched_among_colons_at_once() -> None:
    began = time.process_time()
    assert list(find_sensitive(":" * 100_000)) == []
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    "unit", ["The mast is 12 m. See Dr. Moe. ", "J.-P. ", "12. ", "(a) ", "г. "]
)
def test_a_long_line_is_split_into_sentences_at_once(unit: str) -> None:
    began = time.process_time()
    split_sentences(unit * (300_000 // len(unit)))
    assert time.process_time() - began < 5
