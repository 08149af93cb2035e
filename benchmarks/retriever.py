"""What tuning the retriever brings on real questions: cross-fit, non-regression, LSR against
contrastive, LM scoring.

    python benchmarks/retriever.py DATA [--only crossfit,held-out,regression,lsr,unasked,scoring]
                                        [--folds 0,1]
                                        [--work FOLDER] [--threads 2] [section.key=value ...]

DATA holds <set>_<split>/documents.jsonl and questions.jsonl (layout of docs/how-to). Every measure
runs the stages as a user would, in run folders under --work, and goes on where it was stopped.
Differences come with a paired bootstrap over documents. Prints tables and writes
benchmarks/results/retriever-<date>.json.

* crossfit: train on one half of covidqa_train's documents, report on the other; both halves pooled
* held-out: train on covidqa_train, report on covidqa_dev
* regression: sets that the base encoder is good at already (nq_oracle, xquad_en): their own train
  -> dev, and the encoder tuned on covidqa_train over their dev documents
* lsr: from one contrastive stage: LSR after it, and as many further contrastive steps
* unasked: as crossfit, but no human question about a train or dev document is known: inverse cloze,
  questions that llm.model writes (give one that reads English, see question_writer.py), and both
* scoring: pairs a second of lm_scores against one (question, chunk) a forward pass with all logits
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import platform
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hardware import RESULTS

from rag_ft.chunk_store import ChunkStore
from rag_ft.config import Config
from rag_ft.config_loader import apply_override, make_config
from rag_ft.evaluation.metrics.retrieval import RETRIEVAL_METRICS, score_ranking
from rag_ft.evaluation.statistics import bootstrap
from rag_ft.relevance import gold_by_pair
from rag_ft.retrieval.encoder import load_encoder
from rag_ft.retrieval.index_builder import build_index
from rag_ft.retrieval.index_files import read_manifest
from rag_ft.retrieval.retriever import Retriever, open_retriever, served_tuned
from rag_ft.run_dir import RunDir
from rag_ft.schema import Chunk, QAPair
from rag_ft.session import Session
from rag_ft.stages import generate, index, ingest, train_retriever
from rag_ft.storage import read_jsonl, read_rows, write_jsonl, write_text
from rag_ft.training.distributed import join_processes
from rag_ft.training.retriever.candidates import (
    Candidate,
    RetrieverTraining,
    base_candidate,
    open_training,
)
from rag_ft.training.retriever.dataset import select_pairs
from rag_ft.training.retriever.phases import contrastive_phase, lsr_phase

SHOWN = ("recall@1", "recall@5", "recall@10", "ndcg@10")
TUNED_AGAINST = (
    ("base dense", "tuned dense"),
    ("base hybrid", "tuned hybrid"),
    ("BM25", "tuned hybrid"),
)
Table = dict[str, np.ndarray]  # system -> (num_questions, len(RETRIEVAL_METRICS))
# Without the check "form", which wants a question mark: half of Natural Questions, which taught the
# writer, has none.
WRITTEN: dict[str, Any] = {
    "pairs_per_chunk": 2,
    "kinds": {"factoid": 1.0},
    "splits": ["train", "dev"],
    "max_tokens": 192,
    "checks": ["evidence", "stands_alone", "duplicate", "round_trip"],
    "min_kept_share": 0.01,
}
OTHER_LANGUAGES = ("xquad_de_dev", "xquad_es_dev", "xquad_zh_dev", "xquad_ar_dev")
UNASKED: dict[str, dict[str, Any]] = {
    "inverse cloze": {"train_retriever": {"epochs": 0, "advanced": {"self_supervised": True}}},
    "written questions": {"generate": WRITTEN},
    "inverse cloze, written questions": {
        "generate": WRITTEN,
        "train_retriever": {"advanced": {"self_supervised": True}},
    },
}
LSR_STEPS = 20
CONTROL = "contrastive, longer"
LSR = "then LSR"


def main() -> None:
    args = _arguments()
    torch.set_num_threads(args.threads)
    measures = {
        "crossfit": crossfit,
        "held-out": held_out,
        "regression": regression,
        "lsr": lsr,
        "unasked": unasked,
        "scoring": scoring,
    }
    results = {name: measures[name](args) for name in args.only.split(",")}
    now = datetime.datetime.now(datetime.UTC).date().isoformat()
    hardware = {
        "processor": platform.processor() or platform.machine(),
        "threads": args.threads,
        "date": now,
    }
    path = RESULTS / f"retriever-{now}.json"
    before = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    write_text(path, json.dumps({**before, **hardware, **results}, indent=1) + "\n")
    print(f"written to {path}")


def crossfit(args: argparse.Namespace) -> dict[str, Any]:
    parts, seconds = [], []
    for fold in args.folds:
        config, run_dir = _prepare(
            args, f"crossfit-{fold}", [("covidqa_train", None)], _halves(fold)
        )
        seconds.append(_tune(config, run_dir)["seconds"])
        parts.append(_systems(config, run_dir))
    return _report(
        "covidqa_train, cross-fit over halves of its documents",
        *_pool(parts),
        {"train_seconds": seconds},
    )


def held_out(args: argparse.Namespace) -> dict[str, Any]:
    config, run_dir = _prepare(
        args, "held-out", [("covidqa_train", "train"), ("covidqa_dev", "test")]
    )
    seconds = _tune(config, run_dir)["seconds"]
    return _report("covidqa_dev", *_systems(config, run_dir), {"train_seconds": seconds})


def regression(args: argparse.Namespace) -> dict[str, Any]:
    found, parts = {}, {}
    tuned, tuned_dir = _prepare(
        args, "held-out", [("covidqa_train", "train"), ("covidqa_dev", "test")]
    )
    _tune(tuned, tuned_dir)
    for name in ("nq_oracle_dev", "xquad_en_dev", *OTHER_LANGUAGES):
        config, run_dir = _prepare(args, f"{name}-by-covidqa", [(name, "test")])
        parts[name] = _systems(config, run_dir, _borrow(config, run_dir, tuned_dir))
        found[f"{name} by the encoder of covidqa"] = _report(
            f"{name}, encoder tuned on covidqa", *parts[name], {}
        )
    pooled = _pool([parts[name] for name in OTHER_LANGUAGES])
    found["other languages by the encoder of covidqa"] = _report(
        "xquad de, es, zh, ar, pooled", *pooled, {}
    )
    for name in ("xquad_en", "nq_oracle"):
        config, run_dir = _prepare(
            args, name, [(f"{name}_train", "train"), (f"{name}_dev", "test")]
        )
        seconds = _tune(config, run_dir)["seconds"]
        found[name] = _report(f"{name}_dev", *_systems(config, run_dir), {"train_seconds": seconds})
    return found


def lsr(args: argparse.Namespace) -> dict[str, Any]:
    """LSR and as many further contrastive steps, from the weights of one contrastive stage. Without
    the gate: what they do, not what would be shipped."""
    parts, facts = [], {}
    for fold in args.folds:
        config, run_dir = _prepare(args, f"lsr-{fold}", [("covidqa_train", None)], _halves(fold))
        store = ChunkStore(run_dir.chunks)
        pairs = select_pairs(run_dir, store, config.ingest.advanced.near_duplicate_similarity)
        training = open_training(Session(config, run_dir), pairs, join_processes())
        made = _lsr_candidates(training)
        parts.append(
            _table(run_dir, {name: training.retriever_in(c.folder) for name, c in made.items()})
        )
        facts[f"fold {fold}"] = {
            name: {**c.notes, "steps": len(c.history)} for name, c in made.items()
        }
    forms = [name for name in made if name not in ("base", "contrastive")]
    against = [(a, b) for b in forms for a in ("contrastive", CONTROL) if a != b]
    changes = [(f"{a} {mode}", f"{b} {mode}") for mode in ("dense", "hybrid") for a, b in against]
    return _report("LSR, unseen documents of covidqa_train", *_pool(parts), facts, changes)


def _lsr_candidates(training: RetrieverTraining) -> dict[str, Candidate]:
    base = base_candidate(training)
    before = contrastive_phase(training, 0, base)
    settings = training.config.train_retriever
    epochs = LSR_STEPS / (len(before.history) / settings.epochs)
    longer = {"epochs": epochs, "learning_rate": settings.advanced.lsr_learning_rate}
    control = contrastive_phase(_with_settings(training, CONTROL, longer), 1, before)
    taught = lsr_phase(_with_settings(training, LSR, {"advanced.lsr_steps": LSR_STEPS}), 0, before)
    assert isinstance(taught, Candidate), taught.reason
    return {"base": base, "contrastive": before, CONTROL: control, LSR: taught}


def _with_settings(
    training: RetrieverTraining, form: str, values: dict[str, Any]
) -> RetrieverTraining:
    changed = training.config.model_dump()
    for key, value in values.items():
        apply_override(changed, f"train_retriever.{key}={value}")
    config = make_config(changed)
    folder = training.folder / _file_name(form)
    return dataclasses.replace(training, config=config, folder=folder)


def _file_name(form: str) -> str:
    return "".join(c if c.isalnum() else "-" for c in form)


def unasked(args: argparse.Namespace) -> dict[str, Any]:
    """As served after the gate, which without dev questions judges by clozes, with written ones by
    those."""
    parts, facts = [], {}
    for fold in args.folds:
        table: Table = {}
        written: RunDir | None = None
        for form, sections in UNASKED.items():
            name = f"unasked-{fold}-{_file_name(form)}"
            if written and "generate" in sections:  # what was asked of the model is not asked again
                replies = RunDir(args.work / name).replies("generate")
                replies.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(written.replies("generate"), replies)
            config, run_dir = _prepare(
                args, name, [("covidqa_train", None)], _halves(fold), sections, test_only=True
            )
            written = run_dir if "generate" in sections else written
            counts = _tune(config, run_dir)
            found, documents = _systems(config, run_dir)
            table |= {mode: found[mode] for mode in ("BM25", "base dense", "base hybrid")}
            table |= {f"{form} {mode}": found[f"tuned {mode}"] for mode in ("dense", "hybrid")}
            facts[f"fold {fold}, {form}"] = {
                key: counts.get(key) for key in ("num_train_pairs", "alpha", "reason")
            }
        parts.append((table, documents))
    changes = [
        (f"base {mode}", f"{form} {mode}") for mode in ("dense", "hybrid") for form in UNASKED
    ]
    changes += [
        (f"inverse cloze {mode}", f"written questions {mode}") for mode in ("dense", "hybrid")
    ]
    return _report("covidqa_train, no human question trained on", *_pool(parts), facts, changes)


def scoring(args: argparse.Namespace) -> dict[str, Any]:
    """CPU seconds for (question, chunk) pairs, ours and the naive loop, and how far they differ:
    llm.model, and a model of the same body with random weights and a vocabulary of 128,256."""
    config, run_dir = _prepare(args, "scoring", [("covidqa_dev", "train")], indexed=False)
    large = _with_large_vocabulary(Path(config.llm.model), args.work / "large-vocabulary")
    return {
        "llm.model": _score(config, run_dir, Path(config.llm.model), 128),
        "vocabulary of 128,256": _score(config, run_dir, large, 32),
    }


def _score(config: Config, run_dir: RunDir, model_dir: Path, num: int) -> dict[str, Any]:
    from rag_ft.llm.factory import open_language_model
    from rag_ft.prompts.prompt_set import load_prompts

    prompts = load_prompts(config.llm.prompts, config.llm.advanced.abstain)
    chunks = list(read_jsonl(run_dir.chunks, Chunk))[:8]
    pairs = list(read_jsonl(run_dir.qa, QAPair))[: num // 8]
    jobs = [
        (prompts.answer(pair.question, [chunk.text]), pair.answer)
        for pair in pairs
        for chunk in chunks
    ]
    naive, naive_seconds = _naive(model_dir, jobs)
    found: dict[str, Any] = {"pairs": len(jobs), "naive_cpu_seconds": round(naive_seconds, 2)}
    for dtype in ("auto", "float32"):
        settings = config.llm.model_copy(update={"model": str(model_dir), "dtype": dtype})
        with open_language_model(settings, 0) as model:
            model.answer_logprobs(jobs[:8])
            clock = time.process_time()
            ours = np.array([values.mean() for values in model.answer_logprobs(jobs)])
            seconds = time.process_time() - clock
        found[dtype] = {
            "cpu_seconds": round(seconds, 2),
            "times_naive": round(naive_seconds / seconds, 1),
            "largest_gap_nats_per_token": float(np.abs(ours - naive).max()),
        }
    print(f"\nscoring with {model_dir.name}: {found}")
    return found


def _naive(model_dir: Path, jobs: list[Any]) -> tuple[np.ndarray, float]:
    """One pair a forward, float32, logits of the whole vocabulary at every position."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(model_dir)
    means, clock = [], time.process_time()
    for messages, answer in jobs:
        prompt = tokenizer.apply_chat_template(
            list(messages), add_generation_prompt=True, return_dict=True
        )["input_ids"]
        told = tokenizer(answer, add_special_tokens=False)["input_ids"]
        with torch.inference_mode():
            logprobs = model(torch.tensor([[*prompt, *told]])).logits[0].log_softmax(-1)
        means.append(
            np.mean([logprobs[len(prompt) + n - 1, token].item() for n, token in enumerate(told)])
        )
    return np.array(means), time.process_time() - clock


def _with_large_vocabulary(source: Path, folder: Path) -> Path:
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    if not folder.exists():
        torch.manual_seed(0)
        settings = AutoConfig.from_pretrained(source)
        settings.vocab_size = 128_256
        AutoModelForCausalLM.from_config(settings).save_pretrained(folder)
        AutoTokenizer.from_pretrained(source).save_pretrained(folder)
    return folder


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="What tuning the retriever brings on real questions"
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("overrides", nargs="*", help="section.key=value, for every run")
    parser.add_argument("--only", default="crossfit,held-out,regression,lsr,scoring")
    parser.add_argument(
        "--folds",
        type=lambda given: [int(fold) for fold in given.split(",")],
        default=[0, 1],
        help="of crossfit and lsr: 0, 1 or 0,1",
    )
    parser.add_argument("--work", type=Path, default=Path("runs/benchmark-retriever"))
    parser.add_argument("--threads", type=int, default=2)
    return parser.parse_intermixed_args()


def _halves(fold: int) -> dict[str, Any]:
    return {"folds": 2, "fold": fold, "dev_share": 0.15}


def _prepare(
    args: argparse.Namespace,
    name: str,
    sets: list[tuple[str, str | None]],
    split: dict[str, Any] | None = None,
    sections: dict[str, dict[str, Any]] | None = None,
    indexed: bool = True,
    test_only: bool = False,
) -> tuple[Config, RunDir]:
    """A run up to generate, over the documents and questions of `sets` [(folder, split)]; done
    stages are kept. `test_only`: of the questions only those about test documents."""
    sources = [{"path": args.data / s / "documents.jsonl", "split": at} for s, at in sets]
    values: dict[str, Any] = {
        "name": name,
        "run": {"dir": args.work / name},
        "ingest": {"sources": sources, **(split or {})},
        "generate": {
            "questions": [args.data / s / "questions.jsonl" for s, _ in sets],
            "pairs_per_chunk": 0,
        },
        "llm": {"model": "data/models/demo-lm", "prompts": "compact"},
    }
    for section, chosen in (sections or {}).items():
        values[section] = {**values.get(section, {}), **chosen}
    for override in args.overrides:
        apply_override(values, override)
    run_dir = RunDir(args.work / name)
    if test_only:
        values["generate"]["questions"] = [run_dir.path / "test_questions.jsonl"]
    config = make_config(values)
    for stage, made in (
        (ingest, run_dir.chunks),
        (index, run_dir.index / "manifest.json"),
        (generate, run_dir.qa),
    ):
        if not made.exists() and (indexed or stage is not index):
            stage.run(Session(config, run_dir))
        if stage is ingest and test_only:
            of_test = {
                chunk.document_id
                for chunk in read_jsonl(run_dir.chunks, Chunk)
                if chunk.split == "test"
            }
            rows = [row for s, _ in sets for row in read_rows(args.data / s / "questions.jsonl")]
            write_jsonl(
                values["generate"]["questions"][0],
                (row for row in rows if row["document_id"] in of_test),
            )
    return config, run_dir


def _tune(config: Config, run_dir: RunDir) -> dict[str, Any]:
    """Runs train_retriever unless it has; its counts, with its wall seconds."""
    counts_file = run_dir.path / "train_retriever.counts.json"
    if not counts_file.exists():
        clock = time.monotonic()
        counts = train_retriever.run(Session(config, run_dir))
        write_text(counts_file, json.dumps({**counts, "seconds": time.monotonic() - clock}))
    counts = json.loads(counts_file.read_text(encoding="utf-8"))
    print(config.name, counts)
    return counts


def _borrow(config: Config, run_dir: RunDir, other: RunDir) -> Retriever:
    """This run's chunks under the encoder tuned in another run."""
    encoder = load_encoder(config.encoder, other.retriever if served_tuned(other) else None)
    place = RunDir(run_dir.path / "borrowed")
    if not (place.retriever_index / "manifest.json").exists():
        chunks, seed = read_jsonl(run_dir.chunks, Chunk), config.run.seed
        build_index(place.retriever_index, chunks, encoder, config.retrieval, seed)
    manifest = read_manifest(place.retriever_index)
    return Retriever(place.retriever_index, manifest, encoder, config.retrieval)


def _systems(
    config: Config, run_dir: RunDir, tuned: Retriever | None = None
) -> tuple[Table, list[str]]:
    """Scores of the test questions by BM25, base and tuned (where shipped, else base), and their
    documents."""
    settings = config.retrieval, config.encoder
    base = open_retriever(run_dir, *settings)
    tuned = tuned or (
        open_retriever(run_dir, *settings, tuned=True) if served_tuned(run_dir) else base
    )
    return _table(run_dir, {"base": base, "tuned": tuned})


def _table(run_dir: RunDir, retrievers: dict[str, Retriever]) -> tuple[Table, list[str]]:
    pairs = [
        p
        for p in read_jsonl(run_dir.qa, QAPair)
        if p.split == "test" and p.answerable and p.chunk_id
    ]
    gold_of = gold_by_pair(pairs, read_jsonl(run_dir.chunks, Chunk))
    gold = [gold_of[pair.id] for pair in pairs]
    table = {"BM25": _scores(next(iter(retrievers.values())), pairs, gold, "lexical")}
    for name, retriever in retrievers.items():
        for mode in ("dense", "hybrid"):
            table[f"{name} {mode}"] = _scores(retriever, pairs, gold, mode)
    return table, [pair.document_id or "" for pair in pairs]


def _pool(parts: Sequence[tuple[Table, list[str]]]) -> tuple[Table, list[str]]:
    """The questions of several (table, documents) in one."""
    tables = [table for table, _ in parts]
    pooled = {name: np.concatenate([table[name] for table in tables]) for name in tables[0]}
    return pooled, [document for _, documents in parts for document in documents]


def _scores(
    retriever: Retriever, pairs: list[QAPair], gold: list[set[str]], mode: str
) -> np.ndarray:
    rankings = retriever.search([pair.question for pair in pairs], 10, mode)
    scored = [
        score_ranking([c for c, _ in ranked], ids)
        for ranked, ids in zip(rankings, gold, strict=True)
    ]
    return np.array([[row[metric] for metric in RETRIEVAL_METRICS] for row in scored])


def _report(
    title: str,
    table: Table,
    documents: list[str],
    facts: dict[str, Any],
    pairs: Sequence[tuple[str, str]] = TUNED_AGAINST,
) -> dict[str, Any]:
    """Prints a table and returns it with the differences b - a of `pairs` (a, b)."""
    print(f"\n{title}: {len(documents)} questions, {len(set(documents))} documents {facts or ''}")
    means = {
        name: dict(zip(RETRIEVAL_METRICS, (100 * v.mean(axis=0)).round(1), strict=True))
        for name, v in table.items()
    }
    for name, row in means.items():
        print(f"  {name:44s}" + "  ".join(f"{metric} {row[metric]:5.1f}" for metric in SHOWN))
    changes = {f"{b} - {a}": _change(table[a], table[b], documents) for a, b in pairs}
    for name, metrics in changes.items():
        shown = (
            (metric, metrics[metric]["delta"], *metrics[metric]["ci95"])
            for metric in ("recall@5", "ndcg@10")
        )
        print(
            f"  {name:72s}"
            + "  ".join(f"{m} {d:+.1f} [{low:+.1f}, {high:+.1f}]" for m, d, low, high in shown)
        )
    return {"questions": len(documents), **facts, "systems": means, "changes": changes}


def _change(a: np.ndarray, b: np.ndarray, documents: list[str]) -> dict[str, Any]:
    numbers = {name: n for n, name in enumerate(sorted(set(documents)))}
    deltas = 100 * (b - a)
    found = bootstrap(deltas, np.ones_like(deltas), np.array([numbers[name] for name in documents]))
    return {
        metric: {
            "delta": round(e.value, 2),
            "ci95": [round(x, 2) for x in e.ci95 or (np.nan, np.nan)],
        }
        for metric, e in zip(RETRIEVAL_METRICS, found, strict=True)
    }


if __name__ == "__main__":
    main()
