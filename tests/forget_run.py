"""A run with something of every document in every file, made by the real ingest, index and reply
cache; the pairs and the answers are written by hand."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from rag_ft.chunk_store import ChunkStore
from rag_ft.config import Config
from rag_ft.config_loader import make_config
from rag_ft.forgetting.record import Forgotten
from rag_ft.freshness import record_outputs
from rag_ft.llm.interface import ChatRequest, Reply
from rag_ft.llm.reply_cache import cached_chat
from rag_ft.pipeline import plan_of, run_stage
from rag_ft.retrieval.encoder import load_encoder
from rag_ft.retrieval.index_builder import build_index
from rag_ft.review.store import decided
from rag_ft.run_dir import RunDir
from rag_ft.schema import Evidence, Hit, Prediction, QAPair, Reject, Score
from rag_ft.stage_table import find_stage
from rag_ft.storage import append_lines, read_rows, write_jsonl, write_text
from rag_ft.versions import write_version

MILLS = ("amber", "birch", "cedar", "dune", "elm")
SYSTEMS = ("base", "tuned")


def sentences(mill: str) -> list[str]:
    """The text of a document, of which no other document has a sentence."""
    return [
        f"The {mill} mill was built by the miller {mill.title()} Brandt in the wet spring of 1731.",
        f"Its {mill} wheel turns eleven times in a minute when the river stands high enough.",
        f"Ask {mill.title()} first.",
    ]


class Echo:
    """A language model that repeats the end of its prompt."""

    name, window = "echo", 1

    def chat(self, requests: Any) -> Iterator[Reply]:
        """Answers at once."""
        for request in requests:
            yield Reply(request.id, request.messages[-1]["content"], "stop", 9, 9, 0.1)


def make_forget_run(folder: Path, encoder: Path, versions: int = 2) -> tuple[Config, list[RunDir]]:
    """(the configuration of the first version, all versions), with paths relative to `folder`, in
    which it must be called."""
    sources = folder / "docs"
    sources.mkdir()
    for mill in MILLS:
        text = f"# {mill.title()} mill\n\n" + " ".join(sentences(mill))
        (sources / f"{mill}.md").write_text(text)
    values = {
        "name": "mills",
        "run": {"dir": "runs/mills", "dtype": "float32"},
        "ingest": {
            "sources": ["docs", {"path": "docs/birch.md", "split": "test"}],
            "chunk_tokens": 48,
            "advanced": {"workers": 1},
        },
        "encoder": {"model": str(encoder)},
    }
    config = make_config(values)
    first = RunDir(config.run_path)
    run_stage("ingest", config)
    run_stage("index", config)
    _generate(config, first)
    _train(config, first, encoder)
    _evaluate(config, first)
    _serve(first)
    run_dirs = [first]
    for number in range(2, versions + 1):
        run_dirs.append(RunDir(first.path.with_name(f"mills.v{number}")))
        shutil.copytree(first.path, run_dirs[-1].path)
        write_version(run_dirs[-1], "mills", {}, {"promoted": False})
    return config, run_dirs


def finish(config: Config, run_dir: RunDir, stage: str, **counts: Any) -> None:
    """Writes a done-file as the pipeline does."""
    plan = plan_of(find_stage(stage), config, run_dir)
    write_text(run_dir.started(stage), json.dumps(plan))
    done = {**plan, "counts": counts, "seconds": 1.0, **record_outputs(run_dir, stage)}
    write_text(run_dir.done(stage), json.dumps(done, indent=1))


def pairs_of(run_dir: RunDir) -> list[QAPair]:
    """A pair about the first sentence of each document, which lists a chunk of the next one."""
    chunks = list(ChunkStore(run_dir.chunks))
    found = []
    for n, mill in enumerate(MILLS):
        own = next(c for c in chunks if c.document_id == f"{mill}.md" and "built by" in c.text)
        other = next(c for c in chunks if c.document_id == f"{MILLS[n - 1]}.md")
        start = own.start + own.text.index("The ")
        text = sentences(mill)[0]
        evidence = Evidence(text, start, start + len(text))
        question = f"Who built the {mill} mill in that wet spring long ago?"
        rest = ({}, {"chunk_id": own.id}, (other.id,))
        answers = (f"{mill.title()} Brandt",)
        place = (own.id, own.document_id, evidence, "factoid", own.split, "generated")
        found.append(QAPair(f"pair-{mill}", question, answers, *place, *rest))
    return found


def _generate(config: Config, run_dir: RunDir) -> None:
    pairs = pairs_of(run_dir)
    write_jsonl(run_dir.generated_pairs, pairs)
    write_jsonl(run_dir.generated_rejects, pairs)
    write_jsonl(run_dir.qa, pairs)
    # A reject about one document may quote a question about another one.
    rejects = [Reject(f"{p.chunk_id}/0", "duplicate", f"x | earlier: {p.question}") for p in pairs]
    rejects += [Reject("pair-zzz", "duplicate", f"Who? | earlier: {p.question}") for p in pairs]
    write_jsonl(run_dir.rejects("generate"), rejects)
    ask(run_dir, "generate", pairs)
    examples = {"duplicate": [{"item": r.item, "detail": r.detail} for r in rejects]}
    write_text(run_dir.generated_counts, json.dumps({"reject_examples": examples}))
    for pair in pairs:
        append_lines(run_dir.reviews, decided(pair, "accept", "ann"))
    finish(config, run_dir, "generate", reject_examples=examples)


def ask(run_dir: RunDir, stage: str, pairs: list[QAPair]) -> None:
    """Stores a reply about each pair, and one that was shown the chunk of the pair before."""
    requests = [
        ChatRequest(f"{stage}-{n}", ({"role": "user", "content": text},), 9, about=about)
        for n, pair in enumerate(pairs)
        for text, about in (
            (pair.question, (pair.id,)),
            (f"{n} {pairs[n - 1].evidence.text}", (pair.id, pairs[n - 1].chunk_id)),
        )
    ]
    list(cached_chat(Echo(), requests, run_dir.replies(stage), "ask"))


def _train(config: Config, run_dir: RunDir, encoder: Path) -> None:
    shutil.copytree(encoder, run_dir.retriever)
    loaded = load_encoder(config.encoder, run_dir.retriever)
    build_index(run_dir.retriever_index, ChunkStore(run_dir.chunks), loaded, config.retrieval, 0)
    rows = [{"key": p.id, "pair_id": p.id, "chunk_id": p.chunk_id} for p in pairs_of(run_dir)]
    write_jsonl(run_dir.lm_scores, rows)
    finish(config, run_dir, "train_retriever", shipped=1)
    run_dir.generator.mkdir()
    write_text(run_dir.generator / "adapter_config.json", "{}")
    texts = [{"text": p.evidence.text} for p in pairs_of(run_dir)]
    write_jsonl(run_dir.checkpoints("train_generator") / "train.jsonl", texts)
    finish(config, run_dir, "train_generator")


def _evaluate(config: Config, run_dir: RunDir) -> None:
    pairs = pairs_of(run_dir)
    chunk_ids = [str(pair.chunk_id) for pair in pairs]
    for system in SYSTEMS:
        hits = [Hit(p.id, n, i, 1.0) for p in pairs for n, i in enumerate(chunk_ids, 1)]
        write_jsonl(run_dir.hits(system), hits)
        answers = [
            Prediction(p.id, system, p.evidence.text, (chunk_ids[n], chunk_ids[n - 1]), (), 0.1)
            for n, p in enumerate(pairs)
        ]
        write_jsonl(run_dir.predictions(system), answers)
    scores = [Score(pair.id, system, "f1", 1.0) for pair in pairs for system in SYSTEMS]
    write_jsonl(run_dir.scores, scores)
    ask(run_dir, "evaluate", pairs)
    finish(config, run_dir, "evaluate")
    examples = [{"question": pair.question, "answer": pair.evidence.text} for pair in pairs]
    served = {"systems": {}, "verdict": {"ship": "both"}}
    write_text(run_dir.metrics, json.dumps({"examples": examples, **served}))
    page = "\n".join(pair.evidence.text for pair in pairs)
    for path in (run_dir.report_html, run_dir.report_md, run_dir.vllm_log):
        write_text(path, page)
    finish(config, run_dir, "report")


def _serve(run_dir: RunDir) -> None:
    for number, pair in enumerate(pairs_of(run_dir)):
        served = {
            "id": f"x{number}", "question": "Who was it?", "standalone": pair.question,
            "chunk_ids": [pair.chunk_id], "citations": [], "answer": pair.evidence.text,
        }  # fmt: skip
        append_lines(run_dir.served, served)
        append_lines(run_dir.feedback, {"id": f"x{number}", "rating": 1, "exchange": served})


def train_mill(run: Path) -> str:
    """A mill whose document is trained on."""
    rows = read_rows(RunDir(run).documents)
    return next(str(row["id"]) for row in rows if row["split"] == "train").removesuffix(".md")


def holding(folder: Path, mill: str) -> set[str]:
    """The files below a folder that hold a sentence of a mill, as bytes."""
    wanted = [sentence.encode() for sentence in sentences(mill)]
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {
        path.relative_to(folder).as_posix()
        for path in files
        if any(sentence in path.read_bytes() for sentence in wanted)
    }


def vectors_of(folder: Path) -> tuple[int, int]:
    """(rows of all vectors.npy, vectors in all FAISS files) of an index."""
    arrays = [np.load(path) for path in folder.glob("segments/*/vectors.npy")]
    stores = [faiss.read_index(str(path)) for path in folder.glob("segments/*/index.faiss")]
    return sum(map(len, arrays)), sum(store.ntotal for store in stores)


def snapshot(folder: Path) -> dict[str, bytes]:
    """{file: content}, but for times, locks, and tables of offsets, which any reader makes."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and not path.name.endswith(("lock", ".offsets.npy")):
            content = path.read_bytes()
            if path.name == "forgotten.json":
                content = json.dumps([{**e, "time": ""} for e in Forgotten(path).entries]).encode()
            elif path.name.endswith(".done.json"):
                done = json.loads(content)
                marks = [*done["outputs"].values(), *done["sources"].values()]
                for mark in marks:
                    mark[1] = 0
                done["inputs"].pop("forgotten.json", None)
                done["sources"].pop("forgotten.json", None)
                done["fingerprint"] = ""
                content = json.dumps(done).encode()
            found[path.relative_to(folder).as_posix()] = content
    return found
