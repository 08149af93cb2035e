"""`rag-ft forget`: nothing of a document stays in a version of a run, and it does not come back."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forget_run import MILLS, SYSTEMS, holding, make_forget_run, snapshot, train_mill, vectors_of

from rag_ft.chunk_store import ChunkStore
from rag_ft.cli import main
from rag_ft.config import Config
from rag_ft.document_store import DocumentStore
from rag_ft.errors import DataError
from rag_ft.forgetting.record import Forgotten
from rag_ft.freshness import check_files
from rag_ft.pipeline import run_stage
from rag_ft.publishing import note_copy
from rag_ft.retrieval.encoder import load_encoder
from rag_ft.retrieval.index_builder import build_index
from rag_ft.run_dir import RunDir
from rag_ft.schema import QAPair
from rag_ft.stage_table import NAMES
from rag_ft.storage import read_jsonl, read_rows
from rag_ft.versions import promote, rollback, versions_of


@pytest.fixture(scope="module")
def material(
    tmp_path_factory: pytest.TempPathFactory, tiny_encoder_dir: Path
) -> tuple[Path, Config]:
    """A folder with docs/ and runs/ of two versions; read only."""
    folder = tmp_path_factory.mktemp("forget")
    with contextlib.chdir(folder):
        return folder, make_forget_run(folder, tiny_encoder_dir)[0]


@pytest.fixture
def run(material: tuple[Path, Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The first version of a copy of the run, in a copy of the folder."""
    shutil.copytree(material[0], tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    return Path("runs/mills")


def test_no_file_of_any_version_holds_a_sentence_of_it(run: Path) -> None:
    mill, other = train_mill(run), RunDir(run)
    before = holding(run.parent, mill)
    # The search itself can find: each kind of file held the document.
    for name in ("chunks.jsonl", "qa.jsonl", "generated/rejected.jsonl", "replies/generate.jsonl",
                 "replies/evaluate.jsonl", "predictions/base.jsonl", "served.jsonl", "report.html",
                 "feedback.jsonl", "metrics.json", "checkpoints/train_generator/train.jsonl",
                 "report.md", "vllm.log", "documents.jsonl"):  # fmt: skip
        assert {f"mills/{name}", f"mills.v2/{name}"} <= before
    num_chunks = len(ChunkStore(other.chunks))
    gone = sum(chunk.document_id == f"{mill}.md" for chunk in ChunkStore(other.chunks))
    unfinished = run.with_name(".mills.v3.new")  # of a version that was just being made
    unfinished.mkdir()
    shutil.copy(other.chunks, unfinished)

    assert main(["forget", str(run), f"{mill}.md", "--yes"]) == 0

    assert holding(run.parent, mill) == set()
    question = f"Who built the {mill} mill".encode()
    assert not [p for p in run.parent.rglob("*") if p.is_file() and question in p.read_bytes()]
    for version in ("mills", "mills.v2"):
        run_dir = RunDir(run.with_name(version))
        assert len(ChunkStore(run_dir.chunks)) == num_chunks - gone
        for index in (run_dir.index, run_dir.retriever_index):
            assert vectors_of(index) == (num_chunks - gone, num_chunks - gone)
        assert len(np.load(run_dir.signatures)) == len(MILLS) - 1
        assert not run_dir.checkpoints("train_generator").exists()
        check_files(run_dir, finished=NAMES)  # as other commands do


def test_everything_about_other_documents_stays(run: Path) -> None:
    mill = train_mill(run)
    others = [name for name in MILLS if name != mill]
    place = MILLS.index(mill)
    # The answers about the next one were shown a chunk of it; a reply about it was shown a chunk of
    # the one before.
    lost = {name: set[str]() for name in MILLS}
    lost[MILLS[(place + 1) % len(MILLS)]] = {f"predictions/{name}.jsonl" for name in SYSTEMS}
    lost[MILLS[place - 1]] = {"replies/generate.jsonl", "replies/evaluate.jsonl"}
    before = {name: holding(run, name) for name in others}
    assert main(["forget", str(run), f"{mill}.md", "--yes"]) == 0
    run_dir = RunDir(run)
    removed = {"report.html", "report.md", "vllm.log", "checkpoints/train_generator/train.jsonl"}
    for name in others:
        assert holding(run, name) == before[name] - removed - lost[name]
    pairs = list(read_jsonl(run_dir.qa, QAPair))
    assert [pair.document_id for pair in pairs] == [f"{name}.md" for name in others]
    # A pair that merely listed a chunk of it stays, without that chunk.
    assert sorted(len(pair.hard_chunk_ids) for pair in pairs) == [0, 1, 1, 1]
    # Of two replies about each pair those go that are about it or were shown it.
    for stage in ("generate", "evaluate"):
        rows = list(read_rows(run_dir.replies(stage)))
        assert len(rows) == 2 * len(MILLS) - 3
    assert len(list(read_rows(run_dir.predictions("base")))) == len(MILLS) - 2
    assert len(list(read_rows(run_dir.scores))) == 2 * (len(MILLS) - 1)
    assert len(list(read_rows(run_dir.hits("base")))) == (len(MILLS) - 1) ** 2
    assert len(list(read_rows(run_dir.rejects("generate")))) == 2 * len(MILLS) - 2
    for path in (run_dir.reviews, run_dir.served, run_dir.feedback, run_dir.lm_scores):
        assert len(list(read_rows(path))) == len(MILLS) - 1
    assert f"{others[0]}.md" in DocumentStore(run_dir.documents)


def test_the_index_equals_one_that_never_had_it(
    material: tuple[Path, Config], run: Path, tmp_path: Path
) -> None:
    mill, run_dir, config = train_mill(run), RunDir(run), material[1]
    assert main(["forget", str(run), f"{mill}.md", "--yes"]) == 0
    fresh = tmp_path / "fresh"
    encoder = load_encoder(config.encoder)
    build_index(fresh, ChunkStore(run_dir.chunks), encoder, config.retrieval, config.run.seed)
    files = sorted(path.relative_to(fresh) for path in fresh.rglob("*") if path.is_file())
    assert files == sorted(p.relative_to(run_dir.index) for p in run_dir.index.rglob("*.*"))
    for file in files:
        if file.name != "vectors.npy":
            assert (run_dir.index / file).read_bytes() == (fresh / file).read_bytes(), file
    kept, made = run_dir.index / "vectors.npy", fresh / "vectors.npy"
    np.testing.assert_allclose(np.load(kept), np.load(made), atol=1e-6)


def test_what_ingest_index_and_generate_wrote_stays_valid_and_trainings_become_stale(
    material: tuple[Path, Config], run: Path
) -> None:
    config, mill = material[1], train_mill(run)
    assert main(["forget", str(run), f"{mill}.md", "--yes"]) == 0
    for stage in ("ingest", "index", "generate"):
        assert run_stage(stage, config).get("skipped"), stage
    with pytest.raises(Exception, match=r"train_retriever.*(changed|stale|made anew)"):
        run_stage("train_retriever", config)


def test_it_does_not_come_back_until_its_entry_is_removed(
    material: tuple[Path, Config], run: Path
) -> None:
    mill = train_mill(run)
    assert main(["forget", str(run), f"{mill}.md", "--yes"]) == 0
    # Under another name, too, and with other white space.
    config, docs = material[1], Path("docs")
    shutil.copy(docs / f"{mill}.md", docs / "renamed.md")
    text = (docs / f"{mill}.md").read_text()
    (docs / "spaced.md").write_text(text.replace(". ", ".  "))
    for options in ({"change": "update"}, {"force": True}):
        run_stage("ingest", config, **options)  # type: ignore[arg-type]
        assert holding(run, mill) == set()
        rejects = [row for row in read_rows(RunDir(run).rejects("ingest"))]
        assert [row["reason"] for row in rejects] == ["forgotten"] * 3

    RunDir(run).forgotten.unlink()
    run_stage("ingest", config, change="update")
    assert "documents.jsonl" in holding(run, mill)


def test_the_source_file_is_not_touched(run: Path) -> None:
    source = Path("docs") / f"{train_mill(run)}.md"
    before = (source.read_bytes(), source.stat().st_mtime_ns)
    assert main(["forget", str(run), source.name, "--yes"]) == 0
    assert (source.read_bytes(), source.stat().st_mtime_ns) == before


def test_no_text_and_no_name_stands_in_the_list(run: Path) -> None:
    mill = train_mill(run)
    assert main(["forget", str(run), f"{mill}.md", "--yes"]) == 0
    listed = RunDir(run).forgotten.read_text()
    assert mill not in listed.casefold()
    [entry] = Forgotten(RunDir(run).forgotten).entries
    assert set(entry["trained"]) == {"generator", "retriever"}
    assert not RunDir(run).forgetting.exists()


def test_a_version_that_learnt_from_it_is_named_and_is_not_promoted(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mill = train_mill(run)
    promote(versions_of(run)[1])
    assert main(["forget", str(run), f"{mill}.md", "--yes"]) == 0
    said = capsys.readouterr().out
    assert "mills.v2: its tuned generator and retriever learnt from it" in said
    assert f"rag-ft improve {run}" in said
    with pytest.raises(DataError, match="generator and retriever learnt from a document that was"):
        rollback(run)
    assert main(["versions", str(run)]) == 0
    assert "learnt from a forgotten document" in capsys.readouterr().out
    # Trained again, on what is left.
    for stage in ("train_retriever", "train_generator"):
        path = RunDir(run).done(stage)
        path.write_text(json.dumps({**json.loads(path.read_text()), "fingerprint": "new"}))
    assert rollback(run).name == "mills"
    # A training that began with a component that learnt from it.
    done = json.loads(RunDir(run).done("train_generator").read_text())
    start = str(run.with_name("mills.v2") / "generator")
    done["config"]["train_generator.advanced.start"] = start
    RunDir(run).done("train_generator").write_text(json.dumps({**done, "fingerprint": "newer"}))
    assert Forgotten(RunDir(run).forgotten).learnt(RunDir(run)) == ["generator"]


def test_a_test_document_leaves_the_components_as_they_are(run: Path) -> None:
    rows = read_rows(RunDir(run).documents)
    name = next((str(row["id"]) for row in rows if row["split"] == "test"), None)
    assert name is not None, "the documents of the fixture must have a test document"
    assert main(["forget", str(run), name, "--yes"]) == 0
    assert holding(run.parent, name.removesuffix(".md")) == set()
    promote(versions_of(run)[1])


def test_bundles_and_exports_are_named(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = tmp_path / "bundle"
    there.mkdir()
    for place in (str(there), str(tmp_path / "gone"), "s3://x/bundle"):
        note_copy(RunDir(run), "bundle", place)
    assert main(["forget", str(run), f"{train_mill(run)}.md", "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert f"Not reached, delete it yourself: {there}" in said and "s3://x/bundle" in said
    assert "gone" not in said


def test_a_reply_that_does_not_say_what_it_was_shown_goes(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = RunDir(run).replies("generate")
    rows = [dict(row) for row in read_rows(path)]
    for row in rows:
        del row["about"]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = RunDir(run).done("generate")
    found: dict[str, Any] = json.loads(done.read_text())
    del found["outputs"]["replies/generate.jsonl"]  # as if the version before had written it
    done.write_text(json.dumps(found))
    before = snapshot(run.parent)
    assert main(["forget", str(run), "unknown.md", "--yes"]) == 1
    assert "has no document 'unknown.md'" in capsys.readouterr().err
    assert snapshot(run.parent) == before
    assert main(["forget", str(run), f"{train_mill(run)}.md", "--yes"]) == 0
    assert path.read_text() == ""


def test_a_document_that_left_the_sources_before_is_found_by_its_name(
    material: tuple[Path, Config], run: Path
) -> None:
    mill = train_mill(run)
    shutil.rmtree(run.with_name("mills.v2"))
    Path("docs", f"{mill}.md").unlink()
    for stage in ("ingest", "index"):
        run_stage(stage, material[1], change="update")
    assert f"{mill}.md" not in DocumentStore(RunDir(run).documents)
    assert "replies/generate.jsonl" in holding(run, mill)
    assert main(["forget", str(run), f"{mill}.md", "--yes"]) == 0
    # Without its text only lines that name it are found: reasons of other rejects stay.
    assert holding(run, mill) <= {"metrics.json"}
    assert len(list(read_rows(RunDir(run).replies("generate")))) == 2 * len(MILLS) - 3


def test_a_kill_at_any_rename_is_continued(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mill, left = train_mill(run), 0
    copy = tmp_path / "copy" / "runs"
    shutil.copytree(run.parent, copy)
    assert main(["forget", str(copy / "mills"), f"{mill}.md", "--yes"]) == 0
    replace, rename = os.replace, os.rename

    def killing(real: Any) -> Any:
        def call(*names: Any, **options: Any) -> Any:
            nonlocal left
            left -= 1
            if left == 0:
                raise KeyboardInterrupt
            return real(*names, **options)

        return call

    monkeypatch.setattr(os, "replace", killing(replace))
    monkeypatch.setattr(os, "rename", killing(rename))
    # The first call is killed at its first rename, the next one at its third, and so on.
    for number in range(1, 200, 2):
        left = number
        if main(["forget", str(run), f"{mill}.md", "--yes"]) == 0:
            break
    assert number > 20
    assert snapshot(run.parent) == snapshot(copy)


def test_another_document_first_continues_the_one_before(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    mill = train_mill(run)
    other = next(name for name in MILLS if name != mill)
    with monkeypatch.context() as patch:
        patch.setattr("rag_ft.forgetting.forget.remove_document", killed)
        assert main(["forget", str(run), f"{mill}.md", "--yes"]) == 130
    assert RunDir(run).forgetting.exists()
    assert main(["forget", str(run), f"{other}.md", "--yes"]) == 0
    assert f"continues with {mill}.md" in capsys.readouterr().err
    assert holding(run.parent, mill) == holding(run.parent, other) == set()


def killed(*_: Any) -> None:
    raise KeyboardInterrupt


def test_it_asks_first_and_a_dry_run_changes_nothing(
    run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name, before = f"{train_mill(run)}.md", snapshot(run.parent)
    monkeypatch.setattr("sys.stdin", io.StringIO("y"))
    assert main(["forget", str(run), name]) == 1
    assert "add --yes, or --dry-run" in capsys.readouterr().err
    assert main(["forget", str(run), name, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert "qa.jsonl" in said and "its tuned generator and retriever learnt from it" in said
    assert snapshot(run.parent) == before


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("\n", 1)])
def test_at_a_terminal_it_asks(
    run: Path, answer: str, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Terminal:
        """Standard input of a person."""

        isatty, readline = (lambda _: True), (lambda _: answer)

    monkeypatch.setattr("sys.stdin", Terminal())
    assert main(["forget", str(run), f"{train_mill(run)}.md"]) == code
    assert bool(holding(run, train_mill(run))) == bool(code) or not code


def test_what_cannot_be_forgotten_is_one_line(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["forget", str(run), "ambre.md", "--yes"]) == 1
    assert "no document 'ambre.md': try amber.md" in capsys.readouterr().err
    with (run / "qa.jsonl").open("a") as out:
        out.write("{}\n")
    assert main(["forget", str(run), "amber.md", "--yes"]) == 1
    assert "qa.jsonl has changed since generate wrote it" in capsys.readouterr().err
    assert main(["forget", str(run.with_name("none")), "amber.md", "--yes"]) == 1
    assert "is no run folder" in capsys.readouterr().err


def test_every_stage_of_the_fixture_is_done(run: Path) -> None:
    missing = {"train_reranker"}
    assert {name for name in NAMES if not RunDir(run).done(name).exists()} == missing
