"""What the next version of a run costs, and what it keeps.

    python benchmarks/improve.py update [--documents 300] [--folder FOLDER]
    python benchmarks/improve.py cycle [--folder FOLDER] [--whole RUN]

update: ten documents are added to the corpus of scale.py, one is changed and one deleted; with the
demo's models in float32. CPU seconds of ingest, index and generate, from the beginning and in
`rag-ft improve`, without the start-up, which is what the same stages take over one document. The
version must equal a run from the beginning.

cycle: configs/demo.yaml without eight test documents and their questions; then `rag-ft improve`
adds both. What was stopped is continued in its folder. The eight may be harder than the others:
--whole names a run of configs/demo.yaml, which had them from the beginning, and each question is
compared with itself there.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from hardware import processor, write_result
from scale import ROOT, made_up_texts, measured

from rag_ft.commands import improve as improving
from rag_ft.commands.improve import improve
from rag_ft.config_loader import load_config
from rag_ft.documents.source_files import find_files
from rag_ft.documents.splits import read_splits
from rag_ft.errors import DataError
from rag_ft.evaluation.comparisons import estimate_columns
from rag_ft.evaluation.statistics import Estimate, bootstrap_change
from rag_ft.evaluation.systems import shipped_system
from rag_ft.hardware import choose_device, choose_dtype
from rag_ft.improving.decision import compare
from rag_ft.report.run_comparison import load_table
from rag_ft.retrieval.index_files import open_vectors, read_ids, read_manifest
from rag_ft.run_dir import RunDir
from rag_ft.schema import QAPair
from rag_ft.stage_runs import run_stages_of
from rag_ft.storage import read_jsonl, read_rows

STAGES = ("ingest", "index", "generate")
NUM_LATER = 8
DEMO = ROOT / "configs" / "demo.yaml"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("case", choices=["update", "cycle", "step"])
    parser.add_argument("--documents", type=int, default=300)
    parser.add_argument("--folder", type=Path, help="where the runs are kept")
    parser.add_argument("--whole", type=Path, metavar="RUN")
    parser.add_argument("--step", nargs=2, metavar=("NAME", "PATH"), help="used by the case itself")
    args = parser.parse_args()
    if args.case == "step":
        name, path = args.step
        print(json.dumps({"full": full_step, "improve": improve_step}[name](Path(path))))
        return
    with tempfile.TemporaryDirectory() as place:
        folder = (args.folder or Path(place)).resolve()
        if args.case == "cycle":
            found = cycle(folder, RunDir(args.whole.resolve()) if args.whole else None)
        else:
            found = update(folder, args.documents)
    print(json.dumps(found, indent=1))
    write_result(f"improve-{args.case}", processor(), found)


# What an update costs.


def update(folder: Path, num_documents: int) -> dict[str, Any]:
    """CPU seconds of the stages from the beginning and in the next version, and whether both give
    the same."""
    texts = list(made_up_texts(num_documents + 11))
    for n in range(num_documents):
        if not (folder / "runs" / "x.json").exists():
            write_text(folder / "docs" / f"{n:06}.md", texts[n])
    write_text(folder / "one" / "000000.md", texts[0])
    config = configuration(folder, "x", "docs")
    found: dict[str, Any] = {"documents": num_documents}
    found["start_up"] = step("full", configuration(folder, "one", "one"), folder / "runs" / "one")
    found["full"] = step("full", config, folder / "runs" / "x")
    write_text(folder / "docs" / "000001.md", texts[num_documents])
    (folder / "docs" / "000002.md").unlink(missing_ok=True)
    for n in range(10):
        write_text(folder / "docs" / f"new{n}.md", texts[num_documents + 1 + n])
    found["improve"] = step("improve", folder / "runs" / "x", folder / "runs" / "x.v2")
    # A new run does not know the split that a changed document had before.
    known = str(RunDir(folder / "runs" / "x.v2").documents)
    anew = configuration(folder, "anew", "docs", splits=known)
    found["rebuild"] = step("full", anew, folder / "runs" / "anew")
    start, full, new = (
        sum(found[name][s] for s in STAGES) for name in ("start_up", "full", "improve")
    )
    found["share"] = round((new - start) / (full - start), 4)
    found |= differences(RunDir(folder / "runs" / "x.v2"), RunDir(folder / "runs" / "anew"))
    return found


def configuration(folder: Path, name: str, documents: str, splits: str | None = None) -> Path:
    """A configuration of the demo's models that trains nothing and asks no test question."""
    values = {
        "run": {"dir": str(folder / "runs" / name), "dtype": "float32"},
        "ingest": {
            "sources": [str(folder / documents)],
            "test_share": 0 if name == "one" else 0.3,
            "advanced": {"splits": splits},
        },
        "llm": {
            "model": str(ROOT / "data" / "models" / "demo-lm"),
            "prompts": "compact",
            "max_model_tokens": 1024,
        },
        "generate": {
            "pairs_per_chunk": 2,
            "kinds": {"factoid": 1.0},
            "advanced": {"temperature": 0.3, "max_tokens": 96, "min_kept_share": 0.0},
        },
        "train_retriever": {"enabled": False},
        "train_generator": {"enabled": False},
        "evaluate": {"answers": False},
    }
    path = folder / f"{name}.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


def write_text(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"# Document {path.stem}\n\n{text}", encoding="utf-8")


def step(name: str, path: Path, makes: Path) -> dict[str, Any]:
    """A step in a process of its own, which makes a run: CPU seconds of its stages, and its counts.
    A step that was stopped is made anew, one that is done is read."""
    result = makes.with_name(f"{makes.name}.json")
    if not result.exists():
        shutil.rmtree(makes, ignore_errors=True)
        words = [sys.executable, str(Path(__file__)), "step", "--step", name, str(path)]
        found = measured(words, read=True)
        result.write_text(json.dumps(found), encoding="utf-8")
    return dict(json.loads(result.read_text(encoding="utf-8")))


def full_step(config: Path) -> dict[str, Any]:
    found = {}
    for name in (*STAGES, "train_retriever", "train_generator", "evaluate", "report"):
        begin = cpu_seconds()
        try:
            run_stages_of(config, [name])
        except DataError:
            if config.stem != "one":  # one document gives too few pairs
                raise
            return found | {name: round(cpu_seconds() - begin, 2)}
        found[name] = round(cpu_seconds() - begin, 2)
    return found | counts_of(RunDir(load_config(config).run_path))


def improve_step(run: Path) -> dict[str, Any]:
    found, run_stage_of = {}, improving.run_stage_of

    def timed(run_dir: RunDir, name: str) -> None:
        begin = cpu_seconds()
        run_stage_of(run_dir, name)
        found[name] = round(cpu_seconds() - begin, 2)

    improving.run_stage_of = timed
    version = improve(run, [], "base", 0.02)
    return found | counts_of(version.run_dir) | {"decision": version.decision["sentence"]}


def cpu_seconds() -> float:
    """Of this process and of those that it started."""
    return sum(os.times()[:4])


def counts_of(run_dir: RunDir) -> dict[str, Any]:
    keep = (
        "num_documents",
        "num_reused_documents",
        "num_chunks",
        "num_encoded",
        "asked",
        "accepted",
    )
    found = {}
    for name in STAGES:
        counts = json.loads(run_dir.done(name).read_text())["counts"]
        found |= {key: counts[key] for key in keep if key in counts}
    return found | {"num_replies": sum(1 for _ in read_rows(run_dir.replies("generate")))}


def differences(version: RunDir, anew: RunDir) -> dict[str, Any]:
    """How far the version is from a run from the beginning."""
    ids, pairs, rankings, vectors = [], [], [], []
    for run_dir in (version, anew):
        ids.append(read_ids(run_dir.index, read_manifest(run_dir.index)))
        pairs.append({p.id: p for p in read_jsonl(run_dir.generated_pairs, QAPair)})
        rows = read_rows(run_dir.hits("base"))
        rankings.append({(r["question_id"], r["rank"]): r["chunk_id"] for r in rows})
        vectors.append(np.asarray(open_vectors(run_dir.index)[:]))
    shared = rankings[0].keys() & rankings[1].keys()
    same_shape = vectors[0].shape == vectors[1].shape
    return {
        "same_chunk_ids": ids[0] == ids[1],
        "largest_difference_of_vectors": float(np.abs(vectors[0] - vectors[1]).max())
        if same_shape
        else None,
        "pairs": [len(found) for found in pairs],
        "different_pairs": sum(pairs[0].get(i) != pairs[1].get(i) for i in {*pairs[0], *pairs[1]}),
        "ranks": len(shared),
        "ranks_of_one_alone": len(rankings[0].keys() ^ rankings[1].keys()),
        "different_ranks": sum(rankings[0][key] != rankings[1][key] for key in shared),
    }


# What a cycle on the demo keeps.


def cycle(folder: Path, whole: RunDir | None) -> dict[str, Any]:
    """F1 on the questions about the eight documents, on all others, and the change on these."""
    config, later = folder / "demo.yaml", folder / "later"
    run = folder / "runs" / "demo"
    if not config.exists():
        prepare(folder)
    if not RunDir(run).done("report").exists():
        rag_ft("run", str(config))
    shutil.copy(ROOT / "data" / "handbook" / "questions.jsonl", folder / "questions.jsonl")
    version = RunDir(run.with_name("demo.v2"))
    if not decision_of(version):
        begun = version.path.exists()
        rag_ft("improve", str(run), *([] if begun else ["--documents", str(later)]))
    names = {path.relative_to(later).as_posix() for path in later.rglob("*") if path.is_file()}
    dtype = choose_dtype(load_config(config).run.dtype, choose_device())
    found = {"dtype": dtype, "later": sorted(names), "decision": decision_of(version)}
    return found | scores(run, names) | (against(whole, version, names) if whole else {})


def decision_of(version: RunDir) -> dict[str, Any]:
    """Empty for a version that is not finished."""
    if not version.version.exists():
        return {}
    return dict(json.loads(version.version.read_text(encoding="utf-8"))["decision"])


def against(whole: RunDir, version: RunDir, later: set[str]) -> dict[str, Any]:
    """The version's F1 minus that of a run that had all documents from the beginning."""
    pairs = [pair for pair in read_jsonl(version.qa, QAPair) if pair.split == "test"]
    found = {}
    for part, is_later in (("later", True), ("others", False)):
        ids = {pair.id for pair in pairs if (pair.document_id in later) == is_later}
        if compared := compare(whole, version, ids):
            found[f"v2 - whole, {part}"] = in_points(compared[1])
    return found


def prepare(folder: Path) -> None:
    """Copies the handbook, but for eight test documents chosen by a hash, and their questions."""
    handbook = ROOT / "data" / "handbook"
    values = yaml.safe_load(DEMO.read_text(encoding="utf-8"))
    config = load_config(DEMO)
    lines = (handbook / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    asked = {json.loads(line).get("document_id") for line in lines}
    splits = read_splits(config.ingest.advanced.splits).by_id
    files = find_files([handbook])
    tests = [f.id for f in files if f.id in asked and splits.get(f.id) == "test"]
    later = chosen(tests)
    shutil.copytree(handbook, folder / "handbook", dirs_exist_ok=True)
    (folder / "handbook" / "questions.jsonl").unlink()
    for name in later:
        (folder / "later" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.move(folder / "handbook" / name, folder / "later" / name)
    kept = [line for line in lines if json.loads(line).get("document_id") not in later]
    (folder / "questions.jsonl").write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")
    values["ingest"]["sources"] = [str(folder / "handbook")]
    values["ingest"]["advanced"]["splits"] = str(ROOT / values["ingest"]["advanced"]["splits"])
    values["llm"]["model"] = str(ROOT / values["llm"]["model"])
    values["generate"]["questions"] = [
        str(handbook / "questions_train.jsonl"),
        str(folder / "questions.jsonl"),
    ]
    values["run"] = {"dir": str(folder / "runs" / "demo")}
    (folder / "demo.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")


def chosen(names: Iterable[str]) -> list[str]:
    """Eight of the documents, by a hash."""
    return sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())[:NUM_LATER]


def rag_ft(*words: str) -> None:
    subprocess.run([sys.executable, "-m", "rag_ft", *words], check=True, cwd=ROOT)


def scores(run: Path, later: set[str]) -> dict[str, Any]:
    """`levels` of both versions, and what each of them serves."""
    found: dict[str, Any] = {}
    for number in (1, 2):
        run_dir = RunDir(run if number == 1 else run.with_name(f"{run.name}.v{number}"))
        found |= levels(run_dir, f"v{number}", later)
        found[f"v{number} ships"] = shipped(run_dir)
    return found


def shipped(run_dir: RunDir) -> str:
    return str(json.loads(run_dir.metrics.read_text(encoding="utf-8"))["verdict"]["ship"])


def levels(run_dir: RunDir, name: str, later: set[str]) -> dict[str, Any]:
    """F1 of the base and of what a run serves, with intervals by document; and how far the
    questions about the later documents are from the others, with the documents of both drawn."""
    found: dict[str, Any] = {}
    table = load_table(run_dir)
    is_new = np.array([pair.document_id in later for pair in table.pairs])
    for shown in dict.fromkeys(("base", shipped_system(shipped(run_dir)).name)):
        values = table.values[shown, "f1"]
        columns = {"later": (values * is_new, is_new), "others": (values * ~is_new, ~is_new)}
        for part, column in columns.items():
            if column[1].any():
                [level] = estimate_columns(table, [column], 10_000, 0)
                found[f"{name} {shown}, {part}"] = in_points(level)
        if is_new.any():
            both = [tuple(x[:, None] for x in columns[part]) for part in ("others", "later")]
            [gap] = bootstrap_change(both[0], both[1], table.documents)
            found[f"{name} {shown}, later - others"] = in_points(gap)
    return found


def in_points(estimate: Estimate) -> dict[str, Any]:
    return {
        "f1": round(100 * estimate.value, 1),
        "ci95": [round(100 * bound, 1) for bound in estimate.ci95 or ()],
        "questions": estimate.n,
        "documents": estimate.num_documents,
    }


if __name__ == "__main__":
    main()
