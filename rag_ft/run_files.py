"""Which stage writes which files of a run."""

from __future__ import annotations

from typing import Literal

# result: what the stage is for; later stages read it. replies: what a language model said, found
# again by model and prompt. scratch: needed while the stage runs, and logs that nothing reads.
FileKind = Literal["result", "replies", "scratch"]

# The one table of a run's files: stage -> paths in the run folder (a folder counts with all its
# files) and their kind. config.yaml, `<stage>.started.json` and `<stage>.done.json` come on top.
FILES: dict[str, dict[str, FileKind]] = {
    "ingest": {
        "documents.jsonl": "result",
        "chunks.jsonl": "result",
        "rejects/ingest.jsonl": "result",
        "documents.unsplit.jsonl": "scratch",
        "signatures.npy": "scratch",
        "findings.jsonl": "scratch",
        "documents.unsplit.grams": "scratch",
        "documents.offsets.npy": "scratch",
        "chunks.offsets.npy": "scratch",
        "checkpoints/ingest": "scratch",
    },
    "index": {"index": "result"},
    "generate": {
        "qa.jsonl": "result",
        "generated": "result",
        "rejects/generate.jsonl": "result",
        "rejects/reviews.jsonl": "result",
        "replies/generate.jsonl": "replies",
        "checkpoints/generate": "scratch",
        "vllm.log": "scratch",
    },
    "train_retriever": {
        "retriever": "result",
        "retriever_index": "result",
        "fusion.json": "result",
        "ranker": "result",
        "rejects/train_retriever.jsonl": "result",
        "training/train_retriever.jsonl": "result",
        "lm_scores.jsonl": "replies",
        "checkpoints/train_retriever": "scratch",
        "vllm.log": "scratch",
    },
    "train_reranker": {
        "reranker": "result",
        "reranking.json": "result",
        "rejects/train_reranker.jsonl": "result",
        "training/train_reranker.jsonl": "result",
        "reranker_lm_scores.jsonl": "replies",
        "checkpoints/train_reranker": "scratch",
        "vllm.log": "scratch",
    },
    "train_generator": {
        "generator": "result",
        "rejects/train_generator.jsonl": "result",
        "training/train_generator.jsonl": "result",
        "training/folds.jsonl": "result",
        "replies/train_generator.jsonl": "replies",
        "checkpoints/train_generator": "scratch",
        "generator.tmp": "scratch",
        "training/tensorboard": "scratch",
        "vllm.log": "scratch",
    },
    "evaluate": {
        "hits": "result",
        "predictions": "result",
        "scores.jsonl": "result",
        "rejects/evaluate.jsonl": "result",
        "given_index": "result",
        "replies/evaluate.jsonl": "replies",
        "checkpoints/evaluate": "scratch",
        "vllm.log": "scratch",
    },
    "report": {"metrics.json": "result", "report.html": "result", "report.md": "result"},
}
