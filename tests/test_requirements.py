"""`rag-ft evaluate --require`: what a run must reach, and how a miss is told."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest
from synthetic_run import metrics_of, reported_with

from rag_ft.cli import main
from rag_ft.errors import ConfigError
from rag_ft.evaluation.systems import shipped_system
from rag_ft.report.requirements import (
    measured_system,
    outcomes,
    parse_requirements,
    write_junit,
)


@pytest.fixture(scope="module")
def metrics(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    return metrics_of(reported_with(tmp_path_factory.mktemp("synthetic") / "run"))


def value(metrics: dict[str, Any], system: str, metric: str) -> float:
    return float(metrics["systems"][system][metric]["value"])


def met(metrics: dict[str, Any], text: str, strict: bool = False) -> list[bool]:
    return [found.is_met for found in outcomes(parse_requirements(text), metrics, strict)]


def test_a_value_is_at_least_or_at_most_the_limit(metrics: dict[str, Any]) -> None:
    f1 = value(metrics, "base", "f1")
    assert met(metrics, f"base.f1>={f1 - 0.01}, base.f1 >= {f1 + 0.01}") == [True, False]
    assert met(metrics, f"base.f1<={f1 - 0.01},base.f1<={f1 + 0.01}") == [False, True]


def test_strict_looks_at_the_worse_end_of_the_interval(metrics: dict[str, Any]) -> None:
    f1, [low, high] = value(metrics, "base", "f1"), metrics["systems"]["base"]["f1"]["ci95"]
    assert low < f1 < high
    between = (low + f1) / 2
    assert met(metrics, f"base.f1>={between}") == [True]
    assert met(metrics, f"base.f1>={between}", strict=True) == [False]
    between = (high + f1) / 2
    assert met(metrics, f"base.f1<={between}") == [True]
    assert met(metrics, f"base.f1<={between}", strict=True) == [False]


def test_a_delta_is_the_change_from_base_and_retrieval_is_that_of_the_systems_ranking(
    metrics: dict[str, Any],
) -> None:
    found = outcomes(
        parse_requirements("tuned.f1_delta>=0,tuned_generator.recall@5>=0,base.f1_delta>=0"),
        metrics,
    )
    rows = {(c["a"], c["b"], c["metric"]): c["delta"] for c in metrics["comparisons"]}
    assert found[0].value == rows["base", "tuned", "f1"]
    assert found[1].value == value(metrics, "base", "recall@5")
    assert (found[2].value, found[2].is_met) == (0.0, True)


def test_without_a_system_it_is_about_what_is_served(metrics: dict[str, Any]) -> None:
    ship = metrics["verdict"]["ship"]
    [found] = outcomes(parse_requirements("f1>=0"), metrics)
    assert found.system == shipped_system(ship).name
    assert found.value == value(metrics, found.system, "f1")
    systems = [shipped_system(name).name for name in ("both", "retriever", "none", "undecided")]
    assert systems == ["tuned", "tuned_retriever", "base", "base"]


def test_a_system_that_repeats_another_is_found_under_its_name() -> None:
    assert measured_system("tuned", {"retriever"}) == "tuned_retriever"
    assert measured_system("tuned_generator", {"retriever"}) == "base"
    assert measured_system("tuned", {"retriever", "generator"}) == "tuned"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("recal@5>=0.8", "no metric recal@5: did you mean recall@5?"),
        ("tune.f1>=0.8", "no system tune: did you mean tuned?"),
        ("f1=0.8", "write metric>=number"),
        ("f1>=80", "is a share from 0 to 1"),
        (" , ", "names nothing"),
    ],
)
def test_a_wrong_requirement_is_named(text: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said.replace("?", r"\?")):
        parse_requirements(text)


def test_what_was_not_measured_is_an_error_and_no_miss(metrics: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="similarity of base was not measured"):
        outcomes(parse_requirements("base.similarity>=0.5"), metrics)


def test_junit_has_a_case_for_each_requirement(metrics: dict[str, Any], tmp_path: Path) -> None:
    results = outcomes(parse_requirements("base.f1>=0,base.f1>=1"), metrics)
    write_junit(tmp_path / "new" / "junit.xml", "demo", results)
    suite = ET.parse(tmp_path / "new" / "junit.xml").getroot()
    assert (suite.get("tests"), suite.get("failures")) == ("2", "1")
    assert [case.find("failure") is not None for case in suite] == [False, True]


def test_the_command_exits_with_3_and_names_the_line_that_failed(
    tmp_path: Path, tiny_encoder_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    documents = [{"id": "ferry", "text": "The ferry leaves Port Sorrel at noon.", "split": "test"}]
    documents += [{"id": "mill", "text": "The mill was built by Ada Brand.", "split": "train"}]
    question = {"question": "When does the ferry leave?", "answers": ["noon"]}
    (tmp_path / "documents.jsonl").write_text("".join(json.dumps(d) + "\n" for d in documents))
    (tmp_path / "questions.jsonl").write_text(
        json.dumps({**question, "document_id": "ferry"}) + "\n"
    )
    values = {
        "run": {"dir": str(tmp_path / "run")},
        "ingest": {"sources": [str(tmp_path / "documents.jsonl")]},
        "encoder": {"model": str(tiny_encoder_dir)},
        "retrieval": {"mode": "lexical"},
        "generate": {"pairs_per_chunk": 0, "questions": [str(tmp_path / "questions.jsonl")]},
        "train_retriever": {"enabled": False},
        "train_generator": {"enabled": False},
        "evaluate": {"answers": False},
    }
    file = tmp_path / "small.yaml"
    file.write_text(json.dumps(values))
    words, junit = ["evaluate", str(file), "--require"], tmp_path / "junit.xml"
    assert main([*words, "recall@5>=0.9", "--junit", str(junit)]) == 0
    assert "recall@5>=0.9: met, 1.000" in capsys.readouterr().out and junit.is_file()
    assert main([*words, "recall@5>=0.9,recall@5<=0.5"]) == 3
    said = capsys.readouterr().err
    assert "not good enough: recall@5<=0.5: not met, 1.000 (base)" in said
    assert main([*words, "recall@5>=0.9", "--strict"]) == 1  # one document gives no interval
    assert "--strict needs an interval" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["evaluate", str(file), "--strict"])
