"""Of many source files, `status` looks at the folders; other commands look at every file."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from rag_ft import file_marks, freshness, pipeline, run_status
from rag_ft.config_loader import make_config
from rag_ft.done_files import read_head, read_plan
from rag_ft.errors import ConfigError
from rag_ft.file_marks import mark_files
from rag_ft.run_dir import RunDir


def test_of_many_source_files_status_looks_at_the_folders_and_run_at_all_files(
    tmp_path: Path, tiny_encoder_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(freshness, "MANY_SOURCES", 5)
    folder = tmp_path / "documents"
    for number in range(8):
        (folder / str(number % 2)).mkdir(parents=True, exist_ok=True)
        (folder / str(number % 2) / f"{number}.md").write_text(f"word{number}\n")
    values = {
        "run": {"dir": tmp_path / "run"},
        "ingest": {"sources": [folder]},
        "encoder": {"model": str(tiny_encoder_dir)},
    }
    config = make_config(values)
    pipeline.run_stage("ingest", config)
    _, state, why = run_status.status(config)[0]
    assert state == "done" and "no file was added or removed" in why
    # A changed file is seen by whatever works with it.
    (folder / "1" / "3.md").write_text("another\n")
    assert run_status.status(config)[0][1] == "done"
    with pytest.raises(ConfigError, match=r"ingest.sources/1/3.md changed"):
        pipeline.run_stage("ingest", config)
    (folder / "1" / "9.md").write_text("new\n")
    assert run_status.status(config)[0][1] == "stale"


def test_with_many_source_files_other_inputs_and_settings_still_count(
    tmp_path: Path, tiny_encoder_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(freshness, "MANY_SOURCES", 5)
    folder, splits = tmp_path / "documents", tmp_path / "splits.jsonl"
    folder.mkdir()
    for number in range(8):
        (folder / f"{number}.md").write_text(f"word{number}\n")
    splits.write_text('{"id": "1.md", "split": "dev", "text": "a"}\n')
    values: dict[str, Any] = {
        "run": {"dir": tmp_path / "run"},
        "ingest": {"sources": [folder], "advanced": {"splits": splits}},
        "encoder": {"model": str(tiny_encoder_dir)},
    }
    config = make_config(values)
    done = pipeline.run_stage("ingest", config)
    # The file ends with the documents, which `status` does not read.
    path = RunDir(tmp_path / "run").done("ingest")
    assert "ingest.sources/1.md" not in (read_head(path) or {})["inputs"]
    assert (read_plan(path) or {})["sources"] == done["sources"]
    assert (read_plan(path) or {})["inputs"] == done["inputs"]
    written = json.loads(path.read_text())
    assert list(written)[-1] == "documents"
    assert run_status.status(config)[0][1] == "done"
    path.write_text(json.dumps({**written, "documents": {"ingest.sources/1.md": [1]}}))
    assert "its documents are not" in run_status.status(config)[0][2]
    path.write_text(json.dumps(written))  # in another layout
    assert run_status.status(config)[0][1] == "done"

    values["ingest"]["chunk_tokens"] = 64
    _, state, why = run_status.status(make_config(values))[0]
    assert state == "stale" and why.startswith("ingest.chunk_tokens 128 -> 64: ")
    splits.write_text('{"id": "2.md", "split": "dev", "text": "a"}\n')
    _, state, why = run_status.status(config)[0]
    assert state == "stale" and why.startswith("splits.jsonl changed: ")


def test_a_file_with_two_names_is_read_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    before = file_marks.file_sha256
    monkeypatch.setattr(
        file_marks, "file_sha256", lambda path: (read.append(path.name), before(path))[1]
    )
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "vectors.npy").write_bytes(b"0123")
    os.link(tmp_path / "parts" / "vectors.npy", tmp_path / "same.npy")
    (tmp_path / "other.npy").write_bytes(b"0123")
    names = ("same.npy", "parts", "missing.npy", "other.npy")
    marks = mark_files(tmp_path, [tmp_path / name for name in names])
    assert sorted(marks) == ["other.npy", "parts/vectors.npy", "same.npy"]
    assert marks["parts/vectors.npy"] == marks["same.npy"]
    assert sorted(read) == ["other.npy", "same.npy"]
    assert mark_files(tmp_path, [tmp_path / "same.npy"], marks)["same.npy"] == marks["same.npy"]
    assert len(read) == 2
