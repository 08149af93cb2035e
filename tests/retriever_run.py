"""A run folder that is ready for train_retriever, with tiny models and planted language models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest

from rag_ft.config import Config
from rag_ft.engine import language_model
from rag_ft.retrieval.retriever import open_retriever
from rag_ft.run_dir import RunDir
from rag_ft.schema import Chunk, Evidence, QAPair
from rag_ft.session import Session
from rag_ft.stages import index, ingest
from rag_ft.storage import read_jsonl, write_jsonl
from rag_ft.training.retriever import phases

MakeRun = Callable[..., tuple[Config, RunDir]]
COLOURS = [
    "red",
    "blue",
    "green",
    "grey",
    "white",
    "black",
    "pink",
    "brown",
    "amber",
    "violet",
    "teal",
    "coral",
]
THINGS = [
    "lamp",
    "boat",
    "harp",
    "clock",
    "kite",
    "drum",
    "vase",
    "sled",
    "loom",
    "oar",
    "bell",
    "cart",
]
LSR_ALONE = {
    "epochs": 0,
    "lsr_steps": 80,
    "lsr_top_k": 12,
    "lsr_learning_rate": 1e-2,
    "method": "full",
}


def documents(num: int = 24) -> list[dict[str, Any]]:
    """One chunk each; the last third are test documents, the four before them dev documents."""
    rows = []
    for n in range(num):
        split = "test" if n >= num * 2 // 3 else ("dev" if n >= num * 2 // 3 - 4 else "train")
        text = (
            f"Box {n} holds a {COLOURS[n % 12]} {THINGS[(n * 5 + n // 12) % 12]} number {n * 37}."
        )
        rows.append({"id": f"d{n}", "title": "", "text": text, "split": split})
    return rows


def write_pairs(run_dir: RunDir, each: int = 6) -> None:
    """Questions about every chunk, evidence being the whole of it."""
    pairs = []
    for chunk in read_jsonl(run_dir.chunks, Chunk):
        words = chunk.text.rstrip(".").split()
        asked = [
            f"what is in box {words[1]}",
            f"who has the {words[4]} {words[5]}",
            f"where is number {words[7]}",
            f"{words[4]} {words[5]}?",
            f"box {words[1]}?",
            f"which box has {words[7]}",
        ][:each]
        evidence = Evidence(chunk.text, 0, len(chunk.text))
        place = (chunk.id, chunk.document_id, evidence, "factoid", chunk.split, "imported")
        pairs += [
            QAPair(f"{chunk.id}/{n}", question, (words[7],), *place)
            for n, question in enumerate(asked)
        ]
    write_jsonl(run_dir.qa, pairs)


def prepare(
    make_run: MakeRun,
    each: int = 6,
    mode: str = "hybrid",
    retrieval: Mapping[str, Any] | None = None,
    **settings: Any,
) -> tuple[Config, RunDir]:
    """A run that is ready for train_retriever, whose settings the keys are."""
    values = {
        "batch_size": 8,
        "learning_rate": 5e-3,
        "epochs": 3,
        "rank": 4,
        "gate": False,
        "crossfit": "never",
        **settings,
    }
    config, run_dir = make_run(
        documents(),
        retrieval__context="none",
        retrieval__mode=mode,
        **{f"retrieval__{k}": v for k, v in (retrieval or {}).items()},
        **{f"train_retriever__{k}": v for k, v in values.items()},
    )
    ingest.run(Session(config, run_dir))
    index.run(Session(config, run_dir))
    write_pairs(run_dir, each)
    return config, run_dir


class PlantedModel:
    """A language model to which an answer is likely after one chunk, and unlikely after others."""

    name, window = "planted", 1

    def __init__(self, liked: dict[str, str]) -> None:
        self.liked, self.asked = liked, 0

    def answer_logprobs(self, jobs: Sequence[tuple[Any, str]]) -> list[np.ndarray]:
        self.asked += len(jobs)
        return [
            np.full(3, -0.1 if self._likes(messages[0]["content"]) else -2.0, np.float32)
            for messages, _ in jobs
        ]

    def _likes(self, prompt: str) -> bool:
        question = prompt.rpartition("Question: ")[2].strip()
        return self.liked.get(question, "?") in prompt

    def count_tokens(self, messages: Any) -> int:
        return 10

    def __enter__(self) -> PlantedModel:
        return self

    def __exit__(self, *_: object) -> None:
        pass


def plant(run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> tuple[PlantedModel, dict[str, str]]:
    """The model prefers, for every question of a train document, a chunk of another one."""
    chunks = [c for c in read_jsonl(run_dir.chunks, Chunk) if c.split == "train"]
    preferred = {c.id: chunks[(n + 5) % len(chunks)] for n, c in enumerate(chunks)}
    pairs = [p for p in read_jsonl(run_dir.qa, QAPair) if p.split == "train"]
    model = PlantedModel({p.question: preferred[p.chunk_id or ""].text for p in pairs})
    monkeypatch.setattr(language_model, "open_language_model", lambda *_, **__: model)
    return model, {p.question: preferred[p.chunk_id or ""].id for p in pairs}


def share_first(config: Config, run_dir: RunDir, wanted: dict[str, str], tuned: bool) -> float:
    """Share of the questions whose wanted chunk is the closest among train chunks."""
    retriever = open_retriever(run_dir, config.retrieval, config.encoder, tuned=tuned)
    train = {c.id for c in read_jsonl(run_dir.chunks, Chunk) if c.split == "train"}
    rankings = retriever.search(list(wanted), 24, "dense")
    first = [next(name for name, _ in ranking if name in train) for ranking in rankings]
    return float(np.mean([a == b for a, b in zip(first, wanted.values(), strict=True)]))


def record_training_rows(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Returns a list that takes the rows of each contrastive training from now on."""
    seen: list[Any] = []
    real = phases.fit
    monkeypatch.setattr(
        phases,
        "fit",
        lambda encoder, rows, *rest: (seen.append(rows), real(encoder, rows, *rest))[1],
    )
    return seen
