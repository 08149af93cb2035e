"""The next version of a run: what it takes over, which test questions stay, and what decides."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from foreteller import Foreteller
from improve_run import Made, about, pairs_of, write_document
from improve_run import finished as finished
from improve_run import made as made

from rag_ft.cli import main
from rag_ft.commands import improve
from rag_ft.config_loader import load_config
from rag_ft.run_dir import RunDir
from rag_ft.schema import Chunk, Document, QAPair
from rag_ft.storage import read_jsonl, read_rows
from rag_ft.versions import promoted, versions_of


def splits_of(run: Path) -> dict[str, str]:
    return {d.id: d.split for d in read_jsonl(RunDir(run).documents, Document)}


def test_only_what_is_new_is_encoded_and_asked_about(made: Made) -> None:
    place, run, model = made
    before = {row["key"]: row for row in read_rows(RunDir(run).replies("generate"))}
    write_document(place / "new", "Far Light", captain="Una Holm")
    (place / "train" / "east-mill.md").unlink()
    model.asked.clear()
    assert main(["improve", str(run), "--documents", str(place / "new")]) == 0
    second = RunDir(run.with_name("x.v2"))
    assert about(run, 2)["changes"]["added"] == ["far-light.md"]
    assert about(run, 2)["changes"]["deleted"] == ["east-mill.md"]
    index = json.loads(second.done("index").read_text())["counts"]
    ingest = json.loads(second.done("ingest").read_text())["counts"]
    assert (index["num_encoded"], ingest["num_reused_documents"]) == (1, 6)
    written = [r for r in model.asked if "Write a question" in r.messages[0]["content"]]
    assert written and all("Far Light" in r.messages[0]["content"] for r in written)
    after = {row["key"]: row for row in read_rows(second.replies("generate"))}
    assert before.items() <= after.items()
    assert "east-mill.md" not in {c.document_id for c in read_jsonl(second.chunks, Chunk)}


def test_a_version_equals_a_run_from_the_beginning(made: Made) -> None:
    place, run, _ = made
    write_document(place / "train", "Far Light", captain="Una Holm")
    write_document(place / "dev", "Salt House", price="90 euros")
    assert main(["improve", str(run)]) == 0
    other = run.with_name("anew")
    assert main(["run", str(place / "x.yaml"), f"run.dir={other}"]) == 0
    second = RunDir(run.with_name("x.v2"))
    for path in (second.documents, second.chunks, second.generated_pairs):
        same = RunDir(other).path / path.relative_to(second.path)
        assert path.read_bytes() == same.read_bytes(), path.name
    found, anew = (sorted(run_dir.hits("base").open()) for run_dir in (second, RunDir(other)))
    assert found == anew
    # Test questions keep the checks that they were made with.
    assert pairs_of(second.path, "test").keys() == pairs_of(other, "test").keys()
    assert pairs_of(second.path, "train") == pairs_of(other, "train")


def test_the_parents_test_questions_stay_although_a_new_document_asks_one_first(
    made: Made,
) -> None:
    place, run, _ = made
    frozen = pairs_of(run, "test")
    # Ids are in the order of the sources: the copy of a test fact comes first.
    other = {"captain": "Rolf Vik", "price": "12 crowns", "colour": "red", "keeper": "Bo Ek"}
    write_document(place / "train", "Long Bridge", **other)
    (place / "train" / "long-bridge.md").rename(place / "train" / "a-copy.md")
    assert main(["improve", str(run)]) == 0
    second = run.with_name("x.v2")
    assert pairs_of(second, "test") == frozen
    questions = {pair.question for pair in frozen.values()}
    twins = [p for p in pairs_of(second, "train").values() if p.question in questions]
    assert twins, "the train document asks what a test document asks"
    assert [p.id for p in read_jsonl(RunDir(second).frozen, QAPair)] == list(frozen)


def test_a_question_is_retired_where_its_document_changes_or_goes(
    made: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    place, run, _ = made
    frozen = pairs_of(run, "test")
    write_document(place / "test", "North Quay", captain="Una Holm")
    (place / "test" / "wide-gate.md").unlink()
    assert main(["improve", str(run)]) == 0
    retired = {row["item"]: row["reason"] for row in read_rows(rejects(run))}
    quay, gate = (set(pairs_of(run, "test", f"{n}.md")) for n in ("north-quay", "wide-gate"))
    assert retired == {
        **dict.fromkeys(quay, "its document has changed"),
        **dict.fromkeys(gate, "its document is deleted"),
    }
    said = capsys.readouterr().err
    assert f"{len(frozen) - len(retired)} test questions of x decide" in said
    assert f"{len(retired)} are retired" in said
    second = run.with_name("x.v2")
    assert pairs_of(second, "test", "long-bridge.md") == pairs_of(run, "test", "long-bridge.md")
    # The changed document stays a test document, with questions about its new text.
    assert splits_of(second)["north-quay.md"] == "test"
    fresh = pairs_of(second, "test", "north-quay.md")
    assert {"Una Holm"} <= {pair.answer for pair in fresh.values()}
    assert about(run, 2)["decision"]["questions"] == len(frozen) - len(retired)


def rejects(run: Path) -> Path:
    return RunDir(run.with_name("x.v2")).rejects("improve")


def test_a_copy_of_a_test_document_joins_the_test_split_also_of_one_that_is_gone(
    made: Made,
) -> None:
    place, run, _ = made
    text = (place / "test" / "north-quay.md").read_text()
    (place / "new").mkdir()
    (place / "new" / "again.md").write_text(text + "Printed anew.\n")
    gone = place / "test" / "wide-gate.md"
    (place / "new" / "renamed.md").write_text(gone.read_text())
    gone.unlink()
    assert main(["improve", str(run), "--documents", str(place / "new")]) == 0
    splits = splits_of(run.with_name("x.v2"))
    assert (splits["again.md"], splits["renamed.md"]) == ("test", "test")


def test_a_version_that_is_no_worse_is_promoted_and_a_worse_one_is_kept(
    made: Made, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    place, run, model = made
    # Where no answer has changed, any loss is excluded.
    write_document(place / "train", "Far Light")
    assert main(["improve", str(run), "--max-loss", "0"]) == 0
    assert "promoted x.v2: +0.0 F1" in capsys.readouterr().out
    assert promoted(run).name == "x.v2" and about(run, 2)["parent"] == "x"

    # From now on the model answers wrongly where it sees several chunks, as the evaluation does.
    def spoil(request: Any, text: str) -> str:
        return text if request.schema or "/" in request.id else "nobody knows"

    write_document(place / "train", "Deep Well")
    monkeypatch.setattr(model, "_spoil", spoil)
    monkeypatch.setattr(model, "name", "worse")
    monkeypatch.setattr(improve, "run_stage_of", spoiled_after_generate(model, monkeypatch))
    assert main(["improve", str(run)]) == 0
    decision = about(run, 3)["decision"]
    assert "kept x.v2" in capsys.readouterr().out and not decision["promoted"]
    assert decision["ci95"][0] < -0.02 and about(run, 3)["parent"] == "x.v2"
    assert promoted(run).name == "x.v2"


def spoiled_after_generate(model: Foreteller, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Runs stages with a model whose answers are wrong in the evaluation alone."""
    run_stage_of, spoil = improve.run_stage_of, model._spoil

    def run(run_dir: RunDir, name: str) -> None:
        monkeypatch.setattr(model, "_spoil", spoil if name == "evaluate" else lambda _, text: text)
        monkeypatch.setattr(model, "name", "worse" if name == "evaluate" else "foreteller")
        run_stage_of(run_dir, name)

    return run


def test_without_anything_new_there_is_no_version(
    made: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    place, run, _ = made
    assert main(["improve", str(run)]) == 1
    assert "nothing has changed since x:" in capsys.readouterr().err
    assert main(["improve", str(run), "--documents", str(place / "none")]) == 1
    assert "there is no such file or folder" in capsys.readouterr().err
    assert not run.with_name("x.v2").exists()
    write_document(place / "train", "Far Light")
    assert main(["improve", str(run)]) == 0
    assert main(["improve", str(run)]) == 1
    assert "nothing has changed since x.v2:" in capsys.readouterr().err
    assert [v.name for v in versions_of(run)] == ["x", "x.v2"]


def test_a_run_without_a_report_is_not_continued(
    made: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    _, run, _ = made
    RunDir(run).done("report").unlink()
    assert main(["improve", str(run)]) == 1
    assert "report has not finished" in capsys.readouterr().err
    assert main(["improve", str(run.with_name("none"))]) == 1
    assert "no run folder" in capsys.readouterr().err and not run.with_name("none").exists()


# A kill itself, at every point, is the slow test of test_improve_kill.py.
@pytest.mark.parametrize(
    "point",
    [
        "take_over",
        *(pytest.param(name, marks=pytest.mark.slow) for name in ("ingest", "generate")),
        "evaluate",
        "decide",
    ],
)
def test_a_version_that_was_interrupted_is_finished_by_the_next_command(
    made: Made, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    place, run, _ = made
    write_document(place / "new", "Far Light", captain="Una Holm")
    words = ["improve", str(run), "--documents", str(place / "new")]
    run_stage_of = improve.run_stage_of

    def killed(*args: Any) -> Any:
        if point not in ("take_over", "decide") and args[1] != point:
            return run_stage_of(*args)
        if point == "take_over":
            unfinished = run.with_name(".x.v2.new")
            unfinished.mkdir()
            (unfinished / "half").write_text("")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        name = point if point in ("take_over", "decide") else "run_stage_of"
        patch.setattr(improve, name, killed)
        assert main(words) == 130
    assert promoted(run) == run
    assert main(words if point == "take_over" else words[:2]) == 0
    assert [v.name for v in versions_of(run)] == ["x", "x.v2"] and promoted(run).name == "x.v2"
    assert about(run, 2)["changes"]["added"] == ["far-light.md"]
    assert not run.with_name(".x.v2.new").exists() and not (run.with_name("x.v2") / "half").exists()


def test_documents_that_change_again_before_a_version_is_finished_are_taken(
    made: Made, monkeypatch: pytest.MonkeyPatch
) -> None:
    place, run, _ = made
    write_document(place / "train", "Far Light")
    with monkeypatch.context() as patch:
        patch.setattr(improve, "decide", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert main(["improve", str(run)]) == 130
    other = {"captain": "Rolf Vik", "price": "12 crowns", "colour": "red", "keeper": "Bo Ek"}
    write_document(place / "train", "Far Light", **other)
    assert main(["improve", str(run)]) == 0
    pairs = pairs_of(run.with_name("x.v2"), "train", "far-light.md").values()
    assert {p.answer for p in pairs if p.answerable} <= set(other.values())


def test_what_was_trained_on_and_is_a_test_document_now_needs_a_start_from_the_base(
    made: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    place, run, _ = made
    text = (place / "test" / "long-bridge.md").read_text()
    (place / "train" / "old-tower.md").write_text(text + "Printed anew.\n")
    RunDir(run).generator.mkdir()
    assert main(["improve", str(run), "--start", "parent"]) == 1
    said = capsys.readouterr().err
    assert "old-tower.md has become a test document" in said and "--start base" in said
    shutil.rmtree(run.with_name("x.v2"))
    assert main(["improve", str(run)]) == 0
    assert splits_of(run.with_name("x.v2"))["old-tower.md"] == "test"
    assert about(run, 2)["changes"]["now_test"] == ["old-tower.md"]


def test_the_configuration_in_a_run_folder_is_one(made: Made) -> None:
    _, run, _ = made
    config = load_config(RunDir(run).config, ["retrieval.top_k=7"])
    assert (config.name, config.retrieval.top_k, config.run_path) == ("x", 7, run)
    assert main(["status", str(RunDir(run).config)]) == 0


def test_an_update_takes_more_sources_and_no_other_change_of_them(
    made: Made, capsys: pytest.CaptureFixture[str]
) -> None:
    place, run, _ = made
    write_document(place / "new", "Far Light")
    values = yaml.safe_load((place / "x.yaml").read_text())
    values["ingest"]["sources"].append(str(place / "new"))
    more = place / "more.yaml"
    more.write_text(yaml.safe_dump(values))
    assert main(["ingest", str(more), "--update"]) == 0
    assert "far-light.md" in splits_of(run)
    values["ingest"]["sources"][2]["split"] = "train"
    more.write_text(yaml.safe_dump(values))
    assert main(["ingest", str(more), "--update"]) == 1
    assert "an update only takes other documents" in capsys.readouterr().err
