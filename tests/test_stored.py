"""An update of ingest: what is unchanged is not read, and known documents keep their split."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rag_ft import file_marks
from rag_ft.config import Config
from rag_ft.config_loader import make_config
from rag_ft.documents import buckets
from rag_ft.errors import ConfigError, DataError
from rag_ft.pipeline import run_stage
from rag_ft.run_dir import RunDir
from rag_ft.schema import Chunk, Document
from rag_ft.stage_runs import run_stages
from rag_ft.stages import ingest
from rag_ft.storage import file_sha256, read_jsonl


def text(name: str, changed: int = 0) -> str:
    return " ".join(f"{name}{n if n >= changed else n + 1000}." for n in range(60)) + "\n"


@pytest.fixture
def make(tmp_path: Path, tiny_encoder_dir: Path) -> Callable[..., Config]:
    folder = tmp_path / "docs"
    folder.mkdir()
    for n in range(30):
        (folder / f"d{n:02}.md").write_text(text(f"word{n}x"))

    def config(run: str = "run", **ingest_settings: Any) -> Config:
        return make_config(
            {
                "run": {"dir": tmp_path / run},
                "ingest": {"sources": [folder], **ingest_settings},
                "encoder": {"model": str(tiny_encoder_dir)},
            }
        )

    return config


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that are read, by name."""
    names: list[str] = []
    before = buckets.prepare_all

    def noting(files: Any, **settings: Any) -> Any:
        files = list(files)
        names.extend(file.path.name for file in files)
        return before(files, **settings)

    monkeypatch.setattr(buckets, "prepare_all", noting)
    return names


def documents_of(config: Config) -> dict[str, Document]:
    return {d.id: d for d in read_jsonl(RunDir(config.run_path).documents, Document)}


def of_split(config: Config, split: str) -> list[Document]:
    return [d for d in documents_of(config).values() if d.split == split]


def test_an_update_reads_what_changed_and_equals_a_new_run(
    make: Callable[..., Config], tmp_path: Path, read: list[str]
) -> None:
    config, folder = make(sensitive="mask"), tmp_path / "docs"
    (folder / "d20.md").write_text(text("mail") + "Write to ada.king@example.org.\n")
    run_stage("ingest", config)
    read.clear()
    (folder / "d03.md").write_text(text("other"))
    (folder / "d10.md").unlink()
    (folder / "d055.md").write_text(text("added"))
    (folder / "rows.jsonl").write_text(json.dumps({"id": "r1", "text": text("row")}) + "\n")
    done = run_stage("ingest", config, change="update")
    assert sorted(read) == ["d03.md", "d055.md", "rows.jsonl"]
    assert done["counts"]["num_reused_documents"] == 28
    assert done["counts"]["num_documents"] == 31
    # A changed text is another document to a new run, which does not know the earlier one.
    known = {"splits": config.run_path / "documents.jsonl"}
    fresh = make("fresh", sensitive="mask", advanced=known)
    anew = run_stage("ingest", fresh)["counts"]
    assert anew["sensitive_by_kind"] == {"e-mail": 1}
    for name in ("sensitive_by_kind", "documents_by_language", "num_words"):
        assert done["counts"][name] == anew[name]
    for name in ("documents.jsonl", "chunks.jsonl", "rejects/ingest.jsonl", "findings.jsonl"):
        mine, theirs = (c.run_path / name for c in (config, fresh))
        assert mine.read_bytes() == theirs.read_bytes()
    # The next update takes rows of JSONL over as well.
    read.clear()
    (folder / "d10.md").write_text(text("back"))
    run_stage("ingest", config, change="update")
    assert read == ["d10.md"] and "r1" in documents_of(config)
    # A run of an earlier version has no findings: everything is read.
    read.clear()
    (config.run_path / "findings.jsonl").unlink()
    (folder / "d10.md").unlink()
    run_stage("ingest", config, change="update")
    assert len(read) == 31 and "d10.md" not in documents_of(config)


def test_a_new_document_that_nearly_equals_a_test_document_joins_the_test_split(
    make: Callable[..., Config], tmp_path: Path
) -> None:
    config, folder = make(), tmp_path / "docs"
    run_stage("ingest", config)
    before = documents_of(config)
    for split in ("test", "train"):
        of = of_split(config, split)[0]
        # Many names, so that their own hashes name all splits.
        for n in range(8):
            (folder / f"like-{split}-{n}.md").write_text(of.text + f"\nmore{n}\n")
    run_stage("ingest", config, change="update")
    after = documents_of(config)
    assert {d.split for name, d in after.items() if name.startswith("like-test")} == {"test"}
    assert {d.split for name, d in after.items() if name.startswith("like-train")} == {"train"}
    assert {name: after[name].split for name in before} == {n: d.split for n, d in before.items()}


def test_a_changed_document_keeps_its_split_unless_it_nearly_equals_a_test_document(
    make: Callable[..., Config], tmp_path: Path
) -> None:
    config, folder = make(), tmp_path / "docs"
    run_stage("ingest", config)
    [first, second, *_], [test, *_] = of_split(config, "train"), of_split(config, "test")
    (folder / first.id).write_text(text("changed"))
    (folder / second.id).write_text(test.text + "\nmore\n")
    run_stage("ingest", config, change="update")
    after = documents_of(config)
    assert after[first.id].split == "train" and after[first.id].text == text("changed").strip()
    assert after[second.id].split == "test"


def test_a_copy_takes_the_place_of_a_deleted_document(
    make: Callable[..., Config], tmp_path: Path
) -> None:
    config, folder = make(), tmp_path / "docs"
    (folder / "z-copy.md").write_text((folder / "d04.md").read_text())
    assert run_stage("ingest", config)["counts"]["rejected_by_reason"] == {"duplicate": 1}
    (folder / "d04.md").unlink()
    run_stage("ingest", config, change="update")
    assert "z-copy.md" in documents_of(config) and "d04.md" not in documents_of(config)


def test_chunks_left_out_for_a_test_document_come_back_when_it_is_gone(
    make: Callable[..., Config], tmp_path: Path
) -> None:
    config, folder = make(), tmp_path / "docs"
    run_stage("ingest", config)
    train, test = of_split(config, "train")[0], of_split(config, "test")[0]
    part = " ".join(test.text.split()[:20])
    (folder / train.id).write_text(f"{train.text}\n\n{text('own')}\n{part}\n")
    assert run_stage("ingest", config, change="update")["counts"]["num_leaking_chunks"] > 0
    (folder / test.id).unlink()
    assert run_stage("ingest", config, change="update")["counts"]["num_leaking_chunks"] == 0
    chunks = read_jsonl(RunDir(config.run_path).chunks, Chunk)
    own = [c for c in chunks if c.document_id == train.id]
    assert [c.id for c in own] == [f"{train.id}#{n}" for n in range(len(own))]
    assert any(part.split()[-1] in c.text for c in own)


def test_an_update_refuses_other_settings_and_damaged_files(
    make: Callable[..., Config], tmp_path: Path
) -> None:
    run_stage("ingest", config := make())
    with pytest.raises(ConfigError, match=r"ingest.chunk_tokens 128 -> 64\): an update only takes"):
        run_stage("ingest", make(chunk_tokens=64), change="update")
    (tmp_path / "docs" / "d01.md").write_text(text("other"))
    with pytest.raises(ConfigError, match=r"use --update to keep what is unchanged, --force"):
        run_stage("ingest", config)
    chunks = RunDir(config.run_path).chunks
    chunks.write_text(chunks.read_text().replace("word1x", "wordy"))
    with pytest.raises(DataError, match=r"chunks.jsonl has changed since ingest wrote it"):
        run_stage("ingest", config, change="update")


def test_an_update_of_nothing_is_skipped_and_one_of_an_empty_folder_is_a_run(
    make: Callable[..., Config], tmp_path: Path
) -> None:
    config = make()
    assert "skipped" not in run_stage("ingest", config, change="update")
    assert run_stage("ingest", config, change="update")["skipped"]
    os.utime(tmp_path / "docs" / "d01.md")
    assert run_stage("ingest", config, change="update")["skipped"]


def test_a_killed_update_is_finished_as_one(
    make: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, folder = make(), tmp_path / "docs"
    run_stage("ingest", config)
    test = of_split(config, "test")[0]
    (folder / "a-like.md").write_text(test.text + "\nmore\n")

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(ingest, "write_chunks", die)
        run_stage("ingest", config, change="update")
    before = documents_of(config)
    run_stage("ingest", config)
    after = documents_of(config)
    assert after == before and after["a-like.md"].split == "test"


def test_the_index_follows_and_says_how_many_vectors_it_kept(
    make: Callable[..., Config],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config, hashed = make(), list[Path]()
    run_stages(config, ["ingest", "index"])
    [segment] = (config.run_path / "index" / "segments").iterdir()
    (tmp_path / "docs" / "d01.md").write_text(text("other"))

    def noting(path: Path) -> str:
        hashed.append(path)
        return file_sha256(path)

    monkeypatch.setattr(file_marks, "file_sha256", noting)
    run_stages(config, ["ingest", "index"], change="update")
    assert any(path.name == "vectors.npy" for path in hashed)
    assert segment.exists() and not [path for path in hashed if segment in path.parents]
    assert "29 documents unchanged" in capsys.readouterr().err
    done = json.loads(RunDir(config.run_path).done("index").read_text())
    num_new = sum(
        c.document_id == "d01.md" for c in read_jsonl(config.run_path / "chunks.jsonl", Chunk)
    )
    assert done["counts"]["num_encoded"] == num_new
    run_stages(config, ["index"], change="compact")
    kept = done["counts"]["num_chunks"]
    assert f"{kept} vectors of 32 numbers, {kept} of them kept" in capsys.readouterr().err


def test_a_renamed_file_keeps_its_split(make: Callable[..., Config], tmp_path: Path) -> None:
    config = make(test_share=0.4)
    run_stage("ingest", config)
    run_dir = RunDir(config.run_path)
    before = {d.text: d.split for d in read_jsonl(run_dir.documents, Document)}
    for file in sorted((tmp_path / "docs").iterdir()):
        file.rename(file.with_name(f"renamed-{file.name}"))
    run_stage("ingest", config, change="update")
    after = {d.text: d.split for d in read_jsonl(run_dir.documents, Document)}
    assert after == before and len(set(before.values())) > 1
