"""A done-file vouches for the files of its stage: what is lost, changed or new is noticed."""

from __future__ import annotations

import json
import os
import shutil
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from synthetic_run import make_synthetic_run

from rag_ft import done_files, file_marks, freshness, pipeline, run_status
from rag_ft.cli import main
from rag_ft.config import Config
from rag_ft.config_loader import make_config
from rag_ft.errors import ConfigError, DataError
from rag_ft.hardware import num_threads
from rag_ft.rag import RagPipeline
from rag_ft.run_dir import RunDir
from rag_ft.run_files import FILES
from rag_ft.session import Session
from rag_ft.stage_table import NAMES

FOLDERS = {
    "index",
    "retriever",
    "retriever_index",
    "generator",
    "hits",
    "predictions",
    "given_index",
}
USED = [name for name in NAMES if name != "train_reranker"]  # no reranker is configured
DAMAGES: dict[str, Callable[[Path], object]] = {
    "deleted": lambda path: path.unlink(),
    "emptied": lambda path: path.write_bytes(b""),
    "cut": lambda path: os.truncate(path, path.stat().st_size - 1),
}


@pytest.fixture
def finished(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Config]:
    """finished(**sections) -> the config of a run of which every stage is done. The stages are
    stand-ins that write every file of theirs: the settings of their section, and what they read."""

    def stand_in(name: str) -> Callable[[Session], dict[str, int]]:
        def run(session: Session) -> dict[str, int]:
            config, run_dir = session.config, session.run_dir
            settings = getattr(config, name, config.retrieval).model_dump_json()
            for path in run_dir.writes(name, "result", "replies"):
                file = path / "file" if path.name in FOLDERS else path
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(f"{settings}\n{path.name}\n", encoding="utf-8")
            return {"written": 1}

        return run

    for name in NAMES:
        monkeypatch.setitem(
            sys.modules, f"rag_ft.stages.{name}", types.SimpleNamespace(run=stand_in(name))
        )

    def make(**sections: object) -> Config:
        documents = tmp_path / "documents"
        documents.mkdir(exist_ok=True)
        (documents / "a.md").write_text("one\n", encoding="utf-8")
        chosen = {"ingest": {"sources": [documents]}, **sections}
        config = make_config({"run": {"dir": tmp_path / "run"}, **chosen})
        for name in NAMES:
            pipeline.run_stage(name, config)
        return config

    return make


def test_a_command_parses_each_file_of_the_stages_once(
    finished: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, parsed = finished(), list[str]()
    done_files._parse_once.cache_clear()
    read = Path.read_text

    def counting(path: Path, *args: object, **options: object) -> str:
        parsed.append(path.name)
        return read(path, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(Path, "read_text", counting)
    assert set(states(config).values()) == {"done"}
    of_stages = sorted(name for name in parsed if name.endswith(".json"))
    assert of_stages == sorted(f"{name}.done.json" for name in NAMES), "of others the head"


def states(config: Config) -> dict[str, str]:
    found = run_status.status(config)
    return {name: state for name, state, _ in found if state != "unused"}


def changes_time(path: Path) -> None:
    os.utime(path, ns=(1, 1 + path.stat().st_mtime_ns))


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_file_of_a_stage_is_noticed_by_status_and_by_every_later_stage(
    finished: Callable[..., Config], damage: str
) -> None:
    config = finished()
    run_dir = RunDir(config.run_path)
    assert set(states(config).values()) == {"done"}
    trials = 0
    for position, name in enumerate(USED):
        done = pipeline.read_done(run_dir, name) or {}
        for file in [*done["outputs"], run_dir.done(name).name]:
            path = run_dir.path / file
            before, times = path.read_bytes(), (path.stat().st_atime_ns, path.stat().st_mtime_ns)
            if file == run_dir.done(name).name and damage == "cut":
                path.write_bytes(
                    before[:-20]
                )  # its last byte is a line end, without which it is whole
            else:
                DAMAGES[damage](path)
            assert "done" not in [states(config)[later] for later in USED[position:]], file
            for later in USED[position + 1 :]:
                for force in (False, True):
                    with pytest.raises(DataError) as error:
                        pipeline.run_stage(later, config, force=force)
                    assert "\n" not in str(error.value)
            if run_dir.done(name).exists():
                with pytest.raises(DataError, match="--force"):
                    pipeline.run_stage(name, config)
            path.write_bytes(before)
            os.utime(path, ns=times)
            assert set(states(config).values()) == {"done"}
            trials += 1
    assert trials >= 30


def test_a_damaged_result_is_made_again_with_force_and_the_later_stages_stay_fresh(
    finished: Callable[..., Config],
) -> None:
    config = finished()
    RunDir(config.run_path).qa.unlink()
    pipeline.run_stage("generate", config, force=True)
    assert set(states(config).values()) == {"done"}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_config_file_of_a_run_is_noticed(
    finished: Callable[..., Config], damage: str
) -> None:
    config = finished()
    run_dir = RunDir(config.run_path)
    freshness.check_files(run_dir)
    DAMAGES[damage](run_dir.config)
    assert states(config)["report"] == "stale"
    with pytest.raises(DataError, match=r"config\.yaml is missing or has changed"):
        freshness.check_files(run_dir)


def test_pairs_made_anew_make_every_later_stage_stale(finished: Callable[..., Config]) -> None:
    finished()
    other = make_config({**_sections(finished()), "generate": {"pairs_per_chunk": 1}})
    pipeline.run_stage("generate", other, force=True)
    later = USED[USED.index("generate") + 1 :]
    assert {states(other)[name] for name in later} == {"stale"}
    with pytest.raises(
        DataError, match=r"train_retriever, which is stale \(generate was made anew\)"
    ):
        pipeline.run_stage("report", other, force=True)


def _sections(config: Config) -> dict[str, object]:
    return {"run": {"dir": config.run.dir}, "ingest": {"sources": config.ingest.sources}}


def test_other_settings_of_a_stage_make_the_later_ones_stale_in_status(
    finished: Callable[..., Config],
) -> None:
    other = make_config({**_sections(finished()), "generate": {"pairs_per_chunk": 1}})
    found = run_status.status(other)
    assert list(states(other).values()) == ["done", "done", *["stale"] * 5]
    assert "generate.pairs_per_chunk" in found[2][2] and "builds on generate" in found[3][2]


def test_a_copied_folder_and_a_copied_source_stay_fresh_and_are_not_read_again(
    finished: Callable[..., Config], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = finished()
    copy = tmp_path / "elsewhere"
    shutil.copytree(config.run_path, copy / "run")
    shutil.copytree(tmp_path / "documents", copy / "documents")
    for path in (path for path in copy.rglob("*") if path.is_file()):
        changes_time(path)
    copied = make_config(
        {"run": {"dir": copy / "run"}, "ingest": {"sources": [copy / "documents"]}}
    )
    assert set(states(copied).values()) == {"done"}
    for name in NAMES:
        assert pipeline.run_stage(name, copied)["skipped"]
    read: list[Path] = []
    monkeypatch.setattr(file_marks, "file_sha256", lambda path: read.append(path) or "")
    assert set(states(copied).values()) == {"done"} and not read


def test_a_document_of_the_same_size_and_other_words_makes_ingest_stale(
    finished: Callable[..., Config], tmp_path: Path
) -> None:
    config = finished()
    (tmp_path / "documents" / "a.md").write_text("two\n", encoding="utf-8")
    changes_time(tmp_path / "documents" / "a.md")
    assert run_status.status(config)[0][1:] == (
        "stale",
        "ingest.sources/a.md changed: run it again with --force",
    )
    assert set(states(config).values()) == {"stale"}
    with pytest.raises(ConfigError, match=r"a\.md changed"):
        pipeline.run_stage("ingest", config)


def test_a_folder_of_an_earlier_version_is_one_line_and_its_replies_are_kept(
    finished: Callable[..., Config],
) -> None:
    config = finished()
    run_dir = RunDir(config.run_path)
    for name in NAMES:
        done = pipeline.read_done(run_dir, name) or {}
        old = {key: done[key] for key in ("fingerprint", "config", "inputs", "counts", "seconds")}
        run_dir.done(name).write_text(json.dumps(old))
        run_dir.started(name).write_text(
            json.dumps({k: old[k] for k in ("fingerprint", "config", "inputs")})
        )
    assert set(states(config).values()) == {"stale"}
    with pytest.raises(
        ConfigError,
        match=r"of an earlier version of rag-ft.*--force.*replies of a language model are reused",
    ):
        pipeline.run_stage("ingest", config)
    with pytest.raises(DataError, match="of an earlier version"):
        pipeline.run_stage("generate", config)
    kept = run_dir.replies("generate")
    kept.write_text("answered\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(
            sys.modules, "rag_ft.stages.generate", types.SimpleNamespace(run=lambda *_: {})
        )
        for name in ("ingest", "index", "generate"):
            pipeline.run_stage(name, config, force=True)
    assert kept.read_text() == "answered\n"


def test_force_removes_all_that_a_stage_writes_and_nothing_else(
    finished: Callable[..., Config],
) -> None:
    config = finished()
    run_dir = RunDir(config.run_path)
    for name in NAMES:
        for path in run_dir.writes(name, "scratch"):
            if path.suffix:
                path.write_text("log")
            else:
                path.mkdir(parents=True)
                (path / "part").write_text("part")
        (run_dir.path / f"{run_dir.writes(name)[0].name}.0123abcd.tmp").write_text(
            "of a killed process"
        )
    user = run_dir.path / "notes.tmp"
    user.write_text("the user's own")
    for name in NAMES:
        others = [
            path for other in NAMES if other != name for path in run_dir.writes(other, "result")
        ]
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(
                sys.modules, f"rag_ft.stages.{name}", types.SimpleNamespace(run=lambda *_: {})
            )
            assert not pipeline.run_stage(name, config, force=True).get("skipped")
        assert not any(path.exists() for path in run_dir.writes(name, "result", "scratch"))
        assert all(path.exists() for path in run_dir.writes(name, "replies"))
        assert all(path.exists() for path in others)
        shutil.rmtree(run_dir.path)
        finished()
        user.write_text("the user's own")
    assert user.exists()


def test_the_table_of_files_has_every_stage_and_replies_are_never_a_result() -> None:
    assert tuple(FILES) == NAMES
    for name, kind in (item for files in FILES.values() for item in files.items()):
        is_reply = name.startswith("replies/") or name.endswith("lm_scores.jsonl")
        assert (kind == "replies") == is_reply


@pytest.fixture(scope="module")
def small_report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with its report."""
    config, run_dir = make_synthetic_run(tmp_path_factory.mktemp("small"), num_documents=3)
    pipeline.run_stage("report", config)
    return run_dir.path


@pytest.mark.parametrize(
    "file", ["qa.jsonl", "chunks.jsonl", "scores.jsonl", "documents.jsonl", "hits/base.jsonl"]
)
@pytest.mark.parametrize("damage", DAMAGES)
def test_no_command_gives_another_number_from_a_damaged_file(
    small_report: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], file: str, damage: str
) -> None:
    run_dir = RunDir(Path(shutil.copytree(small_report, tmp_path / "run")))
    shutil.copytree(run_dir.path, tmp_path / "other")
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({"run": {"dir": str(run_dir.path)}}))
    DAMAGES[damage](run_dir.path / file)
    both = [str(tmp_path / "other"), str(run_dir.path)]
    commands = [
        ["report", str(path)],
        ["report", str(path), "--force"],
        ["compare", *both, "--to", str(tmp_path / "compare.html")],
    ]
    if file in ("qa.jsonl", "chunks.jsonl"):
        pairs = str(tmp_path / "pairs.json")
        commands.append(["export", str(path), "--format", "squad", "--to", pairs])
        commands.append(["plan", str(path)])
    if file == "chunks.jsonl":
        commands.append(["ask", str(path), "Who looked after part 1 of the mill?"])
    for words in commands:
        assert main(words) == 1, words
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert error.startswith("rag-ft: error:") and file in error
    assert not (tmp_path / "compare.html").exists() and not (tmp_path / "pairs.json").exists()


def test_replies_are_only_deleted_together_with_force(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_:
        main(["generate", "configs/demo.yaml", "--drop-replies"])
    assert exit_.value.code == 2
    assert "--drop-replies needs --force" in capsys.readouterr().err


def test_a_stage_that_continues_uses_the_number_of_threads_it_began_with(
    finished: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    config, before = finished(), torch.get_num_threads()
    run_dir = RunDir(config.run_path)
    run_dir.done("index").unlink()
    begun = json.loads(run_dir.started("index").read_text())
    run_dir.started("index").write_text(json.dumps({**begun, "threads": 3}))
    used: list[int] = []
    run = sys.modules["rag_ft.stages.index"].run
    monkeypatch.setattr(
        sys.modules["rag_ft.stages.index"],
        "run",
        lambda *a: used.append(torch.get_num_threads()) or run(*a),
    )
    assert pipeline.run_stage("index", config)["threads"] == 3
    assert used == [3]
    assert pipeline.run_stage("index", config, force=True)["threads"] == num_threads()
    torch.set_num_threads(before)


@pytest.mark.parametrize("lost", ["retriever", "retriever_index", "generator", "index"])
def test_a_lost_mark_of_a_tuned_component_is_refused_and_not_answered_by_the_base(
    finished: Callable[..., Config], lost: str
) -> None:
    config = finished(llm={"model": "x"})
    (config.run_path / lost / "file").unlink()
    with pytest.raises(DataError, match=f"{lost}/file is missing"):
        RagPipeline.from_config(config)
    with pytest.raises(DataError, match=f"{lost}/file is missing"):
        pipeline.run_stage("evaluate", config)


@pytest.mark.parametrize("content", ["{}", "[]", "null", "[" * 5000, "\xff"])
def test_a_done_file_that_says_nothing_is_damaged(
    finished: Callable[..., Config], content: str
) -> None:
    config = finished()
    RunDir(config.run_path).done("index").write_bytes(content.encode("latin-1"))
    with pytest.raises(DataError, match=r"index\.done\.json is damaged"):
        pipeline.run_stage("generate", config)
    assert states(config)["index"] == "stale"


def test_what_a_stage_wrote_has_the_rights_of_any_new_file(
    finished: Callable[..., Config], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = finished()
    weights = config.run_path / "generator" / "file"
    weights.chmod(0o600)
    freshness.record_outputs(RunDir(config.run_path), "train_generator")
    (new := tmp_path / "new").touch()
    assert weights.stat().st_mode == new.stat().st_mode
