"""Every benchmark that needs no vLLM runs, on a small piece of its work."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tiny_run import make_run

from rag_ft.config_loader import load_config
from rag_ft.documents.splits import split_of
from rag_ft.model_hub import resolve
from rag_ft.pipeline import run_stage
from rag_ft.run_dir import RunDir
from rag_ft.schema import Document, QAPair
from rag_ft.stage_table import NAMES
from rag_ft.storage import read_jsonl, read_rows, write_jsonl

ROOT = Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.slow


def run(folder: Path, name: str, *words: str) -> str:
    """What the benchmark prints; its results go to `folder`."""
    environment = {**os.environ, "RAG_FT_RESULTS": str(folder), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, f"benchmarks/{name}.py", *words]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@pytest.fixture(scope="module")
def handbook_sets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sets in the layout that benchmarks read, of a part of the handbook each."""
    data = tmp_path_factory.mktemp("sets")
    lines = (ROOT / "data/handbook/questions.jsonl").read_text(encoding="utf-8").splitlines()
    questions = [json.loads(line) for line in lines]
    names = sorted({q["document_id"] for q in questions if q["document_id"].endswith(".md")})
    for name, chosen in (("covidqa_train", names[::2]), ("covidqa_dev", names[1::2])):
        (data / name).mkdir()
        documents = [
            {"id": i, "text": (ROOT / "data/handbook" / i).read_text(encoding="utf-8")}
            for i in chosen
        ]
        asked = [
            {key: q[key] for key in ("id", "question", "answers", "document_id")}
            for q in questions
            if q["document_id"] in chosen and q["answers"]
        ]
        for file, rows in (("documents", documents), ("questions", asked)):
            text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
            (data / name / f"{file}.jsonl").write_text(text, encoding="utf-8")
    return data


@pytest.mark.parametrize(
    ("name", "words", "told"),
    [
        ("gate", ["--draws", "20"], "600 questions"),
        ("scoring", ["--questions", "2", "--vocabulary", "2000"], "times_naive"),
        ("decoding", ["--chunks", "8", "--rounds", "1"], "times_generate"),
        ("lengths", ["--questions", "10"], "encoder_mb"),
        ("generator", ["--num-examples", "8", "--threads", "1"], "rag-ft"),
        ("memory", ["--cases", "tiny:1:64:lora"], "tiny"),
        ("pairs", ["--pairs", "20"], "/20 ="),
        ("documents", ["speed", "--documents", "20"], "2 cores"),
        ("scale", ["growth", "--documents", "20"], "times"),
        ("scale", ["update", "--documents", "30"], "num_reused_documents"),
        ("scale", ["chunks", "--chunks", "12000"], "recall_at_10"),
        ("scale", ["ladder", "--chunks", "12000"], "ivf_pq"),
        ("lexical", ["speed", "--texts", "300", "--kinds", "bm25s"], "index_mb"),
        ("improve", ["update", "--documents", "8"], '"same_chunk_ids": true'),
        ("documents", ["files", "data/handbook"], "'read': "),
        ("documents", ["damage", "data/handbook", "--copies", "20"], "slowest"),
        ("reliability", ["leakage"], "documents_by_chunk_tokens"),
        ("reliability", ["server", "--count", "60"], "kinds_of_faults"),
        ("reliability", ["kills", "--count", "6"], "files_of_a_finished_run"),
        ("reliability", ["together", "--count", "2"], '"wrong": []'),
        ("reliability", ["damage", "--count", "10"], "refused in one line"),
    ],
)
def test_a_benchmark_runs_and_writes_its_result(
    tmp_path: Path, name: str, words: list[str], told: str
) -> None:
    assert told in run(tmp_path, name, *words)
    if name != "gate":  # it prints a table alone
        [result] = tmp_path.glob("*.json")
        assert json.loads(result.read_text(encoding="utf-8"))


def test_the_encoding_benchmark_compares_with_the_library(
    tmp_path: Path, handbook_sets: Path
) -> None:
    words = ["--num-chunks", "24", "--rounds", "1", "--threads", "1"]
    assert "sentence-transformers" in run(
        tmp_path, "encoding", str(handbook_sets / "covidqa_train"), *words
    )


def test_the_retriever_benchmark_tunes_and_reports(tmp_path: Path, handbook_sets: Path) -> None:
    out = run(
        tmp_path,
        "retriever",
        str(handbook_sets),
        "--only",
        "held-out",
        "--work",
        str(tmp_path / "work"),
        "--threads",
        "1",
        "train_retriever.epochs=0.5",
        "train_retriever.batch_size=4",
    )
    assert "covidqa_dev" in out and "recall@5" in out


def test_the_question_writer_learns_from_the_train_documents_of_a_config_alone(
    tmp_path: Path, handbook_sets: Path
) -> None:
    words = ["data/models/demo-lm", str(handbook_sets), "--to", str(tmp_path / "taught")]
    config = tmp_path / "shares.yaml"
    config.write_text("ingest: {sources: [docs], test_share: 0.4, dev_share: 0.1}\n")
    words += ["--sets", "covidqa_train,covidqa_dev", "--train-of", str(config)]
    words += ["--work", str(tmp_path / "work"), "--threads", "1"]
    out = run(tmp_path, "question_writer", *words, "train_generator.advanced.max_steps=2")
    assert "tokens a second" in out and resolve(str(tmp_path / "taught"), "llm")
    split = load_config(config).ingest
    used = list(read_rows(tmp_path / "work" / "documents.jsonl"))
    assert used and all(split_of(row["id"], split) == "train" for row in used)


def test_the_ranking_benchmark_chooses_on_one_part_and_measures_on_the_other(
    tmp_path: Path, handbook_sets: Path
) -> None:
    words = ["--only", "halvings,latency,sentences", "--sets", "covidqa", "--halvings", "2"]
    out = run(tmp_path, "ranking", str(handbook_sets), *words, "--work", str(tmp_path / "work"))
    assert "more than a point lost in" in out and "ranker_ms" in out
    assert "covidqa dense recall@5" in out


def test_the_serving_benchmark_asks_directly_and_through_the_server(
    tmp_path: Path, demo_encoder: str
) -> None:
    config = load_config(Path("configs/demo.yaml"), [f"run.dir={tmp_path / 'run'}"])
    for stage in ("ingest", "index"):
        run_stage(stage, config)
    words = ["configs/demo.yaml", f"run.dir={tmp_path / 'run'}", "--clients", "4"]
    out = run(tmp_path, "serving", *words, "--seconds", "4", "--warm-up", "1", "--soak", "4")
    [result] = tmp_path.glob("serving-*.json")
    found = json.loads(result.read_text(encoding="utf-8"))
    assert "throughput_loss_percent" in out
    assert found["soak"]["in_flight_at_the_end"] == 0
    assert found["with_retrieval"]["tokens_per_s_served"] > 0


def test_the_abstaining_benchmark_compares_both_generators_at_equal_abstaining(
    tmp_path: Path,
) -> None:
    words = [f"run.dir={tmp_path / 'run'}", "generate.pairs_per_chunk=0"]
    command = [sys.executable, "-m", "rag_ft", "run", "configs/demo.yaml", "--until", "generate"]
    subprocess.run([*command, *words], cwd=ROOT, check=True)
    few = ["train_generator.epochs=1", "train_generator.advanced.max_steps=1"]
    out = run(tmp_path, "abstaining", "--questions", "12", "--threads", "1", *words, *few)
    rows = [line.split() for line in out.splitlines() if line.startswith(("base ", "tuned "))]
    # The second row of each is at the base model's own share of abstentions.
    assert len(rows) == 12 and rows[1][2] == rows[7][2] == rows[0][2]


def test_the_review_benchmark_tunes_as_reviewed_and_without_what_reviews_found(
    tmp_path: Path,
) -> None:
    config = load_config(make_run(tmp_path, reranker={"model": None}))
    for stage in ("ingest", "index", "generate", "train_retriever"):
        run_stage(stage, config)
    run_dir = RunDir(tmp_path / "run")
    pairs = list(read_jsonl(run_dir.generated_pairs, QAPair))
    written = [replace(p, origin="imported" if p.split == "test" else "generated") for p in pairs]
    write_jsonl(run_dir.generated_pairs, written)

    words = ["--decisions", "9", "--seeds", "0", "1"]
    run(tmp_path / "results", "review", str(run_dir.path), *words)
    [result] = (tmp_path / "results").glob("review-finding-*.json")
    rows = json.loads(result.read_text(encoding="utf-8"))["rows"]
    assert [(row["order"], row["seed"]) for row in rows[:2]] == [("worst", 0), ("worst", 1)]
    # Two pairs that asked the same would be one card.
    num_generated = sum(pair.origin == "generated" for pair in written)
    assert {row["pairs"] for row in rows} == {num_generated}

    words += ["--against", "without", "--generated-only"]
    run(tmp_path / "results", "review", str(run_dir.path), "--f1", str(tmp_path / "f1"), *words)
    [result] = (tmp_path / "results").glob("review-f1-generated-only-*.json")
    found = json.loads(result.read_text(encoding="utf-8"))
    for seed in (0, 1):
        num_found = found[f"seed {seed}"]["found"]
        assert 0 < num_found <= min(9, found[f"seed {seed}"]["wrong"])
        used = {
            name: RunDir(tmp_path / "f1" / f"{name}-{seed}") for name in ("reviewed", "without")
        }
        counts = {name: len(list(read_jsonl(place.qa, QAPair))) for name, place in used.items()}
        assert counts["reviewed"] - counts["without"] == num_found
    low, high = found["all"]["reviewed - without"][1:]
    assert low <= found["all"]["reviewed"] - found["all"]["without"] <= high


def test_the_benchmark_of_added_documents_takes_them_out_of_a_run(tmp_path: Path) -> None:
    config = load_config(make_run(tmp_path, 45, reranker={"model": None}))
    for stage in NAMES:
        run_stage(stage, config)
    words = [str(tmp_path / "run"), str(tmp_path / "added")]
    run(tmp_path / "results", "added", *words)
    [result] = (tmp_path / "results").glob("improve-added-*.json")
    found = json.loads(result.read_text(encoding="utf-8"))
    left = {d.id for d in read_jsonl(RunDir(tmp_path / "added" / "without").documents, Document)}
    every = {d.id for d in read_jsonl(RunDir(tmp_path / "added" / "with").documents, Document)}
    assert every - left == set(found["later"]) and len(found["later"]) == 8
    own = found["with - without, own questions"]
    assert own["ci95"][0] <= own["f1"] <= own["ci95"][1] and own["questions"] > 0
