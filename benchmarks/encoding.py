"""Encoding throughput: fast/encode.py against `SentenceTransformer.encode`, in one run.

    python benchmarks/encoding.py FOLDER [--num-chunks 1000] [--threads 1]

FOLDER holds documents.jsonl and, for the recall column, questions.jsonl in the layout of
docs/how-to. Chunks are those of `rag-ft ingest` with 128 tokens, without titles. Every way encodes
the same chunks; rounds are interleaved, and the fastest counts: in this process' CPU seconds on a
CPU (other jobs beside it then matter little), in wall seconds on a GPU. Prints a table and writes
benchmarks/results/encoding-<folder>-<hardware>-<date>.json.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from hardware import processor, write_result
from sentence_transformers import SentenceTransformer, __version__

from rag_ft.config import Config
from rag_ft.config_loader import make_config
from rag_ft.fast.packed_linear import pack_linears
from rag_ft.hardware import choose_device, native_bfloat16
from rag_ft.model_hub import resolve
from rag_ft.retrieval.encoder import load_encoder
from rag_ft.run_dir import RunDir
from rag_ft.schema import Chunk
from rag_ft.session import Session
from rag_ft.stages.ingest import run as ingest
from rag_ft.storage import read_jsonl, read_rows

Encode = Callable[[list[str]], np.ndarray]


def main() -> None:
    args = _arguments()
    torch.set_num_threads(args.threads)
    config, chunks = _chunks(args)
    questions, gold = _questions(args.folder, chunks)
    texts = [chunk.text for chunk in chunks][: args.num_chunks]
    ways = _ways(config)
    seconds = _measure(ways, texts, args.rounds)
    rows = []
    for name, encode in ways.items():
        row = {
            "way": name,
            "seconds": round(seconds[name], 2),
            "chunks_per_second": round(len(texts) / seconds[name], 1),
        }
        row["times_peer"] = round(seconds["sentence-transformers"] / seconds[name], 2)
        if questions:
            row["recall_at_5"] = _recall(
                encode, [chunk.text for chunk in chunks], chunks, questions, gold
            )
        rows.append(row)
    _report(args, config, rows, len(texts))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Encoding throughput against SentenceTransformer.encode"
    )
    parser.add_argument(
        "folder", type=Path, help="folder with documents.jsonl (and questions.jsonl)"
    )
    parser.add_argument(
        "--work", type=Path, default=Path("runs/benchmark-encoding"), help="where chunks are kept"
    )
    parser.add_argument(
        "--num-chunks", type=int, default=512, help="chunks to time (recall uses all)"
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    return parser.parse_args()


def _chunks(args: argparse.Namespace) -> tuple[Config, list[Chunk]]:
    config = make_config(
        {
            "run": {"dir": args.work / args.folder.name},
            "ingest": {"sources": [args.folder / "documents.jsonl"]},
        }
    )
    run_dir = RunDir(config.run_path)
    if not run_dir.chunks.exists():
        run_dir.path.mkdir(parents=True, exist_ok=True)
        ingest(Session(config, run_dir))
    return config, list(read_jsonl(run_dir.chunks, Chunk))


def _ways(config: Config) -> dict[str, Encode]:
    """The library with its defaults; then per dtype the library with batches of 16 (it sorts them
    by length), the same with packed linear layers, which tells what the loop alone brings, and
    ours."""
    folder = str(resolve(config.encoder.model, "encoder"))
    ways: dict[str, Encode] = {}

    def add(name: str, batch_size: int, model: SentenceTransformer) -> None:
        ways[name] = lambda texts: model.encode(
            texts, batch_size=batch_size, show_progress_bar=False
        )

    def peer(dtype: str) -> SentenceTransformer:
        return SentenceTransformer(folder, local_files_only=True).to(getattr(torch, dtype))

    add("sentence-transformers", 32, peer("float32"))
    for dtype in ("float32", "bfloat16"):
        add(f"sentence-transformers {dtype}, batches of 16", 16, peer(dtype))
        packed = peer(dtype)
        if choose_device() == "cpu" and pack_linears(packed):
            add(f"sentence-transformers {dtype}, batches of 16, packed", 16, packed)
        ways[f"rag-ft {dtype}"] = load_encoder(
            config.encoder.model_copy(update={"dtype": dtype})
        ).encode_chunks
    return ways


def _measure(ways: dict[str, Encode], texts: list[str], rounds: int) -> dict[str, float]:
    clock = time.perf_counter if torch.cuda.is_available() else time.process_time
    best = dict.fromkeys(ways, float("inf"))
    for encode in ways.values():
        encode(texts[:32])
    for _ in range(rounds):
        for name, encode in ways.items():
            start = clock()
            encode(texts)
            best[name] = min(best[name], clock() - start)
    return best


def _questions(folder: Path, chunks: list[Chunk]) -> tuple[list[str], list[set[int]]]:
    """Questions and the rows of chunks that hold an answer at its place."""
    if not (folder / "questions.jsonl").exists():
        return [], []
    of_document: dict[str, list[tuple[int, Chunk]]] = {}
    for row, chunk in enumerate(chunks):
        of_document.setdefault(chunk.document_id, []).append((row, chunk))
    rows = list(read_rows(folder / "questions.jsonl"))
    return [row["question"] for row in rows], [
        _gold(row, of_document.get(row["document_id"], [])) for row in rows
    ]


def _gold(row: dict[str, Any], chunks: list[tuple[int, Chunk]]) -> set[int]:
    # Questions without places have no gold chunk and count for no recall.
    starts = row.get("answer_start_in_document") or [None] * len(row["answers"])
    places = zip(row["answers"], starts, strict=True)
    spans = [(start, start + len(answer)) for answer, start in places if start is not None]
    return {
        n
        for n, chunk in chunks
        for start, end in spans
        if chunk.start <= start and end <= chunk.end
    }


def _recall(
    encode: Encode,
    texts: list[str],
    chunks: list[Chunk],
    questions: list[str],
    gold: list[set[int]],
) -> float:
    best = np.argsort(-(encode(questions) @ encode(texts).T), axis=1, kind="stable")[:, :5]
    return round(
        100
        * float(np.mean([bool(set(row) & g) for row, g in zip(best.tolist(), gold, strict=True)])),
        2,
    )


def _report(
    args: argparse.Namespace, config: Config, rows: list[dict[str, Any]], num_chunks: int
) -> None:
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else processor()
    for row in rows:
        print("  ".join(f"{key} {value}" for key, value in row.items()))
    found = {
        "threads": args.threads,
        "native_bfloat16": native_bfloat16(choose_device()),
        "clock": "wall" if torch.cuda.is_available() else "cpu",
        "versions": {"torch": torch.__version__, "sentence-transformers": __version__},
        "model": config.encoder.model,
        "data": args.folder.name,
        "num_chunks": num_chunks,
        "rows": rows,
    }
    write_result(f"encoding-{args.folder.name}", device, found)


if __name__ == "__main__":
    main()
