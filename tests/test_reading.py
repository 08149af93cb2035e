"""A file becomes a document, or a reason why not."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from document_files import MEGABYTE, read_as

from rag_ft.documents.formats import FORMATS
from rag_ft.documents.formats.content import Content, UnreadableError
from rag_ft.documents.formats.html import read_html
from rag_ft.documents.formats.markdown import read_markdown
from rag_ft.documents.formats.text import read_text
from rag_ft.documents.reading import ReadSettings, read_file


def test_plain_text_is_titled_by_a_first_line_that_stands_alone() -> None:
    assert read_text(b"Opening hours\n\nThe hall opens.").title == "Opening hours"
    assert read_text(b"Opening hours\n=====\nThe hall opens.").title == "Opening hours"
    assert read_text(b"The hall opens at nine.\n\nIt closes.").title == ""
    assert read_text(b"one\ntwo").title == ""


def test_a_title_is_at_last_the_files_name(tmp_path: Path) -> None:
    assert read_as(tmp_path, "opening_hours-2024.txt", b"just text").title == "Opening hours 2024"


@pytest.mark.parametrize(
    ("name", "raw", "reason"),
    [
        ("a.pdf", b"%PDF-1.7\ngarbage", "corrupt"),
        ("a.pdf", b"no pdf at all", "corrupt"),
        ("a.docx", b"PK\x03\x04 broken", "corrupt"),
        ("a.docx", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "encrypted"),
        ("a.txt", random.Random(1).randbytes(500), "not text"),
        ("a.html", b"\x00\x01\x02\x03" * 50, "not text"),
        ("a.md", b"", "empty"),
        ("a.md", b" \n\t ", "empty"),
        ("a.html", b"<html><script>x</script></html>", "empty"),
        ("a.xyz", b"text", "unknown type"),
        ("noextension", b"text", "unknown type"),
        ("a.txt", b"x" * 3000, "too large"),
    ],
)
def test_a_file_that_gives_no_document_says_why(
    tmp_path: Path, name: str, raw: bytes, reason: str
) -> None:
    with pytest.raises(UnreadableError) as caught:
        read_as(tmp_path, name, raw, max_bytes=2000)
    assert caught.value.reason == reason


def test_a_broken_link_is_unreadable(tmp_path: Path) -> None:
    link = tmp_path / "a.txt"
    link.symlink_to(tmp_path / "gone.txt")
    with pytest.raises(UnreadableError, match="broken symbolic link"):
        read_file(link, ReadSettings(MEGABYTE))


@pytest.mark.parametrize("read", [read_markdown, read_html, read_text])
def test_hostile_repetition_is_read_in_linear_time(read: Callable[[bytes], Any]) -> None:
    begin = time.process_time()
    for piece in (
        "<!--",
        " ",
        "*a ",
        "__a ",
        "[a](",
        "| ",
        "-",
        "#",
        "# ",
        "`",
        "> ",
        "<p>",
        "<li>",
        "&#",
        "\n ",
        "\t\n",
    ):
        for raw in (piece * 5_000, "# x" + piece * 5_000 + "y", "|" + " " * 50_000 + piece + "|x"):
            read(raw.encode())
    assert time.process_time() - begin < 20


@pytest.mark.parametrize("suffix", FORMATS)
def test_every_format_reads_the_file_or_says_why_not(suffix: str) -> None:
    try:
        assert isinstance(FORMATS[suffix](b"The hall opens at nine."), Content)
    except UnreadableError as error:
        assert FORMATS[suffix] not in (FORMATS[".md"], FORMATS[".txt"], FORMATS[".py"])
        assert error.reason == "corrupt"


def test_a_path_that_the_system_cannot_look_up_is_unreadable(tmp_path: Path) -> None:
    with pytest.raises(UnreadableError) as caught:
        read_file(tmp_path / ("x" * 300 + ".md"), ReadSettings(MEGABYTE))
    assert (caught.value.reason, caught.value.detail) == ("unreadable", "File name too long")
