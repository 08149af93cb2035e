"""The stages of the pipeline: what each one does, and what it builds on. Imports nothing heavy."""

from __future__ import annotations

from typing import NamedTuple

from rag_ft.errors import ConfigError


class Stage(NamedTuple):
    """One step of the pipeline. The files that it writes stand in `run_files.FILES`.

    `does` is its help text. `after` names the stages that it builds on. `sections` are the sections
    of the configuration, or parts of them, that change its result. `computes` says whether its
    result can depend on the number of threads, `grows` whether it can take other documents without
    being made anew (--update).
    """

    name: str
    does: str
    after: tuple[str, ...]
    sections: tuple[str, ...]
    computes: bool = True
    grows: bool = False


# What the retriever finds depends on these. How found chunks are shown does not change it.
_SEARCH = ("retrieval.mode", "retrieval.top_k", "retrieval.context", "retrieval.advanced")
STAGES: tuple[Stage, ...] = (
    Stage(
        "ingest",
        "read documents and split them into chunks",
        (),
        ("ingest", "encoder"),
        computes=False,
        grows=True,
    ),
    Stage(
        "index",
        "embed the chunks; build the FAISS and BM25 indexes",
        ("ingest",),
        (
            "encoder",
            "retrieval.context",
            "retrieval.advanced.faiss",
            "retrieval.advanced.sentences",
        ),
        grows=True,
    ),
    Stage(
        "generate",
        "let the LLM write question-answer pairs, and check them",
        ("index",),
        ("llm", "generate", *_SEARCH),
    ),
    Stage(
        "train_retriever",
        "tune the encoder on the pairs; keep it where dev questions show a gain",
        ("generate",),
        ("train_retriever", "encoder", *_SEARCH, "retrieval.ranker", "reranker", "llm"),
    ),
    Stage(
        "train_reranker",
        "tune a cross-encoder on the retrievers' mistakes; keep it where dev questions show a gain",
        ("train_retriever",),
        ("train_reranker", "reranker", "encoder", *_SEARCH, "retrieval.ranker", "llm"),
    ),
    Stage(
        "train_generator",
        "tune the generator with LoRA on pairs and retrieved chunks",
        ("train_retriever",),
        ("train_generator", "retrieval", "reranker", "llm"),
    ),
    Stage(
        "evaluate",
        "answer the test questions with every system and score the answers",
        ("train_retriever", "train_reranker", "train_generator"),
        ("evaluate", "retrieval", "reranker", "llm"),
    ),
    Stage(
        "report",
        "write metrics.json, report.html and report.md",
        ("evaluate",),
        (),
        computes=False,
    ),
)
NAMES = tuple(stage.name for stage in STAGES)


def find_stage(name: str) -> Stage:
    """The stage of this name. Raises ConfigError where there is none."""
    for stage in STAGES:
        if stage.name == name:
            return stage
    raise ConfigError(f"no stage '{name}': choose from {', '.join(NAMES)}")
