"""compare: the same questions paired across runs, folds pooled, and what cannot be compared."""

from __future__ import annotations

import json
import re
import statistics
from collections.abc import Collection
from pathlib import Path

import pytest
from synthetic_run import make_synthetic_run

from rag_ft.commands.compare import compare, comparison_table, write_comparison
from rag_ft.errors import ConfigError, DataError
from rag_ft.report.run_comparison import comparison
from rag_ft.run_dir import RunDir
from rag_ft.storage import write_jsonl

BOTH = ("generator", "retriever")


def run(
    folder: Path,
    seed: int = 0,
    tuned: float = 0.6,
    shipped: Collection[str] = BOTH,
    **changes: object,
) -> RunDir:
    right = {"tuned": tuned}
    changes["tuned"] = shipped
    return make_synthetic_run(
        folder, seed=seed, right=right, num_documents=30, per_document=5, **changes
    )[1]  # type: ignore[arg-type]


def other_documents(run_dir: RunDir, prefix: str) -> None:
    """Makes the run's questions those of other documents, as another fold's are."""
    rows = [json.loads(line) for line in run_dir.qa.read_text().splitlines()]
    write_jsonl(run_dir.qa, [{**row, "document_id": prefix + row["document_id"]} for row in rows])


def test_the_same_questions_are_paired_and_the_change_is_the_difference_of_levels(
    tmp_path: Path,
) -> None:
    result = comparison([run(tmp_path / "a", tuned=0.4), run(tmp_path / "b", tuned=0.9)], 500)
    assert (result["kind"], result["questions"]) == ("paired", 150)
    found = {(row["system"], row["metric"]): row for row in result["differences"]}
    levels = result["levels"]
    assert found["tuned", "f1"]["delta"] == pytest.approx(
        levels["b"]["tuned"]["f1"]["value"] - levels["a"]["tuned"]["f1"]["value"], abs=1e-5
    )
    gain = 100 * found["tuned", "f1"]["delta"]
    assert result["sentences"][0].startswith(
        f"The tuned system, b against a: {gain:+.1f} F1 (95 % CI "
    )
    assert found["tuned", "f1"]["p_holm"] < 0.05 < found["oracle_base", "f1"]["p_holm"] + 0.05


def test_a_run_compared_with_itself_differs_in_nothing(tmp_path: Path) -> None:
    result = comparison([run(tmp_path / "a"), run(tmp_path / "b")], 200)
    assert {row["delta"] for row in result["differences"]} == {0.0}


@pytest.mark.parametrize(
    ("shipped", "subject", "rows"),
    [
        ((), "The base system", ["base", "oracle_base"]),
        (
            ["generator"],
            "The tuned generator",
            ["base", "tuned_generator", "oracle_base", "oracle_tuned"],
        ),
        (["retriever"], "The tuned retriever", ["base", "tuned_retriever", "oracle_base"]),
    ],
)
def test_runs_are_compared_by_what_they_tuned(
    tmp_path: Path, shipped: Collection[str], subject: str, rows: list[str]
) -> None:
    runs = [run(tmp_path / name, shipped=shipped) for name in "ab"]
    result = comparison(runs, 200)
    assert list(result["levels"]["a"]) == rows
    assert {row["system"] for row in result["differences"]} == set(rows)
    [sentence] = result["sentences"]
    assert sentence.startswith(f"{subject}, b against a: +0.0 F1")
    assert "tuned  " not in re.findall(r"b  (\w+  )", comparison_table(result))


def test_a_recall_that_two_rows_share_is_tested_once(tmp_path: Path) -> None:
    result = comparison([run(tmp_path / "a"), run(tmp_path / "b", seed=0)], 200)
    assert [row["system"] for row in result["differences"] if row["metric"] == "recall@5"] == [
        "base",
        "tuned",
    ]
    assert "recall@5" in result["levels"]["b"]["tuned_retriever"]


def test_a_run_without_a_component_that_others_tuned_is_named(tmp_path: Path) -> None:
    note = (
        "No tuned retriever was shipped in b: the base one stands in its place and counts as tuned."
    )
    runs = [run(tmp_path / "a"), run(tmp_path / "b", shipped=["generator"]), run(tmp_path / "c")]
    assert comparison(runs, 200)["sentences"][2:] == [note]
    seeds = comparison([with_seed(run_dir, n) for n, run_dir in enumerate(runs)], 200)
    assert (
        seeds["kind"] == "seeds"
        and note in seeds["verdict"]["notes"]
        and note in comparison_table(seeds)
    )
    assert note not in comparison(runs[::2], 200)["verdict"]["notes"]


def test_a_run_with_a_reranker_is_compared_with_one_without(tmp_path: Path) -> None:
    every = (*BOTH, "reranker")
    runs = [run(tmp_path / "a"), run(tmp_path / "b", shipped=every)]
    result = comparison(runs, 500)
    # Where there is none, the base one stands in its place.
    a, b = (result["levels"][name] for name in "ab")
    assert a["tuned_reranker"]["f1"]["value"] == a["base"]["f1"]["value"]
    assert a["tuned_reranker"]["recall@5"]["value"] == a["base"]["recall@5"]["value"]
    assert a["tuned_retriever"]["recall@5"]["value"] == a["tuned"]["recall@5"]["value"]
    assert b["tuned_reranker"]["recall@5"]["value"] != b["base"]["recall@5"]["value"]
    assert any("No tuned reranker was shipped in a" in line for line in result["sentences"])
    alone = comparison([runs[0], run(tmp_path / "c")], 500)
    assert "tuned_reranker" not in alone["levels"]["a"]


def test_folds_are_pooled_into_one_verdict(tmp_path: Path) -> None:
    folds = [run(tmp_path / f"fold{n}", seed=n, tuned=0.9) for n in range(3)]
    for n, fold in enumerate(folds):
        other_documents(fold, f"{n}/")
    result = comparison(folds, 500)
    assert (result["kind"], result["questions"], result["documents"]) == ("folds", 450, 90)
    assert result["verdict"]["ship"] == "both"
    assert "fold1" in comparison_table(result)


def with_seed(run_dir: RunDir, seed: int, **llm: object) -> RunDir:
    values = {
        "name": run_dir.path.name,
        "run": {"seed": seed, "dir": str(run_dir.path)},
        "llm": {"model": "x", **llm},
    }
    run_dir.config.write_text(json.dumps(values))
    return run_dir


def test_seeds_of_one_configuration_give_a_mean_and_a_spread(tmp_path: Path) -> None:
    gains = (0.5, 0.7, 0.9)
    runs = [with_seed(run(tmp_path / f"seed{n}", tuned=gain), n) for n, gain in enumerate(gains)]
    result = comparison(runs, 500)
    assert (result["kind"], result["questions"], len(result["parts"])) == ("seeds", 150, 3)
    own = [part["f1"]["tuned"] - part["f1"]["base"] for part in result["parts"]]
    assert result["spread"]["f1"]["mean"] == pytest.approx(sum(own) / 3, abs=1e-5)
    assert result["spread"]["f1"]["sd"] == pytest.approx(statistics.stdev(own), abs=1e-5)
    both = next(
        c for c in result["comparisons"] if (c["a"], c["b"], c["metric"]) == ("base", "tuned", "f1")
    )
    assert both["delta"] == pytest.approx(result["spread"]["f1"]["mean"], abs=1e-5)
    assert f"(SD {100 * result['spread']['f1']['sd']:.1f})" in comparison_table(result)
    write_comparison(result, tmp_path / "compare.html")
    assert "chance" in (tmp_path / "compare.html").read_text()


def test_runs_that_differ_in_more_than_the_seed_are_compared(tmp_path: Path) -> None:
    runs = [with_seed(run(tmp_path / "a"), 0), with_seed(run(tmp_path / "b"), 1, dtype="float32")]
    assert comparison(runs, 200)["kind"] == "paired"
    assert comparison([with_seed(r, 0) for r in runs], 200)["kind"] == "paired"


def test_runs_that_share_some_questions_are_refused(tmp_path: Path) -> None:
    a, b = run(tmp_path / "a"), run(tmp_path / "b")
    rows = [json.loads(line) for line in b.qa.read_text().splitlines()]
    for row in rows[40:]:
        row["question"] += " Really?"
    write_jsonl(b.qa, rows)
    with pytest.raises(DataError, match="too few to pair, too many to be folds"):
        comparison([a, b])


def test_one_run_is_nothing_to_compare(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="two or more"):
        comparison([RunDir(tmp_path)])


def test_what_is_no_run_folder_is_named(tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text("x")
    for wrong in (file, tmp_path / "nowhere"):
        with pytest.raises(DataError, match=f"{wrong.name} is no run folder"):
            compare([run(tmp_path / "a").path, wrong], tmp_path / "compare.html")


def test_a_page_that_its_own_data_would_overwrite_is_refused(tmp_path: Path) -> None:
    runs = [run(tmp_path / name).path for name in "ab"]
    with pytest.raises(
        ConfigError, match=r"written beside it as \.json: .*x\.json would be overwritten"
    ):
        compare(runs, tmp_path / "x.json")
    assert not (tmp_path / "x.json").exists()


def test_comparing_folders_writes_a_self_contained_page_and_its_data(tmp_path: Path) -> None:
    runs = [run(tmp_path / "a"), run(tmp_path / "b", tuned=0.9)]
    shown = compare([run_dir.path for run_dir in runs], tmp_path / "compare.html")
    text = (tmp_path / "compare.html").read_text()
    assert not re.findall(r"https?://|<script|url\(", text)
    result = json.loads((tmp_path / "compare.json").read_text())
    assert (result["runs"], result["kind"]) == (["a", "b"], "paired")
    assert shown == comparison_table(result)
