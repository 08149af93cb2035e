import errno
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from rag_ft.errors import DataError
from rag_ft.integrations.json_lists import write_list
from rag_ft.report.browser import script_json
from rag_ft.schema import Chunk, Evidence, QAPair
from rag_ft.storage import (
    JsonlAppender,
    finite,
    from_json,
    naming,
    read_jsonl,
    read_rows,
    text_batches,
    to_json,
    write_json,
    write_jsonl,
)

PAIR = QAPair(
    "1",
    "Who?",
    ("Ola", "Ola B"),
    "d#0",
    "d",
    Evidence("Ola did.", 0, 8),
    "factoid",
    "train",
    "generated",
    {"f1": 1.0},
    {"model": "x"},
    ("d#4",),
)


def test_a_pair_survives_its_file(tmp_path: Path) -> None:
    assert from_json(to_json(PAIR), QAPair) == PAIR
    write_jsonl(tmp_path / "qa.jsonl", [PAIR, PAIR])
    assert list(read_jsonl(tmp_path / "qa.jsonl", QAPair)) == [PAIR, PAIR]


def test_a_file_is_never_seen_half_written(tmp_path: Path) -> None:
    def records() -> object:
        yield PAIR
        assert not (tmp_path / "qa.jsonl").exists()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_jsonl(tmp_path / "qa.jsonl", records())  # type: ignore[arg-type]
    assert not (tmp_path / "qa.jsonl").exists()


def test_a_torn_last_line_is_cut_and_the_rest_kept(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a": 1}\n{"a": 2}\n{"a": ')
    assert [row["a"] for row in read_rows(path)] == [1, 2]
    with JsonlAppender(path) as out:
        out.write({"a": 3})
    assert path.read_bytes() == b'{"a": 1}\n{"a": 2}\n{"a": 3}\n'


def test_a_file_that_is_one_torn_line_becomes_empty(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"a"')
    with JsonlAppender(path):
        pass
    assert path.read_bytes() == b""


def test_a_line_that_is_no_such_record_is_named(tmp_path: Path) -> None:
    path = tmp_path / "qa.jsonl"
    path.write_text(to_json(PAIR) + '\n{"id": 3}\n', encoding="utf-8")
    with pytest.raises(DataError, match="line 2 is not a QAPair"):
        list(read_jsonl(path, QAPair))
    with pytest.raises(DataError, match="does not exist"):
        list(read_jsonl(tmp_path / "none.jsonl", QAPair))


def test_unicode_line_separators_inside_a_text_do_not_split_the_line(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    with JsonlAppender(path) as out:
        out.write({"a": "one\u2028two\x85three"})
    assert [row["a"] for row in read_rows(path)] == ["one\u2028two\x85three"]


def test_numbers_that_json_does_not_have_become_null() -> None:
    value = {"a": [1.5, float("nan"), (float("inf"), 2)], "b": {"c": -float("inf")}, "d": "NaN"}
    assert finite(value) == {"a": [1.5, None, [None, 2]], "b": {"c": None}, "d": "NaN"}


@pytest.mark.parametrize(
    "content", [b"[]\n", b"null\n", b'"text"\n', b"\xff\n", b"[" * 9000 + b"\n"]
)
def test_a_line_that_is_no_record_names_the_file(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(content)
    for kind in (QAPair, Chunk):
        with pytest.raises(DataError, match=r"rows\.jsonl"):
            list(read_jsonl(path, kind))
    with pytest.raises(DataError, match=r"rows\.jsonl"):
        list(read_rows(path))


def test_a_full_disk_names_the_file(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No space") as error, naming(tmp_path / "x.jsonl"):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert error.value.filename == str(tmp_path / "x.jsonl")


def test_every_writer_of_json_writes_null_for_what_json_lacks(tmp_path: Path) -> None:
    row = {"loss": math.nan, "far": [math.inf, {"low": -math.inf}], "kept": "NaN", "large": 10**30}
    write_json(tmp_path / "a.json", row, indent=1)
    write_list(tmp_path / "b.json", [row])
    texts = [path.read_text(encoding="utf-8") for path in sorted(tmp_path.iterdir())]
    texts += [script_json(row), to_json(row)]
    for text in texts:
        found = json.loads(text, parse_constant=lambda name: pytest.fail(name))
        found = found[0] if isinstance(found, list) else found
        assert found == {"loss": None, "far": [None, {"low": None}], "kept": "NaN", "large": 10**30}


def test_a_chunk_of_an_earlier_version_keeps_its_line() -> None:
    chunk = Chunk("d#0", "d", "t", "Ola did.", 0, 8, 3, "train", None, None, ("Top",))
    line = to_json(chunk)
    assert "inner_headings" not in line and to_json(from_json(line, Chunk)) == line
    line = to_json(replace(chunk, inner_headings=("Inner",)))
    assert json.loads(line)["inner_headings"] == ["Inner"]
    assert to_json(from_json(line, Chunk)) == line


def test_batches_of_texts_have_few_texts_and_few_characters() -> None:
    texts = ["aa", "b", "c", "d" * 9, "", "e"]
    assert list(text_batches(texts, 4, 2)) == [["aa", "b"], ["c"], ["d" * 9], ["", "e"]]
    assert list(text_batches(texts, 99, 9)) == [texts] == list(text_batches(texts, 99))
    assert list(text_batches([], 1, 1)) == []
