import json
import os
import sys
import types
from collections.abc import Callable
from pathlib import Path

import pytest

from rag_ft import pipeline, run_status
from rag_ft.config import Config
from rag_ft.config_loader import make_config
from rag_ft.errors import ConfigError, DataError
from rag_ft.run_dir import RunDir
from rag_ft.session import Session
from rag_ft.stage_table import NAMES, STAGES, find_stage


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., Config]:
    """Two recording stages in place of the real ones; returns a function that makes their
    config."""
    calls: list[str] = []

    def ingest(session: Session) -> dict[str, int]:
        config, run_dir = session.config, session.run_dir
        calls.append("ingest")
        run_dir.chunks.write_text(f"{config.ingest.chunk_tokens}\n", encoding="utf-8")
        return {"num_calls": len(calls)}

    def index(session: Session) -> dict[str, int]:
        _config, _run_dir = session.config, session.run_dir
        calls.append("index")
        return {"num_calls": len(calls)}

    for name, run in (("ingest", ingest), ("index", index)):
        module = types.ModuleType(f"rag_ft.stages.{name}")
        module.run = run  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, f"rag_ft.stages.{name}", module)

    def make(**overrides: object) -> Config:
        return make_config({"run": {"dir": tmp_path / "run"}, **overrides})

    make.calls = calls  # type: ignore[attr-defined]
    return make


def test_a_stage_that_is_up_to_date_is_skipped(counted: Callable[..., Config]) -> None:
    config = counted()
    first = pipeline.run_stage("ingest", config)
    again = pipeline.run_stage("ingest", config)
    assert "skipped" not in first and again["skipped"]
    assert counted.calls == ["ingest"]  # type: ignore[attr-defined]


def test_other_settings_stop_with_what_changed_and_force_replaces(
    counted: Callable[..., Config],
) -> None:
    pipeline.run_stage("ingest", counted())
    changed = counted(ingest={"chunk_tokens": 64})
    with pytest.raises(ConfigError, match=r"ingest.chunk_tokens 128 -> 64.*--force"):
        pipeline.run_stage("ingest", changed)
    assert "skipped" not in pipeline.run_stage("ingest", changed, force=True)


def test_force_keeps_the_replies_of_a_language_model_and_drop_replies_deletes_them(
    counted: Callable[..., Config],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def generate(session: Session) -> dict[str, int]:
        _config, run_dir = session.config, session.run_dir
        replies = run_dir.replies("generate")
        replies.parent.mkdir(exist_ok=True)
        with replies.open("a", encoding="utf-8") as out:
            out.write("{}\n")
        return {"num_replies": len(replies.read_text(encoding="utf-8").splitlines())}

    monkeypatch.setitem(sys.modules, "rag_ft.stages.generate", types.SimpleNamespace(run=generate))
    for name in ("ingest", "index", "generate"):
        pipeline.run_stage(name, counted())
    other = counted(generate={"advanced": {"checks": ["form"]}})
    assert pipeline.run_stage("generate", other, force=True)["counts"]["num_replies"] == 2
    assert pipeline.run_stage("generate", other, force=True)["counts"]["num_replies"] == 3
    dropped = pipeline.run_stage("generate", other, force=True, drop_replies=True)
    assert dropped["counts"]["num_replies"] == 1
    assert "its 3 lines are asked for again" in caplog.text


def test_half_finished_work_of_other_settings_is_not_continued(
    counted: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(session: Session) -> dict[str, int]:
        _config, run_dir = session.config, session.run_dir
        run_dir.documents.write_text("", encoding="utf-8")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["rag_ft.stages.ingest"], "run", killed)
        with pytest.raises(KeyboardInterrupt):
            pipeline.run_stage("ingest", counted())
    with pytest.raises(ConfigError, match="--force"):
        pipeline.run_stage("ingest", counted(ingest={"chunk_tokens": 64}))
    done = pipeline.run_stage("ingest", counted())
    assert done["counts"] == {"num_calls": 1} and done["continued"]
    assert run_status.status(counted())[0][2].endswith("s (after resume)")


def test_a_stage_that_failed_before_it_wrote_anything_takes_other_settings(
    counted: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(session: Session) -> dict[str, int]:
        _config, _run_dir = session.config, session.run_dir
        raise DataError("only 40 % could be read")

    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["rag_ft.stages.ingest"], "run", refused)
        with pytest.raises(DataError):
            pipeline.run_stage("ingest", counted())
    assert "continued" not in pipeline.run_stage("ingest", counted(ingest={"chunk_tokens": 64}))


def test_a_stage_whose_input_is_missing_names_the_stage_to_run(
    counted: Callable[..., Config],
) -> None:
    with pytest.raises(DataError, match="index builds on ingest"):
        pipeline.run_stage("index", counted())


def test_a_changed_input_makes_the_later_stage_stale(counted: Callable[..., Config]) -> None:
    pipeline.run_stage("ingest", counted())
    pipeline.run_stage("index", counted())
    changed = counted(ingest={"chunk_tokens": 64})
    pipeline.run_stage("ingest", changed, force=True)
    states = {name: state for name, state, _ in run_status.status(changed)}
    assert states == {
        "ingest": "done",
        "index": "stale",
        "generate": "missing",
        "train_retriever": "missing",
        "train_reranker": "unused",
        "train_generator": "missing",
        "evaluate": "missing",
        "report": "missing",
    }


def test_a_changed_document_makes_ingest_stale(
    counted: Callable[..., Config], tmp_path: Path
) -> None:
    document = tmp_path / "a.txt"
    document.write_text("one", encoding="utf-8")
    config = counted(ingest={"sources": [document]})
    pipeline.run_stage("ingest", config)
    document.write_text("two words", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"a\.txt changed"):
        pipeline.run_stage("ingest", config)


def test_files_that_are_not_read_change_nothing_and_odd_names_stop_nothing(
    counted: Callable[..., Config], tmp_path: Path
) -> None:
    folder = tmp_path / "docs"
    folder.mkdir()
    (folder / "a.md").write_text("one", encoding="utf-8")
    Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.md")).write_text("two", encoding="utf-8")
    pipeline.run_stage("ingest", counted(ingest={"sources": [folder]}))
    (folder / ".DS_Store").write_text("of a file manager", encoding="utf-8")
    assert pipeline.run_stage("ingest", counted(ingest={"sources": [folder]}))["skipped"]


@pytest.mark.parametrize("changed", ["prompts/answer.txt", "model/model.safetensors"])
def test_edited_prompts_and_replaced_weights_make_a_stage_stale(
    counted: Callable[..., Config], tmp_path: Path, changed: str
) -> None:
    for name in ("prompts/answer.txt", "model/model.safetensors"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("one", encoding="utf-8")
    config = counted(llm={"prompts": str(tmp_path / "prompts"), "model": str(tmp_path / "model")})
    run_dir = RunDir(config.run_path)
    for name in ("ingest", "index"):
        pipeline.run_stage(name, config)
    before = pipeline.plan_of(find_stage("generate"), config, run_dir)
    (tmp_path / changed).write_text("another", encoding="utf-8")
    after = pipeline.plan_of(find_stage("generate"), config, run_dir)
    assert before["fingerprint"] != after["fingerprint"]
    assert pipeline.run_stage("index", config)["skipped"]


def test_settings_that_only_change_speed_do_not_make_a_stage_stale(
    counted: Callable[..., Config],
) -> None:
    pipeline.run_stage("ingest", counted())
    assert pipeline.run_stage("ingest", counted(encoder={"advanced": {"batch_tokens": 512}}))[
        "skipped"
    ]


def test_the_done_file_says_what_was_run(counted: Callable[..., Config]) -> None:
    config = counted()
    pipeline.run_stage("ingest", config)
    done = json.loads(RunDir(config.run_path).done("ingest").read_text(encoding="utf-8"))
    planned = {"fingerprint", "config", "inputs", "sources", "threads"}
    measured = {"outputs", "result", "counts", "seconds", "peak_memory_gb", "versions"}
    assert planned | measured == set(done)
    assert planned < set(
        json.loads(RunDir(config.run_path).started("ingest").read_text(encoding="utf-8"))
    )


def test_a_run_folder_that_cannot_be_written_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x", encoding="utf-8")
    with pytest.raises(ConfigError, match=r"run.dir"):
        pipeline.run_stage("ingest", make_config({"run": {"dir": tmp_path / "file" / "run"}}))


def test_every_stage_only_builds_on_earlier_ones() -> None:
    for number, stage in enumerate(STAGES):
        assert set(stage.after) <= set(NAMES[:number])


def test_training_that_is_switched_off_needs_no_command_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    off = make_config({"train_retriever": {"enabled": False}})
    assert pipeline.stages_to_run("train_generator", off) == ["train_retriever", "train_generator"]
    assert pipeline.stages_to_run("train_retriever", off) == ["train_retriever"]
    assert pipeline.stages_to_run("index", off) == ["index"]
    assert pipeline.stages_to_run("train_generator", make_config({})) == ["train_generator"]
    given = make_config(
        {"train_retriever": {"enabled": False}, "evaluate": {"encoder": "elsewhere"}}
    )
    assert pipeline.stages_to_run("train_generator", given) == ["train_generator"]
    with pytest.raises(ConfigError, match=r"set train_generator.enabled=false"):
        pipeline.stages_to_run("evaluate", given)
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert pipeline.stages_to_run("train_generator", off) == ["train_generator"]
