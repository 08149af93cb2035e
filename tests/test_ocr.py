"""Scanned pages are recognised by tesseract, if it is there; a program of ours stands in for it."""

from __future__ import annotations

from pathlib import Path

import pytest
from document_files import read_as
from pdf_files import pdf_of

from rag_ft.documents.formats.content import UnreadableError
from rag_ft.documents.formats.ocr import can_recognise

PAGES = pdf_of([[(72, 700, 11, "The first page.")], [], [(72, 700, 11, "The last page.")]])


def install(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    program = folder / "bin" / "tesseract"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=":")


def test_a_scanned_page_is_read_at_its_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    langs = '[ "$1" = --list-langs ] && { echo "List:"; echo eng; echo osd; exit 0; }'
    install(tmp_path, monkeypatch, f'{langs}\ncat > /dev/null; echo "Scanned in $4."')
    assert can_recognise()
    found = read_as(tmp_path, "a.pdf", PAGES, ocr=True)
    assert found.text == "The first page.\n\nScanned in eng.\n\nThe last page."
    assert [block.page for block in found.blocks] == [1, 2, 3] and found.notes == []
    assert read_as(tmp_path, "b.pdf", pdf_of([[]]), ocr=True).text == "Scanned in eng."


def test_a_page_on_which_ocr_fails_is_noted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(tmp_path, monkeypatch, "echo no memory >&2; exit 1")
    assert read_as(tmp_path, "a.pdf", PAGES, ocr=True).notes == [("page 2", "damaged: no memory")]
    with pytest.raises(UnreadableError, match="no memory"):
        read_as(tmp_path, "b.pdf", pdf_of([[]]), ocr=True)
