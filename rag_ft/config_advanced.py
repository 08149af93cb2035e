"""The settings of each section's `advanced` part: good defaults, rarely changed."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

Check = Literal["evidence", "form", "stands_alone", "duplicate", "round_trip", "closed_book"]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class IngestAdvanced(Section):
    chunk_overlap_tokens: int = Field(
        20,
        ge=0,
        description="A chunk repeats the last sentences of the chunk before it, up to this many "
        "tokens.",
    )
    folds: int = Field(
        0,
        ge=0,
        description="Number of equal parts of the documents, of which part `fold` is the test "
        "split. 0: `test_share` decides.",
    )
    fold: int = Field(0, ge=0, description="Which of the `folds` parts is the test split, from 0.")
    near_duplicate_similarity: float = Field(
        0.8,
        gt=0,
        le=1,
        description="Documents with at least this Jaccard similarity (0-1) of their word 5-grams "
        "are kept in the same split.",
    )
    max_document_mb: float = Field(20, gt=0, description="Larger files (MB) are rejected.")
    max_file_seconds: float = Field(
        120,
        gt=0,
        description="A file that takes longer to read (seconds) is rejected; reading goes on.",
    )
    max_file_memory_mb: float = Field(
        4096,
        ge=256,
        description="A file that needs more memory to read (MB) is rejected; reading goes on.",
    )
    workers: int = Field(
        0, ge=0, description="Processes that read files. 0: one for each processor."
    )
    parser_suffixes: list[str] = Field(
        default_factory=lambda: ["pdf"],
        description="The types of file that ingest.parser_command reads.",
    )
    min_kept_share: float = Field(
        0.5, ge=0, le=1, description="Ingestion fails when a smaller share (0-1) was readable."
    )


class EncoderAdvanced(Section):
    query_prefix: str | None = Field(
        None,
        description="Text put before every question (e5 wants 'query: '). None: as the model's "
        "files say.",
    )
    chunk_prefix: str | None = Field(
        None,
        description="Text put before every chunk (e5 wants 'passage: '). None: as the model's "
        "files say.",
    )
    pooling: Literal["mean", "cls", "lasttoken"] | None = Field(
        None, description="How token vectors become one. None: as the model's files say."
    )
    max_tokens: int | None = Field(
        None, ge=16, description="Longer texts (tokens) are cut. None: the model's own limit."
    )
    batch_tokens: int = Field(
        0,
        ge=0,
        description="Tokens of one batch, padding included. 0: 2,048 on a CPU, 65,536 on a GPU.",
    )


class RetrievalAdvanced(Section):
    lexical_weight: float = Field(
        0.5, ge=0, le=1, description="Share of BM25 (0-1) in the score of mode hybrid."
    )
    candidates: int = Field(
        100, ge=1, description="Chunks taken from each index before their scores are mixed."
    )
    with_title: bool = Field(
        True,
        description="Puts the document's title before each chunk, for encoder and LLM (BM25 "
        "always reads it). Helps with short titles, hurts where they are as long as sentences.",
    )
    faiss: Literal["auto", "flat", "ivf"] = Field(
        "auto", description="Kind of vector index. auto: flat up to 200,000 chunks, then IVF."
    )


class LLMAdvanced(Section):
    abstain: str = Field(
        "I don't know.",
        description="The answer where the chunks shown do not contain one.",
    )
    batch_tokens: int = Field(
        16384, ge=256, description="transformers: tokens of one batch, padding included."
    )
    concurrency: int = Field(
        0, ge=0, description="Requests in flight to a server. 0: as many as it can take."
    )
    timeout_seconds: float = Field(
        120, gt=0, description="Seconds after which a request is given up and tried again."
    )
    retries: int = Field(
        5, ge=0, description="New tries after status 429 or 5xx, a time-out, a lost connection."
    )
    tensor_parallel: int = Field(1, ge=1, description="vllm: GPUs one model copy is spread over.")
    data_parallel: int = Field(1, ge=1, description="vllm: number of model copies.")
    gpu_memory_share: float = Field(
        0.9, gt=0, le=1, description="vllm: share (0-1) of each GPU's memory it may take."
    )
    quantization: str | None = Field(None, description="vllm: value of its --quantization.")
    vllm_python: str | None = Field(
        None, description="Python that has vLLM. None: .venv-vllm/bin/python, then ours."
    )
    vllm_args: list[str] = Field(
        default_factory=list, description="vllm: further arguments of its server."
    )


class GenerateAdvanced(Section):
    splits: list[Literal["train", "dev", "test"]] = Field(
        ["train", "dev", "test"], description="Splits whose documents get generated pairs."
    )
    swaps_per_pair: int = Field(
        0,
        ge=0,
        description="Unanswerable questions tried for each accepted single-fact pair: the same "
        "question about another name of the document. Kept where the LLM finds no answer.",
    )
    examples: Path | None = Field(
        None,
        description="Few-shot pairs for prompt set full: jsonl of passage, kind, evidence, "
        "question, answer.",
    )
    checks: list[Check] = Field(
        ["evidence", "form", "stands_alone", "duplicate", "round_trip", "closed_book"],
        description="Checks that a generated pair must pass, cheapest first. evidence: the quote "
        "is in the chunk. form: question and answer are well formed. stands_alone: the question "
        "makes sense without the passage. duplicate: it was not asked before. round_trip: its "
        "chunk is found and gives the same answer. closed_book: a test question is not answered "
        "without the chunk.",
    )
    round_trip_k: int = Field(
        10, ge=1, description="The pair's chunk must be among this many retrieved chunks."
    )
    round_trip_f1: float = Field(
        0.5,
        ge=0,
        le=1,
        description="Least F1 (0-1) of the LLM's answer from the chunk against the pair's answer.",
    )
    duplicate_similarity: float = Field(
        0.95, gt=0, le=1, description="Cosine (0-1) from which two questions count as the same."
    )
    temperature: float = Field(0.7, ge=0, description="Sampling temperature of question writing.")
    max_tokens: int = Field(256, ge=16, description="Longest reply, in tokens.")
    min_kept_share: float = Field(
        0.05, ge=0, le=1, description="Generation fails when a smaller share (0-1) of pairs passes."
    )


class TrainRetrieverAdvanced(Section):
    method: Literal["lora", "full"] = Field(
        "lora", description="What is trained: a LoRA adapter, merged afterwards, or all weights."
    )
    loss: str = Field(
        "contrastive",
        description="Loss of the contrastive stage: a name in LOSSES of "
        "rag_ft/training/retriever/losses.py. contrastive: InfoNCE over mined and other chunks.",
    )
    sides: Literal["both", "query"] = Field(
        "both",
        description="What the tuned encoder encodes. query: questions alone, the index stays.",
    )
    self_supervised: bool = Field(
        False,
        description="First trains on the chunks alone (inverse cloze task), which needs no "
        "questions.",
    )
    num_negatives: int = Field(1, ge=0, description="Mined hard negatives of each pair.")
    negative_margin: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="A negative scores at most (1 - margin) times the gold chunk's score.",
    )
    temperature: float = Field(
        0.05, gt=0, description="Of the softmax over chunks, in both training stages."
    )
    rank: int = Field(16, ge=1, description="LoRA rank.")
    lsr_steps: int = Field(
        0,
        ge=0,
        description="Optimiser steps of LM-supervised retrieval after the contrastive stage. 0: "
        "none.",
    )
    lsr_top_k: int = Field(10, ge=2, description="Chunks that the LM scores for each question.")
    lsr_learning_rate: float = Field(
        2e-4, gt=0, description="Peak learning rate of LM-supervised retrieval."
    )
    lsr_temperature: float = Field(
        0, ge=0, description="Of the softmax over the LM's scores. 0: chosen by target entropy."
    )
    rounds: int = Field(1, ge=1, description="Mines negatives and trains up to this many times.")
    gate: bool = Field(
        True, description="Keeps the base encoder where the tuned one is worse on dev documents."
    )


class TrainGeneratorAdvanced(Section):
    layout: Literal["raft", "radit", "concat"] = Field(
        "raft",
        description="Chunks in a training example. raft: the gold chunk among hard distractors; "
        "radit: one chunk an example; concat: the chunks as served.",
    )
    gold_share: float = Field(
        0.8,
        ge=0,
        le=1,
        description="Share of examples (0-1) whose chunks contain the answer; the others teach "
        "to abstain. Layout concat only limits the number of unanswerable pairs by it.",
    )
    cite: bool = Field(False, description="Answers end with the number of the gold chunk.")
    quote: bool = Field(
        False,
        description="Answers begin with the evidence, which evaluation and `ask` remove. "
        "evaluate.advanced.max_tokens must have room for it.",
    )
    replay_share: float = Field(
        0.1,
        ge=0,
        lt=1,
        description="Share of examples (0-1) that are the base model's own replies, at most one "
        "a pair.",
    )
    max_steps: int = Field(0, ge=0, description="Stops after this many steps. 0: by epochs.")
    device_batch_size: int = Field(
        0, ge=0, description="Examples per forward pass. 0: as many as fit."
    )
    rank: int = Field(
        32, ge=1, description="LoRA rank, on all linear layers; alpha is twice the rank."
    )
    dropout: float = Field(0.0, ge=0, lt=1, description="LoRA dropout (0-1).")
    max_tokens: int = Field(
        2048, ge=64, description="Longest example, in tokens; whole chunks are left out to fit."
    )
    packing: bool = Field(
        True, description="Puts several examples in a row of tokens, where the model supports it."
    )
    gradient_checkpointing: bool = Field(
        False, description="Takes less memory and is about 30 % slower."
    )
    select_by: Literal["loss", "f1"] = Field(
        "loss",
        description="What chooses the best weights: dev loss, or the F1 of up to 64 answered dev "
        "questions, which takes longer.",
    )
    patience: int = Field(
        3, ge=0, description="Evaluations without better weights before it stops. 0: never stops."
    )
    cross_validation_folds: int = Field(
        0,
        ge=0,
        description="Cross-validation before the training: number of parts of the train "
        "documents. Reports mean and spread of the gain for as many times the time. 0: off.",
    )
    evaluations: int = Field(
        6, ge=1, description="Dev evaluations (and checkpoints) spread over the training."
    )
    report_to: list[Literal["tensorboard", "wandb", "mlflow", "trackio"]] = Field(
        default_factory=list,
        description="Trackers; tensorboard writes to training/tensorboard of the run folder.",
    )


class EvaluateAdvanced(Section):
    max_questions: int = Field(
        0, ge=0, description="Asks only this many questions, spread over the documents. 0: all."
    )
    max_tokens: int = Field(64, ge=1, description="Longest answer, in tokens.")
    num_resamples: int = Field(
        10_000, ge=100, description="Bootstrap resamples behind each interval."
    )
    robustness: bool = Field(
        False, description="Also measures noise in the context, its order, and swapped answers."
    )
    ensemble: bool = Field(
        False, description="Also decodes as RA-DIT does: each chunk alone, answers weighted."
    )
    similarity: bool = Field(
        False, description="Also measures the base encoder's cosine of answer and accepted answer."
    )
    judge: str | None = Field(
        None,
        description="A model (folder, hub id or served name), run by llm.backend, that says "
        "whether the chunks shown support each answer. None: only the lexical measure.",
    )
    index: Path | None = Field(
        None,
        description="The index of evaluate.encoder over the same chunks. None: built in the run "
        "folder.",
    )
