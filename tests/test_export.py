"""Accepted pairs in other tools' formats, whole or not at all."""

from __future__ import annotations

import importlib
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rag_ft.commands import export as export_module
from rag_ft.commands.export import FORMATS, REVIEW_FORMATS, export, with_gold
from rag_ft.config import Config
from rag_ft.errors import ConfigError, DataError
from rag_ft.pipeline import run_stage
from rag_ft.run_dir import RunDir
from rag_ft.schema import Chunk, Evidence, QAPair
from rag_ft.storage import read_rows
from rag_ft.text import cell_id

DOCUMENTS = [
    {
        "id": "a.md",
        "title": "Boats",
        "text": "The captain of the Grey Heron is Ola Brand.",
        "split": "train",
    },
    {
        "id": "b.md",
        "title": "Towers",
        "text": "The Old Tower was built in 1901 by Berit Moe.",
        "split": "train",
    },
    {"id": "c.md", "title": "Mills", "text": "The East Mill grinds salt.", "split": "test"},
]
QUESTIONS = [
    {
        "id": "q1",
        "question": "Who is the captain of the Grey Heron?",
        "answers": ["Ola Brand"],
        "document_id": "a.md",
    },
    {
        "id": "q2",
        "question": "When was the Old Tower built?",
        "answers": ["1901", "in 1901"],
        "document_id": "b.md",
    },
    {"id": "q3", "question": "How high is the Old Tower?", "answers": [], "document_id": "b.md"},
    {
        "id": "q4",
        "question": "What does the East Mill grind?",
        "answers": ["salt"],
        "document_id": "c.md",
    },
    {
        "id": "q5",
        "question": "Why does the mill turn?",
        "answers": ["by wind"],
        "document_id": "c.md",
    },
]


@pytest.fixture
def finished(make_run: Callable[..., Any], tmp_path: Path) -> Config:
    """A run whose qa.jsonl holds QUESTIONS."""
    file = tmp_path / "questions.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in QUESTIONS))
    config, _ = make_run(
        DOCUMENTS, generate__pairs_per_chunk=0, generate__questions=[file], retrieval__top_k=2
    )
    for stage in ("ingest", "index", "generate"):
        run_stage(stage, config)
    return config


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


QUESTION, ANSWER = "Who is the captain of the Grey Heron?", "Ola Brand"
EXPECTED = {
    "openai": {
        "messages": [
            {"role": "user", "content": QUESTION},
            {"role": "assistant", "content": ANSWER},
        ]
    },
    "gemini": {
        "contents": [
            {"role": "user", "parts": [{"text": QUESTION}]},
            {"role": "model", "parts": [{"text": ANSWER}]},
        ]
    },
    "sharegpt": {
        "conversations": [{"from": "human", "value": QUESTION}, {"from": "gpt", "value": ANSWER}]
    },
    "alpaca": {"instruction": QUESTION, "input": "", "output": ANSWER},
    "trl": {
        "prompt": [{"role": "user", "content": QUESTION}],
        "completion": [{"role": "assistant", "content": ANSWER}],
    },
}


@pytest.mark.parametrize("name", EXPECTED)
def test_tuning_formats_hold_answerable_training_pairs_alone(
    finished: Config, tmp_path: Path, name: str
) -> None:
    target = tmp_path / "new folder" / "out.jsonl"
    assert export(finished, name, str(target)) == {"rows": 2, "left_out": 1}
    rows = lines(target)
    assert rows[0] == EXPECTED[name]
    assert "East Mill" not in target.read_text() and "How high" not in target.read_text()


@pytest.mark.parametrize("name", EXPECTED)
def test_with_context_the_prompt_is_the_one_that_is_served(
    finished: Config, tmp_path: Path, name: str
) -> None:
    target = tmp_path / "out.jsonl"
    assert export(finished, name, str(target), with_context=True) == {"rows": 3, "left_out": 0}
    text = target.read_text()
    assert (
        text.count("Answer the question from the context") == 3
        and "I don't know." in lines(target)[2].__repr__()
    )
    assert "[1] " in text and "[2] " in text


def test_the_proof_takes_the_last_place_where_retrieval_missed_it(
    finished: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rag_ft.retrieval import retriever as search

    class Misses:
        def __init__(self) -> None:
            self.row_of = {"a.md#0": 0, "b.md#0": 1, "c.md#0": 2}

        def search(
            self, questions: list[str], k: int, mode: str | None = None, filters: Any = None
        ) -> list[list[tuple[str, float]]]:
            return [[("c.md#0", 1.0), ("b.md#0", 0.5)][:k] for _ in questions]

    monkeypatch.setattr(search, "open_retriever", lambda *args, **kwargs: Misses())
    export(finished, "trl", str(tmp_path / "out.jsonl"), with_context=True)
    prompt = lines(tmp_path / "out.jsonl")[0]["prompt"][0]["content"]
    assert prompt.index("[1] Mills") < prompt.index("[2] Boats") and "Old Tower" not in prompt


def test_beir_has_corpus_queries_and_judgements_of_every_split(
    finished: Config, tmp_path: Path
) -> None:
    folder = tmp_path / "beir"
    assert export(finished, "beir", str(folder)) == {"rows": 3, "left_out": 2}
    assert [row["_id"] for row in lines(folder / "corpus.jsonl")] == ["a.md#0", "b.md#0", "c.md#0"]
    assert {row["_id"] for row in lines(folder / "queries.jsonl")} == {"q1", "q2", "q4"}
    assert (
        folder / "qrels" / "train.tsv"
    ).read_text() == "query-id\tcorpus-id\tscore\nq1\ta.md#0\t1\nq2\tb.md#0\t1\n"
    assert (folder / "qrels" / "test.tsv").read_text().splitlines()[1:] == ["q4\tc.md#0\t1"]


def test_squad_answers_stand_where_they_say(finished: Config, tmp_path: Path) -> None:
    target = tmp_path / "squad.json"
    assert export(finished, "squad", str(target), splits=["train", "test"])["rows"] == 3
    data = json.loads(target.read_text())
    assert data["version"] == "v2.0" and [article["title"] for article in data["data"]] == [
        "Boats",
        "Towers",
        "Mills",
    ]
    for article in data["data"]:
        for paragraph in article["paragraphs"]:
            for question in paragraph["qas"]:
                assert question["answers"] and not question["is_impossible"]
                for answer in question["answers"]:
                    start = answer["answer_start"]
                    assert (
                        paragraph["context"][start : start + len(answer["text"])] == answer["text"]
                    )


def test_an_address_of_another_file_system_is_written_to(finished: Config) -> None:
    import fsspec

    export(finished, "openai", "memory://bucket/deep/out.jsonl")
    export(finished, "beir", "memory://bucket/beir")
    [*_, row] = read_rows(RunDir(finished.run_path).copies)
    assert (row["what"], row["to"]) == ("export", "memory://bucket/beir")
    files = fsspec.filesystem("memory").find("/bucket")
    assert "/bucket/deep/out.jsonl" in files and "/bucket/beir/qrels/train.tsv" in files
    assert not [file for file in files if ".tmp" in file]


def test_a_file_address_equals_a_path_and_replaces_what_was_there(
    finished: Config, tmp_path: Path
) -> None:
    target = tmp_path / "out.jsonl"
    target.write_text("old")
    export(finished, "openai", f"file://{target}")
    assert lines(target)[0] == EXPECTED["openai"]


def test_a_broken_export_leaves_the_old_file_and_no_temporary_one(
    finished: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "out" / "out.jsonl"
    export(finished, "openai", str(target))
    before = target.read_bytes()

    def breaks(task: Any, path: Path) -> None:
        path.write_text("half")
        raise OSError(28, "No space left on device")

    monkeypatch.setitem(export_module.FORMATS, "openai", breaks)
    with pytest.raises(ConfigError, match="No space left on device"):
        export(finished, "openai", str(target))
    assert target.read_bytes() == before and list(target.parent.iterdir()) == [target]


def test_temporary_names_are_unique_and_follow_no_link(finished: Config, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "thesis.txt").write_text("years")
    out = tmp_path / "out"
    out.mkdir()
    # Names that a fixed temporary name would take, as links to what must stay.
    for name in (".out.jsonl.tmp", "out.jsonl.tmp", ".beir.tmp", "beir.tmp"):
        (out / name).symlink_to(elsewhere)
    export(finished, "openai", str(out / "out.jsonl"))
    export(finished, "beir", str(out / "beir"))
    assert (out / "out.jsonl").is_file() and (out / "beir" / "corpus.jsonl").is_file()
    assert [path.name for path in elsewhere.iterdir()] == ["thesis.txt"]
    assert len(list(out.iterdir())) == 6


def test_an_upload_that_breaks_leaves_the_old_file_and_no_new_name(
    finished: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    import fsspec

    memory = fsspec.filesystem("memory")
    export(finished, "openai", "memory://broken/out.jsonl")
    before = memory.cat_file("/broken/out.jsonl")

    def breaks(source: Any, out: Any) -> None:
        out.write(source.read(5))
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rag_ft.publishing.shutil.copyfileobj", breaks)
    for name, to in (("trl", "memory://broken/out.jsonl"), ("beir", "memory://broken/beir")):
        with pytest.raises(ConfigError, match="No space left on device"):
            export(finished, name, to)
    monkeypatch.undo()
    assert memory.cat_file("/broken/out.jsonl") == before
    assert memory.find("/broken") == ["/broken/out.jsonl"]
    export(finished, "trl", "memory://broken/out.jsonl")
    assert memory.cat_file("/broken/out.jsonl") != before, "a later upload is not held back"


@pytest.mark.parametrize(
    ("name", "to", "message"),
    [
        ("arrow", "out", "no export format 'arrow': choose from openai"),
        ("openai", "zzz://bucket/out", "cannot write to zzz://bucket/out"),
        ("openai", "/proc/nowhere/out.jsonl", "cannot write to /proc/nowhere/out.jsonl"),
    ],
)
def test_wrong_formats_and_addresses_are_one_line(
    finished: Config, name: str, to: str, message: str
) -> None:
    with pytest.raises(ConfigError, match=message) as error:
        export(finished, name, to)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("to", "package"),
    [
        ("s3://bucket/out.jsonl", "s3fs"),
        ("gs://bucket/out.jsonl", "gcsfs"),
        ("hf://datasets/me/pairs/out.jsonl", "huggingface_hub"),
    ],
)
def test_an_address_whose_package_is_missing_names_the_package(
    finished: Config, to: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    remembered = importlib.import_module("fsspec.registry")._registry
    monkeypatch.delitem(remembered, to.split(":")[0], raising=False)
    with pytest.raises(ConfigError) as error:
        export(finished, "openai", to)
    assert (
        str(error.value)
        == f"cannot write to {to}: the package {package} is not installed (pip install {package})"
    )


def test_folders_that_are_there_are_not_overwritten(finished: Config, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years")
    for name in ("openai", "beir"):
        with pytest.raises(ConfigError, match="is a folder that exists"):
            export(finished, name, str(tmp_path / "mine"))
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years"


def test_a_run_without_pairs_names_the_stage_to_run(
    make_run: Callable[..., Any], tmp_path: Path
) -> None:
    config, _ = make_run(DOCUMENTS)
    with pytest.raises(DataError, match="run `rag-ft generate CONFIG` first"):
        export(config, "openai", str(tmp_path / "x"))


def test_splits_without_pairs_are_an_error_and_leave_no_file(
    finished: Config, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match="in the splits dev fits the format"):
        export(finished, "openai", str(tmp_path / "x.jsonl"), splits=["dev"])
    assert not (tmp_path / "x.jsonl").exists()
    assert set(FORMATS) == {*EXPECTED, "beir", "squad", *REVIEW_FORMATS}


def test_a_neighbour_that_shares_a_few_characters_with_the_evidence_is_no_proof() -> None:
    evidence = Evidence("e" * 100, 50, 150)
    pair = QAPair("p", "Q?", ("a",), "d#1", "d", evidence, "factoid", "train", "generated")
    before, own, wider, other = (
        Chunk(f"d#{n}", "d", "t", "", start, end, 9, "train")
        for n, start, end in ((0, 0, 55), (1, 40, 160), (2, 30, 200), (3, 300, 400))
    )
    chunks: Any = {"d#1": own}
    assert with_gold(pair, [other, before], chunks) == [other, own]
    assert with_gold(pair, [other, own], chunks) == [other, own]
    assert with_gold(pair, [wider, other], chunks) == [wider, other]


def test_ids_break_no_line_of_a_table_and_begin_no_formula() -> None:
    assert cell_id("a.md#0") == "a.md#0"
    odd = ["=cmd()", "+1", "-1", "@x", "a\tb", "a\nb", "a\rb", "a\x85b", "100%"]
    made = [cell_id(id) for id in odd]
    assert made[:5] == ["%3Dcmd()", "%2B1", "%2D1", "%40x", "a%09b"]
    assert len(set(made)) == len(odd) and all(len(id.splitlines()) == 1 for id in made)
    assert cell_id("a%09b") != cell_id("a\tb")
