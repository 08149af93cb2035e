"""Which files and lines become documents: their ids, and the splits that the user fixed."""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rag_ft.config import Source
from rag_ft.config_loader import make_config
from rag_ft.documents.discovery import (
    RawDocument,
    lines_within,
    parse_row,
    raw_document,
    read_documents,
)
from rag_ft.documents.formats.content import UnreadableError
from rag_ft.documents.reading import ReadSettings
from rag_ft.documents.source_files import find_files, walk_files
from rag_ft.run_dir import RunDir
from rag_ft.schema import Chunk, Document, Reject
from rag_ft.session import Session
from rag_ft.stages import ingest
from rag_ft.storage import read_jsonl

Ingest = Callable[..., tuple[dict[str, Document], list[Reject]]]


@pytest.fixture
def ingest_sources(tmp_path: Path, tiny_encoder_dir: Path) -> Ingest:
    """ingest_sources(source, ...) -> ({id: document}, rejects); the split is train by default"""

    def run(*sources: Any) -> tuple[dict[str, Document], list[Reject]]:
        settings = {"sources": list(sources), "test_share": 0, "dev_share": 0, "min_kept_share": 0}
        config = make_config(
            {
                "run": {"dir": tmp_path / "run"},
                "ingest": settings,
                "encoder": {"model": str(tiny_encoder_dir)},
            }
        )
        run_dir = RunDir(config.run_path)
        ingest.run(Session(config, run_dir))
        documents = {d.id: d for d in read_jsonl(run_dir.documents, Document)}
        assert {c.document_id for c in read_jsonl(run_dir.chunks, Chunk)} == set(documents)
        return documents, list(read_jsonl(run_dir.rejects("ingest"), Reject))

    return run


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def write_lines(path: Path, *rows: dict[str, Any]) -> Path:
    return write(path, "".join(json.dumps(row) + "\n" for row in rows))


# Splits


@pytest.mark.parametrize("turned", [False, True])
def test_a_copy_that_is_dropped_leaves_its_split(
    tmp_path: Path, ingest_sources: Ingest, turned: bool, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path / "all" / "a.md", "The pump of the cellar was built in 1911.")
    write(tmp_path / "held" / "copy.md", "The pump of the  cellar was built in 1911.")
    sources: list[Any] = [tmp_path / "all", {"path": tmp_path / "held", "split": "test"}]
    documents, (reject,) = ingest_sources(*(reversed(sources) if turned else sources))
    assert [d.split for d in documents.values()] == ["test"] and reject.reason == "duplicate"
    assert "another split" not in caplog.text


def test_of_different_splits_of_copies_the_strictest_holds_and_that_is_logged(
    tmp_path: Path, ingest_sources: Ingest, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [
        {"id": f"d{n}", "text": "The same.", "split": split}
        for n, split in enumerate(("train", "test", "dev"))
    ]
    documents, _ = ingest_sources(write_lines(tmp_path / "d.jsonl", *rows))
    assert [(d.id, d.split) for d in documents.values()] == [("d0", "test")]
    assert "d0 goes to test: its copy" in caplog.text


@pytest.mark.parametrize("turned", [False, True])
def test_of_two_sources_with_the_same_file_the_closer_one_fixes_its_split(
    tmp_path: Path, ingest_sources: Ingest, turned: bool
) -> None:
    docs = tmp_path / "docs"
    for name in ("a", "sub/b", "sub/c"):
        write(docs / f"{name}.md", f"The text of {name} alone.")
    sources: list[Any] = [
        docs,
        {"path": docs / "sub", "split": "dev"},
        {"path": docs / "sub" / "c.md", "split": "test"},
    ]
    documents, rejects = ingest_sources(*(reversed(sources) if turned else sources))
    assert {d.title: d.split for d in documents.values()} == {"A": "train", "B": "dev", "C": "test"}
    assert not rejects
    if not turned:
        assert set(documents) == {"a.md", "sub/b.md", "sub/c.md"}


# Ids


def test_files_of_one_name_are_told_apart_by_as_many_folders_as_it_takes(
    tmp_path: Path, ingest_sources: Ingest
) -> None:
    years = [
        write(tmp_path / year / "docs" / "report.md", f"In {year} it rained.")
        for year in ("22", "23", "24")
    ]
    documents, rejects = ingest_sources(*(path.parent for path in years))
    assert list(documents) == ["report.md", "docs/report.md", "24/docs/report.md"] and not rejects
    documents, rejects = ingest_sources(years[0], years[1], years[2])
    assert list(documents) == ["report.md", "docs/report.md", "24/docs/report.md"] and not rejects


def test_ids_of_jsonl_lines_are_the_users_and_are_not_changed(
    tmp_path: Path, ingest_sources: Ingest
) -> None:
    lines = write_lines(
        tmp_path / "d.jsonl", {"id": "a", "text": "One."}, {"id": "a", "text": "Two."}
    )
    documents, (reject,) = ingest_sources(lines)
    assert list(documents) == ["a"] and reject.reason == "duplicate id"


def test_names_of_files_are_composed_like_the_ids_in_questions(
    tmp_path: Path, ingest_sources: Ingest
) -> None:
    name = unicodedata.normalize("NFD", "Café/Größe.md")
    write(tmp_path / "docs" / name, "The hall opens at nine.")
    documents, _ = ingest_sources(tmp_path / "docs")
    assert list(documents) == ["Café/Größe.md"]
    documents, _ = ingest_sources(tmp_path / "docs" / name)
    assert list(documents) == ["Größe.md"]


def test_names_that_are_no_unicode_do_not_end_the_stage(
    tmp_path: Path, ingest_sources: Ingest
) -> None:
    odd = Path(os.fsdecode(os.fsencode(tmp_path) + b"/d\xe9p\xf4t"))
    write(odd / "a.md", "The hall opens at nine.")
    write(odd / "b" / "a.md", "The hall closes at six.")
    write_lines(odd / "questions.jsonl", {"question": "When?"})
    documents, rejects = ingest_sources(
        odd, odd / "b" / "a.md", {"path": odd / "b", "split": "test"}
    )
    assert (
        list(documents) == ["a.md", "b/a.md"]
        and documents["b/a.md"].split == "test"
        and not rejects
    )
    documents, _ = ingest_sources(tmp_path / odd / "b", odd)
    assert list(documents) == ["a.md", "d\ufffdp\ufffdt/a.md"]


def test_a_line_without_an_id_gets_one_that_does_not_depend_on_its_place(
    tmp_path: Path, ingest_sources: Ingest
) -> None:
    one, two = {"text": "The hall opens."}, {"id": None, "text": "The bar closes."}
    documents, rejects = ingest_sources(write_lines(tmp_path / "hall_rules.jsonl", one, two))
    assert len(documents) == 2 and not rejects
    assert {d.title for d in documents.values()} == {"Hall rules"}
    later, (reject,) = ingest_sources(
        write_lines(tmp_path / "hall_rules.jsonl", {"text": "New."}, two, one, one)
    )
    assert len(later) == 3 and later.items() >= documents.items()
    assert reject.reason == "duplicate"


def test_a_line_that_nests_deeper_than_anyone_means_is_rejected(
    tmp_path: Path, ingest_sources: Ingest
) -> None:
    deep: Any = "x"
    for _ in range(900):
        deep = [deep]
    rows = [{"id": "a", "text": "One.", name: deep} for name in ("metadata", "title", "split")]
    documents, rejects = ingest_sources(
        write_lines(
            tmp_path / "d.jsonl",
            *rows,
            {"id": "b", "text": "Two.", "metadata": {"m": [[[{"n": 1}]]]}},
        )
    )
    assert list(documents) == ["b"] and [r.reason for r in rejects] == ["too deep"] * 3


def test_the_home_folder_may_be_written_as_a_tilde(
    tmp_path: Path, ingest_sources: Ingest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    write(tmp_path / "docs" / "a.md", "The hall opens at nine.")
    documents, _ = ingest_sources("~/docs", {"path": "~/docs/a.md", "split": "dev"})
    assert [(d.id, d.split) for d in documents.values()] == [("a.md", "dev")]


def test_what_a_run_wrote_among_the_documents_is_no_document(tmp_path: Path) -> None:
    (tmp_path / "runs/one").mkdir(parents=True)
    for name in ("a.md", "runs/b.md", "runs/one/ingest.started.json", "runs/one/chunks.jsonl"):
        (tmp_path / name).write_text("text", encoding="utf-8")
    assert [file.id for file in find_files([tmp_path])] == ["a.md", "runs/b.md"]


# Parts


def test_folders_are_walked_in_order_and_those_not_entered_come_last(tmp_path: Path) -> None:
    for name in ("b.md", "a/z.md", "a/.git/c.md", ".hidden.md", "~$b.docx"):
        write(tmp_path / name, "text")
    (tmp_path / "a" / "link").symlink_to(tmp_path / "a")
    found = [path.relative_to(tmp_path).as_posix() for path in walk_files(tmp_path)]
    assert found == ["b.md", "a/z.md", "a/link"]


def test_a_linked_folder_is_rejected_with_what_to_do(
    tmp_path: Path, ingest_sources: Ingest
) -> None:
    write(tmp_path / "docs" / "a.md", "The hall opens at nine.")
    write(tmp_path / "more" / "b.md", "The hall closes at six.")
    (tmp_path / "docs" / "link").symlink_to(tmp_path / "more")
    documents, (reject,) = ingest_sources(tmp_path / "docs")
    assert list(documents) == ["a.md"] and reject.reason == "unreadable"
    assert reject.detail == "symbolic link to a folder; list the target in ingest.sources"


def test_lines_over_the_limit_are_none_and_keep_their_number(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_bytes(b"12345\n\n123456\n" + b"x" * 3_000_000 + b"\n12345")
    assert list(lines_within(path, 5)) == [(1, b"12345\n"), (3, None), (4, None), (5, b"12345")]
    path.write_bytes(b"1\n123456")
    assert list(lines_within(path, 5)) == [(1, b"1\n"), (2, None)]


def test_a_row_is_an_object_of_json() -> None:
    assert parse_row(b'\xef\xbb\xbf{"id": "\\ud800"}') == {"id": "\ufffd"}
    assert parse_row(b'{"a": NaN, "b": [-Infinity]}') == {"a": None, "b": [None]}
    for line, reason in ((None, "too large"), (b"[1]", "not JSON"), (b"{", "not JSON")):
        with pytest.raises(UnreadableError) as caught:
            parse_row(line)
        assert caught.value.reason == reason


def test_a_row_takes_what_it_lacks_from_its_file(tmp_path: Path) -> None:
    path = write(tmp_path / "hall_rules.jsonl", "{}")
    (file,) = find_files([Source(path=path, split="dev")])
    document = raw_document({"text": "One.", "metadata": None}, file, "here")
    assert (document.title, document.split, document.metadata) == ("Hall rules", "dev", {})
    assert raw_document({"text": "One.", "split": "test"}, file, "here").split == "test"
    with pytest.raises(UnreadableError, match="unknown split"):
        raw_document({"text": "One.", "split": "valid"}, file, "here")


def test_a_link_out_of_the_source_folder_is_read_only_where_a_setting_allows_it(
    tmp_path: Path,
) -> None:
    folder, secret = tmp_path / "docs", tmp_path / "secret.txt"
    folder.mkdir()
    secret.write_text("The password is swordfish.")
    (folder / "inside.txt").write_text("A public text.")
    (folder / "out.txt").symlink_to(secret)
    (folder / "again.txt").symlink_to(folder / "inside.txt")
    (folder / "loop.txt").symlink_to(folder / "loop.txt")
    found = {file.id: file for file in find_files([folder])}

    def read(name: str, follow: bool = False) -> RawDocument | Reject:
        [only] = read_documents(found[name], ReadSettings(1000, follow_links=follow))
        return only

    for name in ("out.txt", "loop.txt"):
        rejected = read(name)
        assert isinstance(rejected, Reject) and rejected.reason == "link"
        assert "set ingest.advanced.follow_links" in rejected.detail and "swordfish" not in str(
            rejected
        )
    assert isinstance(read("again.txt"), RawDocument)
    followed = read("out.txt", follow=True)
    assert isinstance(followed, RawDocument) and "swordfish" in followed.text
    assert isinstance(read("loop.txt", follow=True), Reject)
