"""What large corpora cost: growth, updates, and a million chunks.

    python benchmarks/scale.py growth [--documents 30000]   # against a tenth of them, and 30
    python benchmarks/scale.py update [--documents 3000]    # one changed, ten added
    python benchmarks/scale.py chunks [--chunks 1000000]    # index, search and first question
    python benchmarks/scale.py ladder [--chunks 100000]     # kinds of FAISS index

Documents are made of the handbook's sentences with other words in them, about 1,500 characters
each; their encoder is one random layer with the tokenizer of all-MiniLM-L6-v2, so that encoding is
cheap. One of ten has a question, which is imported, and no language model takes part. The million
chunks have vectors of 384 numbers around 2,000 centres, and a question's vector lies near a
chunk's. Each step is a process of its own; figures are CPU seconds of it and of what it
started, and its peak memory. Writes benchmarks/results/scale-<case>-<hardware>-<date>.json.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from hardware import processor, write_result

from rag_ft.config import RetrievalConfig
from rag_ft.model_hub import resolve
from rag_ft.retrieval.encoder import Encoder
from rag_ft.retrieval.index_builder import build_index
from rag_ft.retrieval.index_files import open_vectors
from rag_ft.retrieval.retriever import open_retriever
from rag_ft.retrieval.stores.faiss_store import FaissStore, build_faiss, exact_search, load_faiss
from rag_ft.run_dir import RunDir
from rag_ft.schema import Chunk, Document
from rag_ft.storage import write_jsonl

ROOT = Path(__file__).resolve().parent.parent
DIM, NUM_CENTRES = 384, 2000
NUM_QUESTIONS = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("case", choices=["growth", "update", "chunks", "ladder", "step"])
    parser.add_argument("--documents", type=int, default=0)
    parser.add_argument("--chunks", type=int, default=0)
    parser.add_argument(
        "--step", nargs=2, metavar=("NAME", "FOLDER"), help="used by the case itself"
    )
    args = parser.parse_args()
    if args.case == "step":
        name, folder = args.step
        print(json.dumps(STEPS[name](Path(folder), args.chunks)))
        return
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        if args.case == "growth":
            found: dict[str, Any] = growth(folder, args.documents or 30_000)
        elif args.case == "update":
            found = update(folder, args.documents or 3000)
        elif args.case == "chunks":
            found = chunks(folder, args.chunks or 1_000_000)
        else:
            found = ladder(folder, args.chunks or 100_000)
    print(json.dumps(found, indent=1))
    write_result(f"scale-{args.case}", processor(), found)


# The cases.


def growth(folder: Path, num_documents: int) -> dict[str, Any]:
    """CPU seconds and memory of stages, of `status`, and of an update by a hundredth: for a tenth
    of the documents and for all. What 30 documents take is the start of each command."""
    found: dict[str, Any] = {}
    for number in (30, num_documents // 10, num_documents):
        config = folder / str(number) / "config.yaml"
        step("corpus", config.parent, number)
        names = ("ingest", "index", "generate", "evaluate", "report", "status")
        own = {name: command(name, str(config)) for name in names}
        change_documents(config.parent, number, -(-number // 100))
        for name in ("ingest", "index"):
            own[f"{name} --update"] = command(name, str(config), "--update")
        found[str(number)] = own
        print(json.dumps({number: own}), flush=True)
    start, small, large = found.values()
    found["times"], found["memory_times"] = {}, {}
    for name, own in start.items():
        less, more = (max(0.01, size[name]["cpu_s"] - own["cpu_s"]) for size in (small, large))
        found["times"][name] = round(more / less, 2)
        found["memory_times"][name] = round(large[name]["peak_mb"] / small[name]["peak_mb"], 2)
    return found


def update(folder: Path, num_documents: int) -> dict[str, Any]:
    """A full build, one changed document and ten new ones, and the same by --update and --force."""
    config = folder / "config.yaml"
    step("corpus", folder, num_documents)
    found = {"documents": num_documents, "full": both(config)}
    change_documents(folder, num_documents, 10)
    found["update"] = both(config, "--update")
    found["force"] = both(config, "--force")
    return found


def change_documents(folder: Path, num_documents: int, num_added: int) -> None:
    """Changes one document and adds others."""
    texts = itertools.islice(made_up_texts(num_documents + num_added + 1), num_documents, None)
    for number, text in enumerate(texts):
        name = f"new{number}.md" if number else "000001.md"
        (folder / "docs" / name).write_text(text, encoding="utf-8")


def both(config: Path, *flags: str) -> dict[str, Any]:
    """Ingest and index, with their counts."""
    found = {}
    for name in ("ingest", "index"):
        found[name] = command(name, str(config), *flags)
        done = json.loads((config.parent / "run" / f"{name}.done.json").read_text())
        keep = ("num_documents", "num_reused_documents", "num_chunks", "num_encoded")
        found[name] |= {key: done["counts"][key] for key in keep if key in done["counts"]}
    return found


def chunks(folder: Path, number: int) -> dict[str, Any]:
    """Build and search of an index of so many chunks, an update by 1 %, and the first question."""
    found: dict[str, Any] = {"chunks": number}
    found["write"] = step("write", folder, number)
    for name in ("build", "search", "first_question", "grow", "search_grown"):
        found[name] = step(name.removesuffix("_grown"), folder, number)
    return found


def ladder(folder: Path, number: int) -> dict[str, Any]:
    """Each kind of FAISS index over the same vectors: build, size, recall, and one question."""
    found: dict[str, Any] = {"chunks": number}
    np.save(folder / "vectors.npy", clustered(number))
    for kind in ("flat", "ivf", "ivf_sq8", "ivf_pq"):
        found[kind] = step(kind, folder, number)
    return found


# Steps: functions of a process of their own.


def step(name: str, folder: Path, number: int) -> dict[str, Any]:
    """Runs a step; its own figures beside CPU seconds and memory."""
    words = [sys.executable, str(Path(__file__)), "step", "--chunks", str(number)]
    return measured([*words, "--step", name, str(folder)], read=True)


def command(*words: str) -> dict[str, Any]:
    """Runs a command of rag-ft."""
    return measured([sys.executable, "-m", "rag_ft", *words])


def measured(words: Sequence[str], read: bool = False) -> dict[str, Any]:
    """CPU seconds, wall seconds and peak MB of a process and of those that it started; with `read`
    also the JSON object that it printed last."""
    clock = time.monotonic()
    environment = {**os.environ, "OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(words, env=environment, stdout=out, stderr=errors, cwd=ROOT)
        _, code, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(code)
        out.seek(0), errors.seek(0)
        if process.returncode:
            raise SystemExit(f"{' '.join(words)}:\n{errors.read()[-3000:]}")
        own = json.loads(out.read().splitlines()[-1]) if read else {}
    return {
        "cpu_s": round(usage.ru_utime + usage.ru_stime, 2),
        "wall_s": round(time.monotonic() - clock, 2),
        "peak_mb": round(usage.ru_maxrss / 1024),
        **own,
    }


def corpus_step(folder: Path, number: int) -> dict[str, Any]:
    """Makes a folder of documents, a cheap encoder, and a configuration."""
    (folder / "docs").mkdir(parents=True)
    questions = []
    for n, text in enumerate(made_up_texts(number)):
        title, name = f"# Document {n}\n\n", f"{n:06}.md"
        (folder / "docs" / name).write_text(title + text, encoding="utf-8")
        if n % 10 == 0:
            words = text.split()
            question = f"What follows {' '.join(words[20:28])}?"
            answers = [" ".join(words[28:32])]
            questions.append({"question": question, "answers": answers, "document_id": name})
    write_jsonl(folder / "questions.jsonl", questions)
    make_encoder(folder / "encoder")
    values = {
        "run": {"dir": str(folder / "run"), "dtype": "float32"},
        "ingest": {"sources": [str(folder / "docs")]},
        "encoder": {"model": str(folder / "encoder")},
        "generate": {"pairs_per_chunk": 0, "questions": [str(folder / "questions.jsonl")]},
        "evaluate": {"answers": False},
        **{f"train_{part}": {"enabled": False} for part in ("retriever", "reranker", "generator")},
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(values), encoding="utf-8")
    return {}


def write_step(folder: Path, number: int) -> dict[str, Any]:
    """Writes documents and chunks of about 480 characters, ten a document."""
    texts = made_up_texts(number, characters=480)
    run_dir = RunDir(folder / "run")

    def all_chunks() -> Iterator[Chunk]:
        for n, text in enumerate(texts):
            document = f"doc{n // 10}"
            yield Chunk(
                f"{document}#{n % 10}", document, "A title", text, 0, len(text), 100, "train"
            )

    write_jsonl(run_dir.chunks, all_chunks())
    empty = (Document(f"doc{n}", "A title", "", "", "train", {}) for n in range(number // 10))
    write_jsonl(run_dir.documents, empty)
    return {"mb": round(run_dir.chunks.stat().st_size / 2**20)}


def build_step(folder: Path, number: int) -> dict[str, Any]:
    return build(folder, StandIn(0))


def grow_step(folder: Path, number: int) -> dict[str, Any]:
    """One document of a hundred is changed."""
    run_dir = RunDir(folder / "run")
    changed = folder / "changed.jsonl"
    with run_dir.chunks.open(encoding="utf-8") as old, changed.open("w", encoding="utf-8") as new:
        for n, line in enumerate(old):
            new.write(line if n // 10 % 100 else line.replace('"text": "', '"text": "Changed. '))
    os.replace(changed, run_dir.chunks)
    return build(folder, StandIn(1))


def build(folder: Path, encoder: Any) -> dict[str, Any]:
    """The counts of a build, with the time of encoding, which costs nothing here, left out."""
    from rag_ft.chunk_store import ChunkStore

    run_dir = RunDir(folder / "run")
    counts = build_index(run_dir.index, ChunkStore(run_dir.chunks), encoder, RetrievalConfig(), 0)
    size = sum(path.stat().st_size for path in run_dir.index.rglob("*") if path.is_file())
    return {**counts, "index_mb": round(size / 2**20)}


def search_step(folder: Path, number: int) -> dict[str, Any]:
    """Recall and time of one question at a time: dense, BM25, both; against exact search."""
    faiss = load_faiss()
    faiss.omp_set_num_threads(1)
    retriever = open_retriever(RunDir(folder / "run"), RetrievalConfig(), StandIn(0))
    vectors, draw = open_vectors(folder / "run" / "index"), np.random.default_rng(5)
    asked = near(vectors[np.sort(draw.integers(len(vectors), size=NUM_QUESTIONS))], draw)
    texts = made_up_texts(NUM_QUESTIONS, characters=60, seed=9)
    questions = [" ".join(text.split()[:10]) for text in texts]
    retriever.encoder.asked = asked
    store = retriever._store
    store.search(asked[:8], 10)
    found: dict[str, Any] = {}
    exact = exact_search(vectors, asked, 10)
    rows = [set(r) for [(r, _)] in (store.search(asked[n : n + 1], 10) for n in range(len(asked)))]
    shares = [len(mine & set(theirs)) / 10 for mine, theirs in zip(rows, exact, strict=True)]
    found["recall_at_10"] = round(float(np.mean(shares)), 4)
    flat = faiss.IndexFlatIP(DIM)
    flat.add(np.ascontiguousarray(vectors[:]))
    found["flat_ms"] = per_question(lambda n: flat.search(asked[n : n + 1], 100), 20)
    found["dense_ms"] = per_question(lambda n: store.search(asked[n : n + 1], 100))
    for mode in ("lexical", "hybrid"):
        ask = functools.partial(retriever.search, k=10, mode=mode)
        found[f"{mode}_ms"] = per_question(lambda n, ask=ask: ask([questions[n]]))  # type: ignore[misc]
    return found


def first_question_step(folder: Path, number: int) -> dict[str, Any]:
    """CPU seconds of opening a run, searching once, and reading three chunks."""
    from rag_ft.chunk_store import ChunkStore

    run_dir, begin = RunDir(folder / "run"), time.process_time()
    retriever = open_retriever(run_dir, RetrievalConfig(), StandIn(0))
    opened = time.process_time()
    [hits] = retriever.search(["Where does the ferry leave in winter?"], 3)
    searched = time.process_time()
    store = ChunkStore(run_dir.chunks)
    assert [store[chunk_id].id for chunk_id, _ in hits] == [chunk_id for chunk_id, _ in hits]
    end = time.process_time()
    return {
        "open_cpu_s": round(opened - begin, 2),
        "search_cpu_s": round(searched - opened, 2),
        "chunks_cpu_s": round(end - searched, 2),
        "all_cpu_s": round(end - begin, 2),
    }


def kind_step(kind: str) -> Callable[[Path, int], dict[str, Any]]:
    def run(folder: Path, number: int) -> dict[str, Any]:
        vectors = np.load(folder / "vectors.npy", mmap_mode="r")
        draw = np.random.default_rng(5)
        asked = near(vectors[np.sort(draw.integers(number, size=512))], draw)
        place = folder / kind
        place.mkdir()
        os.link(folder / "vectors.npy", place / "vectors.npy")
        begin = time.process_time()
        data = build_faiss(vectors, lambda: asked[:256], kind, place, 0)
        built = time.process_time() - begin
        store = FaissStore(place, data)
        exact = exact_search(vectors, asked[256:], 10)
        found = [rows for rows, _ in store.search(asked[256:], 10)]
        shares = [len(set(a) & set(b)) / 10 for a, b in zip(found, exact, strict=True)]
        return {
            **data,
            "build_cpu_s": round(built, 1),
            "index_mb": round((place / "index.faiss").stat().st_size / 2**20),
            "recall_at_10": round(float(np.mean(shares)), 4),
            "question_ms": per_question(lambda n: store.search(asked[n : n + 1], 100)),
        }

    return run


STEPS: dict[str, Callable[[Path, int], dict[str, Any]]] = {
    "corpus": corpus_step,
    "write": write_step,
    "build": build_step,
    "grow": grow_step,
    "search": search_step,
    "first_question": first_question_step,
    **{kind: kind_step(kind) for kind in ("flat", "ivf", "ivf_sq8", "ivf_pq")},
}


# What the steps work on.


class StandIn(Encoder):
    """In place of an encoder: gives made-up vectors at no cost."""

    fingerprint, dim, max_tokens, block_size = "stand-in", DIM, 512, 8192  # type: ignore[assignment]

    def __init__(self, seed: int) -> None:
        self._draw = np.random.default_rng(100 + seed)
        self._some = clustered(256)
        self.asked: np.ndarray | None = None

    def encode_chunks(self, texts: Sequence[str]) -> np.ndarray:
        made = clustered(len(texts), int(self._draw.integers(2**31)))
        self._some = np.concatenate([self._some, made[:: max(1, len(made) // 4)]])[-512:]
        return made

    def encode_queries(self, questions: Sequence[str]) -> np.ndarray:
        source = self._some if self.asked is None else self.asked
        rows = self._draw.integers(len(source), size=len(questions))
        return source[rows] if self.asked is not None else near(source[rows], self._draw)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        return [1] * len(texts)


def clustered(number: int, seed: int = 0) -> np.ndarray:
    """Unit vectors around centres, some of which have many more than others."""
    centres = drawn(np.random.default_rng(1), NUM_CENTRES)
    draw = np.random.default_rng(seed)
    weights = 1 / np.arange(1, NUM_CENTRES + 1) ** 0.7
    of = draw.choice(NUM_CENTRES, number, p=weights / weights.sum())
    return unit(centres[of] + drawn(draw, number))


def drawn(draw: np.random.Generator, number: int) -> np.ndarray:
    """Normal vectors whose numbers vary less and less, as those of encoders do along their main
    directions."""
    spread = np.arange(1, DIM + 1, dtype=np.float32) ** -0.33
    return draw.standard_normal((number, DIM), dtype=np.float32) * spread


def near(vectors: np.ndarray, draw: np.random.Generator) -> np.ndarray:
    """Vectors with a cosine of about .7 to the given ones, as questions have to their chunks. Among
    100,000, the cosine to the tenth is .42, as with all-MiniLM-L6-v2."""
    return unit(np.asarray(vectors) + unit(drawn(draw, len(vectors))))


def unit(vectors: np.ndarray) -> np.ndarray:
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def per_question(ask: Callable[[int], object], number: int = NUM_QUESTIONS) -> dict[str, float]:
    """Milliseconds: CPU on average, and wall, median and 95th percentile."""
    walls, begin = [], time.process_time()
    for n in range(number):
        clock = time.perf_counter()
        ask(n)
        walls.append(1000 * (time.perf_counter() - clock))
    cpu = 1000 * (time.process_time() - begin) / number
    return {
        "cpu": round(cpu, 2),
        "p50": round(float(np.percentile(walls, 50)), 2),
        "p95": round(float(np.percentile(walls, 95)), 2),
    }


def made_up_texts(number: int, characters: int = 1500, seed: int = 0) -> Iterator[str]:
    """Texts of the handbook's sentences, in which one word of four is another one. The vocabulary
    grows with the corpus, as in real ones."""
    files = sorted((ROOT / "data" / "handbook").rglob("*.md"))
    sentences = [
        sentence
        for file in files
        for sentence in re.split(r"(?<=[.?!])\s+", file.read_text(encoding="utf-8"))
        if 20 < len(sentence) < 300 and "|" not in sentence
    ]
    words = sorted({word for sentence in sentences for word in re.findall(r"[a-z]{4,}", sentence)})
    draw = random.Random(seed)
    for n in range(number):
        text = ""
        while len(text) < characters:
            parts = draw.choice(sentences).split()
            for place in range(0, len(parts), 4):
                rare = draw.random() < 0.1
                parts[place] = f"name{draw.randrange(n + 50)}" if rare else draw.choice(words)
            text += " ".join(parts) + " "
        yield text[: characters + 100]


def make_encoder(folder: Path) -> None:
    """One random layer, 128 wide, with the tokenizer of all-MiniLM-L6-v2."""
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import AutoTokenizer, BertConfig, BertModel

    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(resolve("all-MiniLM-L6-v2", "encoder"))
    shape = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=128,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=128,
        max_position_embeddings=256,
    )
    base = folder.with_name("bert")
    BertModel(shape).save_pretrained(base)
    tokenizer.save_pretrained(base)
    modules = [Transformer(str(base), max_seq_length=256), Pooling(128, "mean"), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder))


if __name__ == "__main__":
    main()
