"""Versions of a run: which there are, which one is served, and the way back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from rag_ft.cli import main
from rag_ft.commands.serve import promoted_config
from rag_ft.errors import ConfigError, DataError
from rag_ft.run_dir import RunDir
from rag_ft.serving.collections import open_collection
from rag_ft.versions import (
    first_version,
    next_version,
    promote,
    promoted,
    rollback,
    versions_of,
    write_version,
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """runs/x with an index, and two further versions."""
    first = tmp_path / "runs" / "x"
    for number in (1, 2, 3):
        folder = first if number == 1 else first.with_name(f"x.v{number}")
        folder.mkdir(parents=True)
        (folder / "index.done.json").write_text("{}")
        config = {"run": {"dir": str(folder)}, "retrieval": {"top_k": number}}
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
        if number > 1:
            decision = {"promoted": True, "sentence": f"version {number} is better"}
            write_version(RunDir(folder), f"x.v{number - 1}", {"documents": number}, decision)
    return first


def served(run: Path) -> list[str]:
    return [version.name for version in versions_of(run) if version.is_promoted]


def test_the_run_itself_is_served_until_another_is_promoted(run: Path) -> None:
    assert [v.name for v in versions_of(run)] == ["x", "x.v2", "x.v3"]
    assert served(run) == ["x"] and promoted(run) == run
    promote(versions_of(run)[2])
    assert served(run) == ["x.v3"] and promoted(run.with_name("x.v2")).name == "x.v3"
    about = versions_of(run)[2]
    assert (about.parent, about.changes) == ("x.v2", {"documents": 3})


def test_rollback_goes_back_one_version_or_to_a_named_one(run: Path) -> None:
    _, second, third = versions_of(run)
    promote(second)
    promote(third)
    promote(third)
    assert rollback(run).name == "x.v2" and served(run) == ["x.v2"]
    assert rollback(run, "v1").name == "x" and served(run) == ["x"]
    assert rollback(run, "x.v3").name == "x.v3"
    with pytest.raises(ConfigError, match=r"no version 'v9': there are x, x\.v2, x\.v3"):
        rollback(run, "v9")


def test_nothing_to_go_back_to_is_one_line(run: Path) -> None:
    with pytest.raises(ConfigError, match="no other version of x was served before"):
        rollback(run)


def test_a_version_without_an_index_cannot_be_served(run: Path) -> None:
    (run.with_name("x.v2") / "index.done.json").unlink()
    with pytest.raises(DataError, match="no index"):
        rollback(run, "v2")
    assert served(run) == ["x"]


def test_a_run_that_is_only_named_like_a_version_is_a_run_of_its_own(run: Path) -> None:
    other = run.with_name("x.v7")
    other.mkdir()
    assert first_version(other) == other
    assert [v.name for v in versions_of(other)] == ["x.v7"]
    assert "x.v7" not in [v.name for v in versions_of(run)]
    assert next_version(run.with_name("x.v2")) == run.with_name("x.v4")


@pytest.mark.parametrize("content", ["{", "[]", '{"version": "y.v2"}', '{"version": "x.v9"}'])
def test_a_damaged_promoted_json_is_named(run: Path, content: str) -> None:
    RunDir(run).promoted.write_text(content)
    with pytest.raises(DataError, match=r"promoted\.json"):
        promoted(run)


def test_the_server_takes_the_promoted_version_under_the_same_ids(
    run: Path, tmp_path: Path
) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump({"run": {"dir": str(run)}}))
    assert promoted_config(path, []).retrieval.top_k == 3  # the default
    promote(versions_of(run)[1])
    config = promoted_config(path, ["serve.log=true"])
    assert (config.retrieval.top_k, config.serve.log) == (2, True)
    assert config.run_path == run.with_name("x.v2")
    assert open_collection(config, base_only=True).name == "x"


def test_the_commands_show_and_switch(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    levels = {"f1": {"value": 0.5}, "recall@5": {"value": 0.75}, "mrr": {"value": 0.6}}
    better = {name: {"value": level["value"] + 0.1} for name, level in levels.items()}
    metrics = {
        "verdict": {"ship": "generator"},
        "systems": {"base": levels, "tuned_generator": better},
    }
    (run / "metrics.json").write_text(json.dumps(metrics))
    assert main(["rollback", str(run), "v3"]) == 0
    assert "x.v3 is served" in capsys.readouterr().out
    assert main(["versions", str(run)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "60.0" in lines[1], "the tuned generator's F1"
    assert "served" not in lines[1] and "served" in lines[3]
    assert "version 3 is better" in lines[3]
    # A shipped retriever alone: its recall stands in the row of all components.
    rows = {"tuned_retriever": {"f1": {"value": 0.4}}, "tuned": {"recall@5": {"value": 0.91}}}
    shipped = {"verdict": {"ship": "retriever"}, "systems": rows}
    (run / "metrics.json").write_text(json.dumps(shipped))
    assert main(["versions", str(run)]) == 0
    assert "40.0" in (line := capsys.readouterr().out.splitlines()[1]) and "91.0" in line
    (run / "metrics.json").write_text("{}")
    assert main(["versions", str(run)]) == 1
    assert main(["versions", str(run / "none")]) == 1
